//! Text to settings: the command line and a TOML file in, checked plain data out.
//!
//! ```text
//! flags.rs  --.
//!              >-- raw.rs: text with places -- resolve.rs: parsed and checked --> settings.rs
//! file.rs   --'
//! ```

pub mod egress;
pub mod error;
pub mod exempt;
pub mod file;
pub mod flags;
pub mod networks;
pub mod profile;
pub mod publish;
pub mod raw;
pub mod resolve;
pub mod rule;
pub mod services;
pub mod settings;
pub mod show;
pub mod six;
pub mod translation;

pub use error::ConfigError;
pub use flags::RunFlags;
pub use profile::Profile;
pub use resolve::{check_name, default_control, resolve};
pub use settings::{
    GuardChoice, LogLevel, Lone, ProfiledRule, PublishSpec, SandboxChoice, Settings, TapChoice, TapOffload,
    UplinkChoice,
};
pub use show::Change;

use std::path::Path;

/// The settings that the options say, over those of the file they name. `runtime_dir` is
/// `$XDG_RUNTIME_DIR`.
///
/// # Errors
/// The first thing that is wrong with either.
pub fn load(flags: &RunFlags, runtime_dir: Option<&Path>) -> Result<Settings, ConfigError> {
    match &flags.config {
        Some(path) => over(flags, file::read(path)?, runtime_dir),
        None => resolve(&flags.raw()?, runtime_dir),
    }
}

/// The same over the text of a file, which errors call `name`; the file that the options name is not read.
///
/// # Errors
/// The first thing that is wrong with either.
pub fn load_text(
    flags: &RunFlags,
    name: &str,
    text: &str,
    runtime_dir: Option<&Path>,
) -> Result<Settings, ConfigError> {
    over(flags, file::parse(name, text)?, runtime_dir)
}

fn over(flags: &RunFlags, written: raw::Raw, runtime_dir: Option<&Path>) -> Result<Settings, ConfigError> {
    resolve(&flags.raw()?.over(written, &["tap", "tap-fd"]), runtime_dir)
}
