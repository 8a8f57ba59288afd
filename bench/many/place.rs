//! Where it is measured: host and internet, and the gateway of a user without capabilities with the
//! client behind it.

use crate::client;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tapnat::lab::netns::Lab;
use tapnat::lab::topology::{self, SERVERS, UPLINK};
use tempfile::TempDir;

/// Whose gateway it is, where this program is root's.
const USER: &str = "65534";

/// What the client says at its end.
#[derive(Default, Debug, Serialize, Deserialize)]
pub struct Said {
    /// Bytes of each connection.
    pub bytes: Vec<u64>,
    /// The hash of what was transferred.
    pub hash: String,
    /// How long that took.
    pub seconds: f64,
}

/// The lab, and the programs where everybody may run them.
pub struct Place {
    lab: Lab,
    folder: TempDir,
    root: bool,
    mtu: u32,
    who: RefCell<Option<String>>,
}

impl Place {
    /// Builds the lab.
    ///
    /// # Errors
    /// What could not be built.
    pub fn new(mtu: u32, root: bool) -> io::Result<Place> {
        let options = topology::Options { outside_mtu: mtu, ..topology::Options::default() };
        let mut topology = topology::standard(options);
        topology.hosts.retain(|host| ["host", "internet"].contains(&host.name));
        topology.wires.retain(|wire| wire.ends.iter().all(|end| ["host", "internet"].contains(&end.host)));
        let (lab, folder) = (Lab::build(&topology)?, tempfile::tempdir()?);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let place = Place { lab, folder, root, mtu, who: RefCell::new(None) };
        fs::copy(env!("CARGO_BIN_EXE_tapnat"), place.file("tapnat"))?;
        fs::copy(std::env::current_exe()?, place.file("many"))?;
        Ok(place)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A listener in the internet.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn listen(&self) -> io::Result<TcpListener> {
        let address: Ipv4Addr = SERVERS[0];
        self.lab.host("internet").run(|| TcpListener::bind((address, 0)))?
    }

    /// Starts a gateway, and behind it the client with these words.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&self, words: &[String]) -> io::Result<Gateway> {
        let mut command = Command::new("setpriv");
        if self.root {
            command.args([format!("--reuid={USER}"), format!("--regid={USER}")]).arg("--clear-groups");
        }
        command.args(["--inh-caps=-all", "--bounding-set=-all"]).arg(self.file("tapnat"));
        command.args(["exec", "--uplink", "sockets", "--outside", UPLINK, "--mtu", &self.mtu.to_string()]);
        command.arg("--").arg(self.file("many")).arg(client::WORD).args(words);
        command.env_remove("XDG_RUNTIME_DIR").current_dir(self.folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.lab.host("host").confine(&mut command);
        let mut child =
            command.spawn().map_err(|error| io::Error::new(error.kind(), format!("setpriv: {error}")))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = output.map(BufReader::new).ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Gateway { child: RefCell::new(child), input: RefCell::new(input), output: RefCell::new(output) })
    }

    /// Resident memory of the gateway in MiB: now, and at most so far. Notes who it is.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident(&self, gateway: &Gateway) -> io::Result<(f64, f64)> {
        let path = Path::new("/proc").join(gateway.child.borrow().id().to_string()).join("status");
        let status = fs::read_to_string(path)?;
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let mib = |name: &str| {
            let kib = line(name).split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
            kib.map(|kib| kib / 1024.0).ok_or_else(|| io::Error::other(format!("no {name} of the gateway")))
        };
        let word = |name: &str| line(name).split_whitespace().next().unwrap_or_default().to_owned();
        let (user, able, bound) = (word("Uid:"), word("CapEff:"), word("CapBnd:"));
        self.who.replace(Some(format!("user {user}, with capabilities {able} of at most {bound}")));
        Ok((mib("VmRSS:")?, mib("VmHWM:")?))
    }

    /// Whose the gateway was.
    pub fn who(&self) -> Option<String> {
        self.who.borrow().clone()
    }
}

/// A gateway with the client behind it; both end with this.
pub struct Gateway {
    child: RefCell<Child>,
    input: RefCell<Option<ChildStdin>>,
    output: RefCell<BufReader<ChildStdout>>,
}

impl Gateway {
    /// Waits until the client has said a line.
    ///
    /// # Errors
    /// It ended without one.
    pub fn wait_for_line(&self) -> io::Result<()> {
        match self.output.borrow_mut().read_line(&mut String::new())? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Tells the client to end.
    pub fn let_go(&self) {
        // Who is gone needs no telling.
        let _ = self.input.borrow_mut().take().map(|mut input| input.write_all(b"\n"));
    }

    /// What gateway and client have complained about; ends them.
    pub fn words(&self) -> String {
        let mut child = self.child.borrow_mut();
        let _ = child.kill();
        let mut said = String::new();
        if let Some(stream) = &mut child.stderr {
            let _ = stream.read_to_string(&mut said);
        }
        said.trim().to_owned()
    }

    /// Waits for the end; what the client says.
    ///
    /// # Errors
    /// It failed; what it complained about.
    pub fn end(self) -> io::Result<Said> {
        self.let_go();
        let mut text = String::new();
        self.output.borrow_mut().read_to_string(&mut text)?;
        let status = self.child.borrow_mut().wait()?;
        if !status.success() {
            return Err(io::Error::other(format!("{status}: {}", self.words())));
        }
        serde_json::from_str(text.trim()).map_err(io::Error::other)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}
