//! The system call filter round the monitor: the calls that a monitor makes in all of its life, each with the arguments
//! that it makes them with, as far as a filter can see them. Any other call ends the process with SIGSYS before the kernel
//! has looked at it.
//!
//! The list is that of the musl build, which is what hosts run; what the build of native tests adds stands apart
//! ([`GLIBC`]). How it was found, what it cannot hold, and how it is made longer: `docs/decisions/the-monitors-filter.md`.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use vmm_sys_util::signal::SIGRTMIN;

/// Calls that may be made with any argument: they reach only what the process holds already, or the argument is a pointer,
/// behind which a filter does not see.
const CALLS: &[c_long] = &[
    // Descriptors that came to it: disks' sizes, the kernel image, taps, events, state, its log.
    libc::SYS_read,
    // KVM's statistics of a vCPU, which have no position.
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_close,
    libc::SYS_poll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    // The state that it hands out.
    libc::SYS_memfd_create,
    // The control socket that it was born with, and the connections that come in on it.
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    // A disk's ring.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    // Its own memory; mmap and mprotect stand below.
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads, their stacks' guard, their waits, a wait that a stop of the process interrupted.
    libc::SYS_futex,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    // Whose threads are kicked.
    libc::SYS_getpid,
    // Time, where the kernel does not let it be read without a call (an emulated host); entropy for the guest and for maps.
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What only glibc calls: the binary of native tests.
#[cfg(target_env = "gnu")]
const GLIBC: &[c_long] = &[
    libc::SYS_epoll_wait,
    // Threads. The flags of clone3 lie behind a pointer.
    libc::SYS_clone3,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sched_getaffinity,
    libc::SYS_madvise,
];
#[cfg(not(target_env = "gnu"))]
const GLIBC: &[c_long] = &[];

/// The flags of clone(2) that make a thread of this process, as C libraries set them (`pthread_create.c` of musl, which adds
/// CLONE_DETACHED).
const THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

/// io_uring_register(2): IORING_REGISTER_FILES (`include/uapi/linux/io_uring.h`).
const REGISTER_FILES: i32 = 2;

/// setsockopt(2): SO_SNDTIMEO_NEW (`include/uapi/asm-generic/socket.h`).
const SEND_TIMEOUT: u32 = 67;

/// What an argument has to be: its low 32 bits under a mask. The kernel looks at no more of any argument that is named here.
#[derive(Clone, Copy)]
struct Argument {
    /// Which, from 0.
    index: u8,
    mask: u32,
    value: u32,
}

const fn is(index: u8, value: u32) -> Argument {
    Argument { index, mask: u32::MAX, value }
}

const fn with(index: u8, bits: i32) -> Argument {
    Argument { index, mask: bits.cast_unsigned(), value: bits.cast_unsigned() }
}

const fn without(index: u8, bits: i32) -> Argument {
    Argument { index, mask: bits.cast_unsigned(), value: 0 }
}

/// Calls that may be made in certain ways only; `own` is the number of this process.
fn restricted_calls(own: u32) -> Vec<(c_long, Vec<Vec<Argument>>)> {
    let number = |index: u8, values: &[i32]| -> Vec<Vec<Argument>> {
        values.iter().map(|value| vec![is(index, value.cast_unsigned())]).collect()
    };
    let ioctls = vmm::ioctls::REQUESTS.iter().chain(&vmm::ioctls::TAP_REQUESTS);
    let signals = [SIGRTMIN(), libc::SIGABRT];
    vec![
        (libc::SYS_ioctl, ioctls.map(|(_, request)| vec![is(1, *request)]).collect()),
        // Nothing becomes code that was not code when the process started.
        (libc::SYS_mmap, vec![vec![without(2, libc::PROT_EXEC)]]),
        (libc::SYS_mprotect, vec![vec![without(2, libc::PROT_EXEC)]]),
        // Threads, but no processes.
        (libc::SYS_clone, number(0, &[THREAD, THREAD | libc::CLONE_DETACHED])),
        (libc::SYS_prctl, number(0, &[libc::PR_SET_NAME])),
        // Kicks a vCPU, or aborts. Monitors share a user: none must reach another one's threads.
        (libc::SYS_tgkill, signals.map(|signal| vec![is(0, own), is(2, signal.cast_unsigned())]).to_vec()),
        // How musl aborts.
        (libc::SYS_tkill, number(1, &[libc::SIGABRT])),
        // F_SETFD: how musl duplicates. F_GETFD: a build for debugging looks at each descriptor before it closes it.
        (
            libc::SYS_fcntl,
            number(1, &[libc::F_DUPFD_CLOEXEC, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_GETFD]),
        ),
        // Its disks' locks, let go of in a move and taken back.
        (libc::SYS_flock, number(1, &[libc::LOCK_UN, libc::LOCK_EX | libc::LOCK_NB])),
        // The memory of a guest that is reset while it moves.
        (libc::SYS_fallocate, number(1, &[libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE])),
        // Of a descriptor; the path beside it is empty in each call of ours.
        (libc::SYS_statx, vec![vec![with(2, libc::AT_EMPTY_PATH)]]),
        // How long it waits for who asked to take an answer.
        (libc::SYS_setsockopt, vec![vec![is(1, libc::SOL_SOCKET.cast_unsigned()), is(2, SEND_TIMEOUT)]]),
        // The file behind a ring.
        (libc::SYS_io_uring_register, number(1, &[REGISTER_FILES])),
    ]
}

/// Puts this process, with every thread that it has or will have, under the filter. There is no way back.
///
/// # Errors
/// The kernel has no seccomp, or refuses.
pub fn install() -> io::Result<()> {
    // What is found out once, by calls that are on no list: how to ask for the time without a call, and, when a look at a file
    // first fails, whether the kernel knows the call for it.
    let _ = crate::journal::uptime();
    let _ = std::fs::metadata("");
    settle_allocator();
    let program = program(std::process::id()).map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
}

/// glibc's allocator looks into files before it makes one more heap for its threads, or gives some of one back. It is told
/// to do neither.
fn settle_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: both set a parameter of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

/// The filter of the process with this number.
fn program(own: u32) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    rules.extend(CALLS.iter().chain(GLIBC).map(|call| (*call, Vec::new())));
    for (call, ways) in restricted_calls(own) {
        rules.insert(call, ways.iter().map(|way| rule(way)).collect::<Result<_, _>>()?);
    }
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

fn rule(way: &[Argument]) -> Result<SeccompRule, BackendError> {
    let condition = |argument: &Argument| {
        let equal = SeccompCmpOp::MaskedEq(argument.mask.into());
        SeccompCondition::new(argument.index, SeccompCmpArgLen::Dword, equal, argument.value.into())
    };
    SeccompRule::new(way.iter().map(condition).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
    use std::os::fd::AsRawFd as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;
    use std::time::Instant;

    use super::*;
    use crate::role::RoleName;

    /// How a process ends that goes under the filter and does this.
    fn under_filter(work: impl FnOnce()) -> ExitStatus {
        under_filter_after(|| {}, work)
    }

    /// As [`under_filter`], with what is to be done before. Status 2 is that it cannot go under the filter.
    fn under_filter_after(prepare: impl FnOnce(), work: impl FnOnce()) -> ExitStatus {
        // SAFETY: the child goes on with this thread alone. Both C libraries leave their allocator usable in it, and of the
        // locks that other threads may have held it takes none but those that are taken for a moment (standard error's).
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: alarm(2) takes a number. A child that waits for a lock of a thread that it does not have ends here.
            unsafe { libc::alarm(60) };
            prepare();
            let status = if install().is_ok() {
                work();
                0
            } else {
                2
            };
            // SAFETY: ends the child without what libtest has registered.
            unsafe { libc::_exit(status) };
        }
        assert!(child > 0, "{}", io::Error::last_os_error());
        let mut status = 0;
        // SAFETY: `status` is an int that lives until the call returns.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        ExitStatus::from_raw(status)
    }

    fn call(number: c_long, arguments: [u64; 4]) {
        let [a, b, c, d] = arguments;
        // SAFETY: with the arguments below, a call that the filter lets through does nothing, or does it to a page of its own:
        // no address but 0 is given, and no process that there is.
        unsafe { libc::syscall(number, a, b, c, d, 0u64, 0u64) };
    }

    #[test]
    fn what_a_monitor_never_calls_ends_it() {
        let (exec, anonymous) = (libc::PROT_EXEC as u64, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64);
        // No process has this number.
        let nobody = i32::MAX as u64;
        let forbidden: [(&str, c_long, [u64; 4]); 24] = [
            ("a socket", libc::SYS_socket, [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, 0]),
            ("a connection", libc::SYS_connect, [0; 4]),
            ("a socket's other options", libc::SYS_setsockopt, [0, libc::SOL_SOCKET as u64, libc::SO_MARK as u64, 0]),
            ("a listener", libc::SYS_listen, [0; 4]),
            ("a file", libc::SYS_open, [0; 4]),
            ("a file below a folder", libc::SYS_openat, [0; 4]),
            ("a file, the newest way", libc::SYS_openat2, [0; 4]),
            ("a look at a path", libc::SYS_statx, [0; 4]),
            ("a program", libc::SYS_execve, [0; 4]),
            ("a process", libc::SYS_fork, [0; 4]),
            ("a process by clone", libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0]),
            ("a namespace", libc::SYS_clone, [(THREAD | libc::CLONE_NEWUSER) as u64, 0, 0, 0]),
            ("new code", libc::SYS_mmap, [0, 4096, exec | libc::PROT_READ as u64, anonymous]),
            ("data as code", libc::SYS_mprotect, [0, 0, exec, 0]),
            ("the memory of another process", libc::SYS_process_vm_readv, [nobody, 0, 0, 0]),
            ("another process under control", libc::SYS_ptrace, [libc::PTRACE_TRACEME as u64, 0, 0, 0]),
            ("a signal to a process", libc::SYS_kill, [nobody, 0, 0, 0]),
            ("a signal to another process's thread", libc::SYS_tgkill, [nobody, nobody, SIGRTMIN() as u64, 0]),
            ("a signal that is not its own", libc::SYS_tkill, [nobody, libc::SIGKILL as u64, 0, 0]),
            ("an ioctl of a terminal (TIOCSTI)", libc::SYS_ioctl, [0, 0x5412, 0, 0]),
            ("an ioctl of KVM that no machine makes (KVM_NMI)", libc::SYS_ioctl, [0, 0xae9a, 0, 0]),
            ("room on a disk", libc::SYS_fallocate, [0; 4]),
            ("itself made readable", libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1, 0, 0]),
            ("a ring's other powers", libc::SYS_io_uring_register, [0, 9, 0, 0]),
        ];
        for (what, number, arguments) in forbidden {
            let ended = under_filter(|| call(number, arguments));
            assert_eq!(ended.signal(), Some(libc::SIGSYS), "{what}: {ended}");
        }
    }

    #[test]
    fn threads_memory_time_and_files_at_hand_go_on_under_it() {
        let ended = under_filter(|| {
            let threads = (0..8).map(|n| std::thread::Builder::new().name(format!("t{n}")).spawn(grow_and_wait));
            let threads: Vec<_> = threads.collect::<io::Result<_>>().expect("threads");
            assert_eq!(threads.into_iter().map(|thread| thread.join().expect("joined")).sum::<usize>(), 8 * 300);
            let state = rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
            let mut state = std::fs::File::from(state);
            state.write_all(&[7; 70_000]).expect("written");
            assert_eq!(state.try_clone().expect("duplicated").metadata().expect("looked at").len(), 70_000);
            let _ = crate::journal::uptime();
            let _ = std::collections::HashMap::from([(1, 2)]);
        });
        assert!(ended.success(), "{ended}");
    }

    fn grow_and_wait() -> usize {
        let begun = Instant::now();
        let mut grown: Vec<Vec<u8>> = (1..=300).map(|n| vec![1; n * 97]).collect();
        grown.iter_mut().for_each(|one| one.resize(one.len() * 3, 2));
        let (lock, woken) = (std::sync::Mutex::new(()), std::sync::Condvar::new());
        let held = lock.lock().expect("not poisoned");
        let _ = woken.wait_timeout(held, std::time::Duration::from_millis(1));
        assert!(begun.elapsed() > std::time::Duration::ZERO);
        grown.len()
    }

    #[test]
    fn an_abort_under_it_is_an_abort() {
        let ended = under_filter(|| std::process::abort());
        assert_eq!(ended.signal(), Some(libc::SIGABRT), "{ended}");
    }

    #[test]
    fn a_panic_under_it_is_told_in_one_record_even_where_backtraces_are_wanted() {
        let (mut told, said): (PipeReader, PipeWriter) = std::io::pipe().expect("a pipe");
        let ended = under_filter_after(
            || {
                // SAFETY: this process has one thread.
                unsafe { std::env::set_var("RUST_BACKTRACE", "1") };
                // SAFETY: both descriptors are open.
                unsafe { libc::dup2(said.as_raw_fd(), libc::STDERR_FILENO) };
                crate::journal::install(RoleName::Vmm);
                crate::journal::record_panics();
            },
            || {
                let thread = std::thread::Builder::new().name("session".to_owned());
                let thread = thread.spawn(|| panic!("two\nlines")).expect("a thread");
                assert!(thread.join().is_err());
            },
        );
        drop(said);
        let mut text = String::new();
        told.read_to_string(&mut text).expect("read");
        assert!(ended.success(), "{ended}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(" vmm error: thread session: panicked at") && text.contains("two lines"), "{text}");
    }
}
