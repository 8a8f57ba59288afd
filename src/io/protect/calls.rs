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

/// What types into a terminal: TIOCSTI, TIOCLINUX (`include/uapi/asm-generic/ioctls.h`).
const TYPING: [u64; 2] = [0x5412, 0x541c];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Lets this process make the calls of the list alone; tells how many those are. `bpf` allows bpf(2)
/// too.
///
/// # Errors
/// `Unsupported` on processors that the filter is not written for; else the kernel's word.
pub fn confine(bpf: bool) -> io::Result<String> {
    // On others the handler of refused calls could not answer them.
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        let why = "filters are written for x86-64 and AArch64";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
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
    let rules = rules(bpf)?;
    let count = rules.len();
    Ok((compile(rules, SeccompAction::Trap, SeccompAction::Allow)?, count))
}

/// What is allowed, by number.
fn rules(bpf: bool) -> io::Result<Rules> {
    let listed = CALLS.iter().chain(OLDER).map(|(_, number, _)| (*number, Vec::new()));
    let mut rules: Rules = listed.collect();
    let families = FAMILIES.map(|family| argument(0, SeccompCmpOp::Eq, family as u64));
    rules.insert(libc::SYS_socket, families.into_iter().collect::<io::Result<_>>()?);
    // Memory is for data, never for code.
    let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![argument(2, executable.clone(), 0)?]);
    }
    // Devices, but not what types into a terminal that was there before.
    let other = |request: u64| SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, request);
    let typing = TYPING.into_iter().map(other).collect::<Result<Vec<_>, _>>().and_then(SeccompRule::new);
    rules.insert(libc::SYS_ioctl, vec![typing.map_err(io::Error::other)?]);
    // What they may not do is refused by filters of their own.
    rules.extend(FORKS.iter().map(|(_, number, _)| (*number, Vec::new())));
    rules.insert(libc::SYS_prctl, vec![argument(0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)?]);
    if bpf {
        rules.insert(libc::SYS_bpf, Vec::new());
    }
    Ok(rules)
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

    /// The numbers of the list on AArch64 (Linux, `scripts/syscall.tbl`).
    const AARCH64: &str = "
        read=63 readv=65 pread64=67 preadv=69 write=64 writev=66 pwrite64=68 pwritev=70 close=57
        close_range=436 dup=23 dup3=24 fcntl=25 ioctl=29 lseek=62 openat=56 fstat=80 newfstatat=79
        statx=291 faccessat=48 readlinkat=78 getdents64=61 unlinkat=35 ftruncate=46 fsync=82
        fdatasync=83 flock=32 getcwd=17 inotify_init1=26 inotify_add_watch=27 inotify_rm_watch=28
        socketpair=199 bind=200 connect=203 listen=201 accept=202 accept4=242 shutdown=210
        getsockname=204 getpeername=205 getsockopt=209 setsockopt=208 sendto=206 sendmsg=211
        sendmmsg=269 recvfrom=207 recvmsg=212 recvmmsg=243 epoll_create1=20 epoll_ctl=21
        epoll_pwait=22 epoll_pwait2=441 ppoll=73 pselect6=72 eventfd2=19 timerfd_create=85
        timerfd_settime=86 timerfd_gettime=87 pipe2=59 nanosleep=101 clock_nanosleep=115
        clock_gettime=113 clock_getres=114 gettimeofday=169 brk=214 munmap=215 mremap=216
        madvise=233 membarrier=283 futex=98 set_robust_list=99 rseq=293 gettid=178 sched_yield=124
        sched_getaffinity=123 set_tid_address=96 clone=220 clone3=435 exit=93 exit_group=94
        restart_syscall=128 rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139
        rt_sigtimedwait=137 sigaltstack=132 kill=129 tgkill=131 pidfd_open=434
        pidfd_send_signal=424 wait4=260 waitid=95 getpid=172 getppid=173 getuid=174 geteuid=175
        getgid=176 getegid=177 capget=90 getrandom=278 prlimit64=261 sysinfo=179 uname=160
        prctl=167 mmap=222 mprotect=226 socket=198 bpf=280";

    fn on_aarch64(name: &str) -> i64 {
        let named = |entry: &&str| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        let entry = AARCH64.split_whitespace().find(named).unwrap_or_else(|| panic!("{name} has no number"));
        entry[name.len() + 1..].parse().unwrap()
    }

    /// What a filter says of a call with these arguments: the few instructions that filters are made of.
    fn says(filter: &BpfProgram, processor: u32, number: i64, arguments: [u64; 6]) -> u32 {
        let mut data = [0_u8; 64];
        data[..4].copy_from_slice(&(number as i32).to_ne_bytes());
        data[4..8].copy_from_slice(&processor.to_ne_bytes());
        for (place, argument) in data[16..].chunks_exact_mut(8).zip(arguments) {
            place.copy_from_slice(&argument.to_ne_bytes());
        }
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let instruction = &filter[at];
            let (k, mut skip) = (instruction.k, 0);
            let branch = |taken: bool| usize::from(if taken { instruction.jt } else { instruction.jf });
            match u32::from(instruction.code) {
                0x20 => value = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
                0x54 => value &= k,
                0x05 => skip = k as usize,
                0x15 => skip = branch(value == k),
                0x25 => skip = branch(value > k),
                0x35 => skip = branch(value >= k),
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
            at += 1 + skip;
        }
    }

    /// The rules by AArch64's numbers let pass what they should there, and nothing else.
    #[test]
    fn the_filter_of_aarch64_knows_its_numbers() {
        const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
        let mut names: Vec<(i64, &str)> =
            CALLS.iter().map(|(name, number, _)| (*number, name.trim_start_matches("SYS_"))).collect();
        names.extend([
            (libc::SYS_prctl, "prctl"),
            (libc::SYS_mmap, "mmap"),
            (libc::SYS_mprotect, "mprotect"),
            (libc::SYS_socket, "socket"),
            (libc::SYS_bpf, "bpf"),
        ]);
        if cfg!(target_arch = "aarch64") {
            names.iter().for_each(|(number, name)| assert_eq!(*number, on_aarch64(name), "{name}"));
        }
        // Older forms have no counterpart, and need none.
        let known = |number: &i64| names.iter().find(|(known, _)| known == number).map(|(_, name)| *name);
        let moved = |(number, rule): (i64, Vec<SeccompRule>)| Some((on_aarch64(known(&number)?), rule));
        let rules: Rules = rules(true).unwrap().into_iter().filter_map(moved).collect();
        assert_eq!(rules.len(), names.len());
        let allowed: BTreeSet<i64> = rules.keys().copied().collect();
        let filter =
            SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, TargetArch::aarch64)
                .unwrap();
        let filter = BpfProgram::try_from(filter).unwrap();
        let asked = |number, arguments| says(&filter, AUDIT_ARCH_AARCH64, number, arguments);
        let (allow, trap) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_TRAP);
        for number in 0..500 {
            let inet = libc::AF_INET as u64;
            let argument = if number == on_aarch64("prctl") { libc::PR_SET_NAME as u64 } else { inet };
            let want = if allowed.contains(&number) { allow } else { trap };
            assert_eq!(asked(number, [argument, 0, 0, 0, 0, 0]), want, "call {number}");
        }
        let executable = [0, 4096, libc::PROT_EXEC as u64, 0, 0, 0];
        assert_eq!(asked(on_aarch64("mmap"), executable), trap, "memory that is run");
        for request in TYPING {
            assert_eq!(asked(on_aarch64("ioctl"), [0, request, 0, 0, 0, 0]), trap, "{request:#x}");
        }
        assert_eq!(asked(on_aarch64("socket"), [libc::AF_VSOCK as u64, 0, 0, 0, 0, 0]), trap);
        assert_ne!(says(&filter, 0xc000_003e, on_aarch64("read"), [0; 6]), allow, "a call of x86-64");
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
