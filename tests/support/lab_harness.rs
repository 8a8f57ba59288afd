//! A test harness for tests that must start before any thread does: it takes the process into
//! namespaces of its own, runs one test after another, and speaks like the standard harness.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use tapnat::io::sys::netns::enter_private;
use tapnat::lab::programs::now;

/// A test: its name, and what it does.
pub struct Test {
    pub name: String,
    pub run: Box<dyn Fn()>,
    /// Why this host cannot run it.
    pub impossible: Option<String>,
}

/// What the command line asks for. Words that only mean something to the standard harness are let pass.
struct Wish {
    list: bool,
    exact: bool,
    names: Vec<String>,
    skip: Vec<String>,
}

impl Wish {
    fn read() -> Wish {
        let mut wish = Wish { list: false, exact: false, names: Vec::new(), skip: Vec::new() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => wish.list = true,
                "--exact" => wish.exact = true,
                "--skip" => wish.skip.extend(words.next()),
                "--test-threads" | "--format" | "--color" | "-Z" => drop(words.next()),
                word if word.starts_with('-') => {}
                name => wish.names.push(name.to_owned()),
            }
        }
        wish
    }

    fn wants(&self, name: &str) -> bool {
        let matches =
            |wanted: &String| if self.exact { name == wanted } else { name.contains(wanted.as_str()) };
        (self.names.is_empty() || self.names.iter().any(matches)) && !self.skip.iter().any(matches)
    }
}

/// Whether the command line asks for the test of this name.
#[allow(dead_code, reason = "only some of the programs that share this file prepare several tests at a time")]
pub fn wants(name: &str) -> bool {
    Wish::read().wants(name)
}

/// Takes the process into namespaces of its own; says why if that cannot be.
fn enter() -> Result<(), String> {
    let root = rustix::process::geteuid().is_root();
    enter_private(!root).map_err(|error| error.to_string())?;
    let tun = File::options().read(true).write(true).open("/dev/net/tun");
    tun.map(drop).map_err(|error| format!("open /dev/net/tun: {error}"))
}

/// Runs the tests that the command line asks for.
pub fn main(tests: impl FnOnce() -> Vec<Test>) -> ExitCode {
    let wish = Wish::read();
    // Before any thread: a user namespace can only be entered by a process with one thread.
    let entered = if wish.list { Ok(()) } else { enter() };
    let all = tests();
    let total = all.len();
    let chosen: Vec<Test> = all.into_iter().filter(|test| wish.wants(&test.name)).collect();
    if wish.list {
        chosen.iter().for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    let start = now();
    println!("\nrunning {} tests", chosen.len());
    let (mut passed, mut failed, mut ignored) = (0, Vec::new(), 0);
    for test in &chosen {
        let impossible = entered.as_ref().err().or(test.impossible.as_ref());
        if let Some(reason) = impossible {
            println!("test {} ... ignored, skipped: {reason}", test.name);
            ignored += 1;
            continue;
        }
        let started = now();
        let outcome = catch_unwind(AssertUnwindSafe(&test.run));
        let took = (now() - started).as_secs_f64();
        match outcome {
            Ok(()) => {
                println!("test {} ... ok ({took:.2}s)", test.name);
                passed += 1;
            }
            Err(_) => {
                println!("test {} ... FAILED ({took:.2}s)", test.name);
                failed.push(&test.name);
            }
        }
    }
    if !failed.is_empty() {
        println!("\nfailures:");
        failed.iter().for_each(|name| println!("    {name}"));
    }
    let refused = ignored > 0 && std::env::var_os("CI").is_some();
    if refused {
        println!("\n{ignored} tests were skipped, and CI is set: nothing may be skipped there");
    }
    let bad = refused || !failed.is_empty();
    println!(
        "\ntest result: {}. {passed} passed; {} failed; {ignored} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if bad { "FAILED" } else { "ok" },
        failed.len(),
        total - chosen.len(),
        (now() - start).as_secs_f64(),
    );
    if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
