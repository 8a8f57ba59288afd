//! The system calls that a running gateway makes, each with its reason; all others are refused.
//!
//! A table names the calls that every processor has, another the older forms of x86-64; the numbers are the
//! C library's for the processor that is compiled for.
//!
//! The list is what `strace -c` showed of gateways of `tests/netns.rs` after their start (packet, raw,
//! tcx, reload), and what sockets, other C libraries and inotify need besides: it is wider than what
//! was observed. A call that is missing is
//! told with its number in the log and counted (`sandbox: refused-calls`); it gets its name from
//! `ausyscall NUMBER` and its line here.

use crate::io::sys::seccomp;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;
use std::io;

/// A table of system calls: name, number, reason.
macro_rules! calls {
    ($($name:ident $why:literal,)*) => { &[$((stringify!($name), libc::$name, $why)),*] };
}

/// Calls that are allowed whatever their arguments.
pub const CALLS: &[(&str, i64, &str)] = calls! {
    SYS_read "data",
    SYS_readv "data",
    SYS_pread64 "files",
    SYS_preadv "data",
    SYS_write "data",
    SYS_writev "data",
    SYS_pwrite64 "files",
    SYS_pwritev "data",
    SYS_close "descriptors",
    SYS_close_range "descriptors",
    SYS_dup "descriptors",
    SYS_dup3 "descriptors",
    SYS_fcntl "descriptors",
    SYS_ioctl "devices",
    SYS_lseek "files",
    SYS_openat "files",
    SYS_fstat "files",
    SYS_newfstatat "files",
    SYS_statx "files",
    SYS_faccessat "files",
    SYS_readlinkat "files",
    SYS_getdents64 "files",
    SYS_unlinkat "files",
    SYS_ftruncate "files",
    SYS_fsync "files",
    SYS_fdatasync "files",
    SYS_flock "files",
    SYS_getcwd "files",
    SYS_inotify_init1 "watching",
    SYS_inotify_add_watch "watching",
    SYS_inotify_rm_watch "watching",
    SYS_socketpair "sockets",
    SYS_bind "sockets",
    SYS_connect "sockets",
    SYS_listen "sockets",
    SYS_accept "sockets",
    SYS_accept4 "sockets",
    SYS_shutdown "sockets",
    SYS_getsockname "sockets",
    SYS_getpeername "sockets",
    SYS_getsockopt "sockets",
    SYS_setsockopt "sockets",
    SYS_sendto "sockets",
    SYS_sendmsg "sockets",
    SYS_sendmmsg "sockets",
    SYS_recvfrom "sockets",
    SYS_recvmsg "sockets",
    SYS_recvmmsg "sockets",
    SYS_epoll_create1 "waiting",
    SYS_epoll_ctl "waiting",
    SYS_epoll_pwait "waiting",
    SYS_epoll_pwait2 "waiting",
    SYS_ppoll "waiting",
    SYS_pselect6 "waiting",
    SYS_eventfd2 "waiting",
    SYS_timerfd_create "waiting",
    SYS_timerfd_settime "waiting",
    SYS_timerfd_gettime "waiting",
    SYS_pipe2 "waiting",
    SYS_nanosleep "time",
    SYS_clock_nanosleep "time",
    SYS_clock_gettime "time",
    SYS_clock_getres "time",
    SYS_gettimeofday "time",
    SYS_brk "memory",
    SYS_munmap "memory",
    SYS_mremap "memory",
    SYS_madvise "memory",
    SYS_membarrier "threads",
    SYS_futex "threads",
    SYS_set_robust_list "threads",
    SYS_rseq "threads",
    SYS_gettid "threads",
    SYS_sched_yield "threads",
    SYS_sched_getaffinity "threads",
    SYS_set_tid_address "threads",
    SYS_clone "threads",
    SYS_clone3 "threads",
    SYS_exit "threads",
    SYS_exit_group "end",
    SYS_restart_syscall "signals",
    SYS_rt_sigaction "signals",
    SYS_rt_sigprocmask "signals",
    SYS_rt_sigreturn "signals",
    SYS_rt_sigtimedwait "signals",
    SYS_sigaltstack "signals",
    SYS_kill "signals",
    SYS_tgkill "signals",
    SYS_pidfd_open "children",
    SYS_pidfd_send_signal "children",
    SYS_wait4 "children",
    SYS_waitid "children",
    SYS_getpid "facts",
    SYS_getppid "facts",
    SYS_getuid "facts",
    SYS_geteuid "facts",
    SYS_getgid "facts",
    SYS_getegid "facts",
    SYS_capget "facts",
    SYS_getrandom "facts",
    SYS_prlimit64 "facts",
    SYS_sysinfo "facts",
    SYS_uname "facts",
};

/// The older forms of some, which other processors do not have.
#[cfg(target_arch = "x86_64")]
pub const OLDER: &[(&str, i64, &str)] = calls! {
    SYS_open "files",
    SYS_stat "files",
    SYS_lstat "files",
    SYS_access "files",
    SYS_readlink "files",
    SYS_unlink "files",
    SYS_dup2 "descriptors",
    SYS_poll "waiting",
    SYS_epoll_wait "waiting",
    SYS_time "time",
    SYS_getrlimit "facts",
};

