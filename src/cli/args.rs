//! Options that several verbs share: which gateway, which flows.

use crate::config::{check_name, default_control};
use crate::control::{Client, ClientError};
use crate::observe::Filter;
use crate::observe::filter::{EndpointMatch, ProtocolMatch, StateMatch};
use std::path::{Path, PathBuf};

/// `$XDG_RUNTIME_DIR`, where control sockets are.
pub fn runtime_dir() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)
}

/// Which running gateway.
#[derive(clap::Args, Clone, Debug)]
pub struct GatewayArgs {
    /// Instance name, as given to `tapnat run`
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = instance)]
    pub name: String,
    /// Its control socket [default: tapnat/NAME.sock in $XDG_RUNTIME_DIR or /run]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

fn instance(name: &str) -> Result<String, &'static str> {
    check_name(name).map(|()| name.to_owned())
}

impl GatewayArgs {
    /// Connects to it.
    ///
    /// # Errors
    /// It is not there.
    pub fn connect(&self) -> Result<Client, ClientError> {
        match &self.control {
            Some(path) => Client::connect(path),
            None => Client::connect(&self.default_path(runtime_dir().as_deref())),
        }
    }

    fn default_path(&self, runtime_dir: Option<&Path>) -> PathBuf {
        default_control(&self.name, runtime_dir)
    }
}

/// Which flows.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub struct FilterArgs {
    /// Only this protocol: tcp, udp, icmp or an IP protocol number
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<ProtocolMatch>,
    /// Only of this inside host: ADDRESS, ADDRESS:PORT or a prefix
    #[arg(long, value_name = "WHO")]
    pub inside: Option<EndpointMatch>,
    /// Only with this outside endpoint: ADDRESS, ADDRESS:PORT or a prefix
    #[arg(long, value_name = "WHO")]
    pub outside: Option<EndpointMatch>,
    /// Only with this remote: ADDRESS, ADDRESS:PORT or a prefix
    #[arg(long, value_name = "WHO")]
    pub remote: Option<EndpointMatch>,
    /// Only with this port on any of the three
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only in this state: opening, established, inside-closed, remote-closed, closing, reset (TCP),
    /// answered, unanswered (others)
    #[arg(long, value_name = "STATE")]
    pub state: Option<StateMatch>,
}

impl FilterArgs {
    /// The filter.
    pub fn filter(&self) -> Filter {
        Filter {
            protocol: self.protocol,
            inside: self.inside,
            outside: self.outside,
            remote: self.remote,
            port: self.port,
            state: self.state,
        }
    }
}
