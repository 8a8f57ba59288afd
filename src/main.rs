//! The `tapnat` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    tapnat::cli::main()
}
