//! Installs a filter of system calls, and catches what it refuses.
//!
//! The filter answers a call that is not allowed with SIGSYS. The handler here counts it, notes its
//! number, and has the call fail with EPERM: the program goes on as if the host had said no, and
//! somebody can be told which call it was.

use seccompiler::sock_filter;
use std::ffi::{c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

static REFUSED: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicI64 = AtomicI64::new(-1);

/// `struct sock_fprog` of <linux/filter.h>.
#[repr(C)]
struct Program {
    length: u16,
    filter: *const sock_filter,
}

/// The head of `siginfo_t` as SIGSYS has it (sigaction(2)).
#[repr(C)]
struct CallInfo {
    head: [c_int; 3],
    address: *const c_void,
    call: c_int,
}

/// Has calls that a filter traps fail with EPERM from now on, and counts them.
///
/// # Errors
/// The kernel's word.
pub fn catch() -> io::Result<()> {
    // SAFETY: all zero is a valid sigaction: default action, no flags, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = refuse as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and uses nothing that is not
    // safe in a signal handler.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn refuse(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a siginfo_t of SIGSYS, which begins like `CallInfo`.
    let call = unsafe { (*info.cast::<CallInfo>()).call };
    LAST.store(i64::from(call), Ordering::Relaxed);
    REFUSED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: with SA_SIGINFO the kernel hands the interrupted context as `ucontext_t`; what is
    // written there is the register that holds the result of a system call.
    unsafe { answer(&mut *context.cast::<libc::ucontext_t>(), -libc::EPERM) };
}

#[cfg(target_arch = "x86_64")]
fn answer(context: &mut libc::ucontext_t, result: c_int) {
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = i64::from(result);
}

#[cfg(target_arch = "aarch64")]
fn answer(context: &mut libc::ucontext_t, result: c_int) {
    context.uc_mcontext.regs[0] = i64::from(result) as u64;
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn answer(_context: &mut libc::ucontext_t, _result: c_int) {}

/// How many calls were refused in this process, and the number of the last one.
pub fn refused() -> (u64, Option<i64>) {
    let last = LAST.load(Ordering::Relaxed);
    (REFUSED.load(Ordering::Relaxed), (last >= 0).then_some(last))
}

/// Whether the kernel knows filters of system calls.
pub fn is_known() -> bool {
    // SAFETY: with a null pointer nothing is installed: the kernel answers EFAULT if it knows filters.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::null::<Program>())
    };
    answer < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Puts `filter` on all threads of the process, for good. They must not gain privileges by execve(2).
///
/// # Errors
/// `InvalidInput` for an empty or too long filter, `ESRCH` if a thread has a filter of its own; else
/// the kernel's word.
pub fn install(filter: &[sock_filter]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = Program { length, filter: filter.as_ptr() };
    // SAFETY: the kernel copies the program, whose length is right, and keeps no pointer.
    let answer = unsafe {
        let flags = libc::SECCOMP_FILTER_FLAG_TSYNC;
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    match answer {
        0 => Ok(()),
        // The id of the thread that could not follow.
        1.. => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        _ => Err(io::Error::last_os_error()),
    }
}
