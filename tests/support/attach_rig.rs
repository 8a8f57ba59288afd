//! What the tests of `attach` and `exec` share: the lab, processes in namespaces, and commands that
//! are waited for.

use crate::lab_setup::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::Duration;
use tapnat::io::sys::netns::Netns;
use tapnat::lab::product::Product;
use tapnat::lab::programs::{http, now};
use tapnat::lab::topology::{Options, SERVERS, UPLINK};

/// The namespace's address where nothing else is said.
pub const GUEST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 0, 2, 100);

/// A lab whose host has a gateway to start on.
pub struct Rig {
    pub world: World,
}

impl Rig {
    pub fn new() -> Rig {
        Rig { world: World::new(Options::default()) }
    }

    pub fn host(&self) -> &Netns {
        self.world.on("host")
    }

    /// A file of this test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.world.folder.path().join(name)
    }

    /// The words of a gateway's command line that every test wants.
    pub fn words(&self, verb: &str, more: &[&str]) -> Vec<String> {
        let control = self.world.control();
        let own = [("--control", control.to_str().unwrap()), ("--outside", UPLINK), ("--guard", "hold")];
        let mut words = vec![verb.to_owned()];
        // What a test says itself stands.
        for (name, value) in own.into_iter().filter(|(name, _)| !more.contains(name)) {
            words.extend([name.to_owned(), value.to_owned()]);
        }
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    }

    /// A gateway that serves a namespace.
    pub fn attach(&self, more: &[&str]) -> Gateway {
        let words = self.words("attach", more);
        let started = Product::start(PROGRAM.as_ref(), self.host(), &words, SOON * 2);
        Gateway(started.unwrap_or_else(|error| panic!("the gateway did not start: {error}")))
    }

    /// What an attachment that cannot be says, which is one line.
    pub fn refused(&self, more: &[&str]) -> String {
        let output = self.run(self.program("attach", more));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{more:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{more:?}: {said}");
        assert!(said.starts_with("tapnat: "), "{said}");
        said
    }

    /// The gateway as a command on the host.
    pub fn program(&self, verb: &str, more: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(self.words(verb, more));
        command
    }

    /// Runs a command on the host to its end.
    pub fn run(&self, command: Command) -> Output {
        finish(self.spawn(command), LATER)
    }

    /// Starts a command on the host.
    pub fn spawn(&self, mut command: Command) -> Child {
        self.host().confine(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Runs `exec` with options and a command.
    pub fn exec(&self, options: &[&str], command: &[&str]) -> Output {
        let words: Vec<&str> = options.iter().chain(&["--"]).chain(command).copied().collect();
        self.run(self.program("exec", &words))
    }
}

/// Waits for the end of a child whose output is short.
pub fn finish(mut child: Child, timeout: Duration) -> Output {
    let deadline = now() + timeout;
    while child.try_wait().unwrap().is_none() {
        if now() > deadline {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("not ended within {timeout:?}: {output:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// A process that only is there, in a namespace, until it is killed or dropped.
pub struct Inhabitant(pub Child);

impl Inhabitant {
    pub fn of(netns: &Netns) -> Inhabitant {
        let mut command = Command::new("sleep");
        command.arg("1000");
        netns.confine(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Inhabitant(command.spawn().unwrap())
    }

    pub fn pid(&self) -> String {
        self.0.id().to_string()
    }

    pub fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Inhabitant {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a signal to a child.
pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Whether a process of this number runs; one that nobody has waited for does not.
pub fn runs(pid: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat"));
    state.is_ok_and(|text| !text.contains(") Z "))
}

/// This program, as a command that fetches a page of the lab's server.
pub fn fetching() -> String {
    std::env::current_exe().unwrap().to_str().unwrap().to_owned()
}

/// Fetches the page and prints it: the client's address as the server sees it.
pub fn fetch() -> ExitCode {
    match http::get(at(SERVERS[0], 80), "/", SOON) {
        Ok(response) => {
            std::io::stdout().write_all(&response.body).unwrap();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("fetch: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves one client at port 80 and prints its address.
pub fn serve() -> ExitCode {
    let listener = std::net::TcpListener::bind(("0.0.0.0", 80)).unwrap();
    println!("up");
    let (mut stream, peer) = listener.accept().unwrap();
    println!("{}", peer.ip());
    stream.write_all(b"from inside").unwrap();
    ExitCode::SUCCESS
}

/// Looks a name up as programs do, and prints an address.
pub fn resolve() -> ExitCode {
    let name = std::env::args().nth(2).unwrap();
    match std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 80)) {
        Ok(mut found) => {
            println!("{}", found.next().unwrap().ip());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("resolve: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads from a child until it has said `mark`; all that it has said by then.
pub fn read_until(from: &mut (impl Read + AsFd), mark: &str) -> String {
    let mut said = Vec::new();
    let mut byte = [0];
    let deadline = now() + SOON * 2;
    loop {
        let text = String::from_utf8_lossy(&said).into_owned();
        if text.contains(mark) {
            return text;
        }
        let left = Timespec::try_from(deadline.saturating_duration_since(now())).unwrap();
        let ready = poll(&mut [PollFd::new(&*from, PollFlags::IN)], Some(&left)).unwrap();
        assert!(ready > 0 && from.read(&mut byte).unwrap() > 0, "no `{mark}` in: {text}");
        said.push(byte[0]);
    }
}