/// The older forms of some, which this processor does not have.
#[cfg(not(target_arch = "x86_64"))]
pub const OLDER: &[(&str, i64, &str)] = &[];

/// Older forms of clone(2), which make processes.
#[cfg(target_arch = "x86_64")]
const FORKS: &[(&str, i64, &str)] = calls! { SYS_fork "refused", SYS_vfork "refused", };

/// Older forms of clone(2), which this processor does not have.
#[cfg(not(target_arch = "x86_64"))]
const FORKS: &[(&str, i64, &str)] = &[];

/// Families that a socket may be of.
const FAMILIES: [i32; 5] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Lets this process make the calls of the list alone; tells how many those are. `bpf` allows bpf(2)
/// too.
///
/// # Errors
/// `Unsupported` on processors that the filter is not written for; else the kernel's word.
pub fn confine(bpf: bool) -> io::Result<String> {
    let (filter, count) = filter(bpf)?;
    let filters = [no_processes()?, no_clone3()?, filter];
    seccomp::catch()?;
    filters.iter().try_for_each(|filter| seccomp::install(filter))?;
    Ok(format!("{count} system calls"))
}

/// The C library starts programs with all signals blocked, where one that is trapped would end the
/// process: these calls fail quietly.
fn no_processes() -> io::Result<BpfProgram> {
    let mut rules: Rules = FORKS.iter().map(|(_, number, _)| (*number, Vec::new())).collect();
    let thread = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64);
    rules.insert(libc::SYS_clone, vec![argument(0, thread, 0)?]);
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))
}

/// The C library tries clone3(2), whose arguments no filter can see, and then clone(2).
fn no_clone3() -> io::Result<BpfProgram> {
    let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

fn filter(bpf: bool) -> io::Result<(BpfProgram, usize)> {
    let listed = CALLS.iter().chain(OLDER).map(|(_, number, _)| (*number, Vec::new()));
    let mut rules: Rules = listed.collect();
    let families = FAMILIES.map(|family| argument(0, SeccompCmpOp::Eq, family as u64));
    rules.insert(libc::SYS_socket, families.into_iter().collect::<io::Result<_>>()?);
    // Memory is for data, never for code.
    let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![argument(2, executable.clone(), 0)?]);
    }
    // What they may not do is refused by filters of their own.
    rules.extend(FORKS.iter().map(|(_, number, _)| (*number, Vec::new())));
    rules.insert(libc::SYS_prctl, vec![argument(0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)?]);
    if bpf {
        rules.insert(libc::SYS_bpf, Vec::new());
    }
    let count = rules.len();
    Ok((compile(rules, SeccompAction::Trap, SeccompAction::Allow)?, count))
}

fn argument(index: u8, test: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, test, value);
    condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(io::Error::other)
}

fn compile(rules: Rules, otherwise: SeccompAction, listed: SeccompAction) -> io::Result<BpfProgram> {
    let unsupported = |error| io::Error::new(io::ErrorKind::Unsupported, error);
    let processor = TargetArch::try_from(std::env::consts::ARCH).map_err(unsupported)?;
    let filter = SeccompFilter::new(rules, otherwise, listed, processor).map_err(io::Error::other)?;
    BpfProgram::try_from(filter).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What older forms on x86-64 are on other processors, which have the newer alone.
    const NEWER: [(&str, &str); 11] = [
        ("SYS_open", "SYS_openat"),
        ("SYS_stat", "SYS_newfstatat"),
        ("SYS_lstat", "SYS_newfstatat"),
        ("SYS_access", "SYS_faccessat"),
        ("SYS_readlink", "SYS_readlinkat"),
        ("SYS_unlink", "SYS_unlinkat"),
        ("SYS_dup2", "SYS_dup3"),
        ("SYS_poll", "SYS_ppoll"),
        ("SYS_epoll_wait", "SYS_epoll_pwait"),
        ("SYS_time", "SYS_clock_gettime"),
        ("SYS_getrlimit", "SYS_prlimit64"),
    ];

    /// The list is made from what the tests call on one processor; another must lack nothing of it.
    #[test]
    fn what_is_possible_on_one_processor_is_so_on_the_other() {
        let listed = |name: &str| CALLS.iter().any(|(known, ..)| *known == name);
        for (older, newer) in NEWER {
            assert!(listed(newer) && !listed(older), "{older} {newer}");
        }
        let known = |older: &&(&str, i64, &str)| NEWER.iter().any(|(name, _)| *name == older.0);
        assert_eq!(OLDER.iter().find(|older| !known(older)), None);
    }

    #[test]
    fn the_list_compiles_names_nothing_twice_and_starts_no_programs() {
        let numbers: BTreeSet<i64> = CALLS.iter().chain(OLDER).map(|(_, number, _)| *number).collect();
        assert_eq!(numbers.len(), CALLS.len() + OLDER.len());
        for never in [libc::SYS_execve, libc::SYS_ptrace, libc::SYS_mount, libc::SYS_bpf, libc::SYS_setns] {
            assert!(!numbers.contains(&never), "{never}");
        }
        let (with, without) = (filter(true).unwrap(), filter(false).unwrap());
        assert_eq!(with.1, without.1 + 1);
        assert!(with.0.len() < 4096, "the kernel takes no longer one");
    }
}
