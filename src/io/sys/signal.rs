//! Signals that are waited for instead of interrupting, with who sent them.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Signals that are blocked, in the thread that blocked them and those that it starts afterwards.
#[derive(Clone, Copy, Debug)]
pub struct Blocked {
    set: libc::sigset_t,
}

/// A signal that has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caught {
    /// Its number.
    pub signal: i32,
    /// The process that sent it; `None` for the kernel, as when a key of the terminal was pressed,
    /// which every process of the terminal's foreground is told.
    pub sender: Option<i32>,
}

impl Blocked {
    /// Blocks signals. Nothing is undone when this is dropped.
    ///
    /// # Errors
    /// `EINVAL` if there is no signal of a number.
    pub fn new(signals: &[i32]) -> io::Result<Blocked> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset writes a whole set.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in signals {
            // SAFETY: the set is one, and its address is valid.
            if unsafe { libc::sigaddset(&raw mut set, *signal) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: the set is one; the old mask is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } {
            0 => Ok(Blocked { set }),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Waits for one of them.
    ///
    /// # Errors
    /// The kernel's word; interruptions are none.
    pub fn wait(&self) -> io::Result<Caught> {
        loop {
            let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
            // SAFETY: the set is one, and the kernel writes one `siginfo_t`.
            let signal = unsafe { libc::sigwaitinfo(&raw const self.set, info.as_mut_ptr()) };
            if signal < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            // SAFETY: it was zeroed, then written by the kernel.
            let info = unsafe { info.assume_init() };
            let by_process = info.si_code <= 0;
            // SAFETY: with such a code, the sender's number is in the structure.
            let sender = by_process.then(|| unsafe { info.si_pid() });
            return Ok(Caught { signal, sender });
        }
    }
}
