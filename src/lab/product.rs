//! The real gateway, as a child process in a lab's namespace.

use crate::io::sys::netns::{Netns, inherit};
use crate::lab::programs::now;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Lines kept of what it says.
const KEEP_LINES: usize = 10_000;

/// A running gateway. It is killed when this is dropped, and by the kernel when the thread that
/// started it ends.
#[derive(Debug)]
pub struct Product {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    listener: Option<JoinHandle<()>>,
}

impl Product {
    /// Starts `program` with `arguments` inside `netns`, adds `--ready-fd`, and waits until packets
    /// can flow.
    ///
    /// # Errors
    /// If it could not be started, ended early, or was not ready in time. The text holds what it said.
    pub fn start(
        program: &Path,
        netns: &Netns,
        arguments: &[impl AsRef<OsStr>],
        timeout: Duration,
    ) -> io::Result<Product> {
        let (mut ready, writer) = io::pipe()?;
        let mut command = Command::new(program);
        command.args(arguments).arg("--ready-fd").arg(writer.as_raw_fd().to_string());
        inherit(&mut command, writer.into());
        let mut product = Product::launch(command, netns)?;
        let deadline = now() + timeout;
        let left = deadline.saturating_duration_since(now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 60, tv_nsec: 0 });
        let mut fds = [PollFd::new(&ready, PollFlags::IN)];
        if poll(&mut fds, Some(&left))? == 0 {
            let _ = product.child.kill();
            product.finish();
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("not ready in time; it said: {}", product.said()),
            ));
        }
        let mut line = String::new();
        ready.read_to_string(&mut line)?;
        if line.ends_with('\n') {
            return Ok(product);
        }
        let status = product.wait(Duration::from_secs(5))?;
        Err(io::Error::other(format!(
            "ended before it was ready ({}); it said: {}",
            words(status),
            product.said()
        )))
    }

    /// Starts `program` with `arguments` inside `netns` and does not wait for anything.
    ///
    /// # Errors
    /// If it could not be started.
    pub fn start_unready(
        program: &Path,
        netns: &Netns,
        arguments: &[impl AsRef<OsStr>],
    ) -> io::Result<Product> {
        let mut command = Command::new(program);
        command.args(arguments);
        Product::launch(command, netns)
    }

    fn launch(mut command: Command, netns: &Netns) -> io::Result<Product> {
        netns.confine(&mut command);
        // What a person types to interrupt the lab is not meant for the gateway.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // The command still holds the descriptors that the child inherited.
        drop(command);
        let said = Arc::new(Mutex::new(Vec::new()));
        let listener = child.stderr.take().map(|stderr| {
            let said = Arc::clone(&said);
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    if said.len() < KEEP_LINES {
                        said.push(line);
                    }
                }
            })
        });
        Ok(Product { child, said, listener })
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far on standard error.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until it has ended; `None` if it has not in time.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.finish();
                return Ok(Some(status));
            }
            if now() >= deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to end, and waits; `None` if it has not in time.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn terminate(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        self.wait(timeout)
    }

    /// Kills it, without a chance to clean up.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.finish();
        Ok(())
    }

    fn finish(&mut self) {
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.finish();
    }
}

fn words(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "still running".to_string(), |status| status.to_string())
}
