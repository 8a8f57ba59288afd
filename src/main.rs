//! The `tapnat` program.

use clap::Parser;
use tapnat::config::flags::RunFlags;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}
#[derive(clap::Subcommand)]
enum Verb {
    Run(RunFlags),
}

fn main() {
    let Verb::Run(flags) = Cli::parse().verb;
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let settings = tapnat::config::load(&flags, None).unwrap_or_else(|e| {
        eprintln!("tapnat: {e}");
        std::process::exit(1)
    });
    if let Err(e) = tapnat::runtime::run(&settings) {
        eprintln!("tapnat: {e:#}");
        std::process::exit(1)
    }
}
