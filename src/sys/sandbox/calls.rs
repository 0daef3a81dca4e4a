//! Which system calls each part of hushwire makes. Whatever is not here is refused to it.
//!
//! The lists are those of the C libraries that it is built with (glibc, musl), on x86_64 and on aarch64,
//! which has no call that has a newer form. A call that only gives away what is the caller's own already
//! (memory, time, descriptors) is in every list; one that reaches something else stands where it is needed.

use super::filter::{Argument, Filter, argument, masked};

/// Memory, time, locks, signals of its own, the end: every thread's daily bread.
const DAILY: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_ppoll,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendto,
    libc::SYS_futex,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_membarrier,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // It can only make a filter narrower.
    libc::SYS_seccomp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// Files, descriptors and sockets: what an event loop with a resolver beside it does.
const CONTROL: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_umask,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_close_range,
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_shutdown,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_signalfd4,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_getppid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_prlimit64,
    libc::SYS_sched_getattr,
    libc::SYS_sched_setattr,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_pidfd_open,
    libc::SYS_capget,
    // A resolver's plug-in is code from a file (glibc's name service switch).
    libc::SYS_mmap,
    libc::SYS_mprotect,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getdents,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_create,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_eventfd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
];

/// Of a descriptor: without waiting, how much waits, closed on exec, whether it is a terminal; of a TUN what
/// an adopted one is.
#[allow(clippy::unnecessary_cast, reason = "the type differs from libc to libc")]
const IOCTLS: &[u64] = &[
    libc::FIONBIO as u64,
    libc::FIONREAD as u64,
    libc::FIOCLEX as u64,
    libc::TCGETS as u64,
    libc::TIOCGWINSZ as u64,
    libc::TUNGETIFF as u64,
    libc::TUNSETOFFLOAD as u64,
    libc::TUNSETVNETHDRSZ as u64,
];

/// What the kernel calls the bits of socket(2)'s second argument that are not flags: `SOCK_TYPE_MASK`.
const KIND: u32 = 0xf;

/// Everything but the packets, in the threads of the control plane.
pub(super) fn control_plane(helper: Option<u32>, follows: bool) -> Filter {
    let mut filter = Filter::new().allow(DAILY).allow(CONTROL);
    filter = allow_threads(allow_ioctls(allow_udp(allow_end(filter))));
    filter = allow_routing(filter);
    for family in [libc::AF_INET, libc::AF_INET6] {
        filter = filter.allow_if(libc::SYS_socket, &of_kind(family, libc::SOCK_STREAM));
    }
    let local = [argument(0, libc::AF_UNIX as u32)];
    filter = filter.allow_if(libc::SYS_socket, &local).allow_if(libc::SYS_socketpair, &local);
    // A thread has the lists of who started it as well.
    filter = allow_slices(filter);
    if let Some(helper) = helper {
        filter = filter.allow_if(libc::SYS_kill, &[argument(0, helper)]);
    }
    if follows {
        let network = [argument(1, libc::CLONE_NEWNET as u32)];
        filter = filter
            .allow_if(libc::SYS_setns, &network)
            .allow_if(libc::SYS_ioctl, &[argument(1, libc::TUNGETDEVNETNS as u32)]);
    }
    filter
}

/// Packets: what is open is read and written; a UDP socket is connected to a peer that stays where it is.
pub(super) fn packet_loop() -> Filter {
    let more = [libc::SYS_bind, libc::SYS_connect, libc::SYS_setsockopt, libc::SYS_fcntl];
    let filter = Filter::new().allow(DAILY).allow(&more);
    allow_slices(allow_data(allow_udp(allow_end(filter))))
}

/// Attaching: the TUN device, netlink for routes and for the guard, and a thread that enters a namespace.
pub(super) fn attacher() -> Filter {
    let filter = Filter::new().allow(DAILY).allow(CONTROL);
    let filter = allow_routing(allow_threads(allow_ioctls(allow_end(filter))));
    // The guard's rules.
    let netfilter =
        [argument(0, libc::AF_NETLINK as u32), argument(2, libc::NETLINK_NETFILTER as u32)];
    let filter = filter.allow_if(libc::SYS_socket, &netfilter);
    [libc::TUNSETIFF, libc::TUNSETPERSIST, libc::TUNGETDEVNETNS, libc::NS_GET_NSTYPE]
        .into_iter()
        .fold(filter, |filter, request| {
            filter.allow_if(libc::SYS_ioctl, &[argument(1, request as u32)])
        })
        .allow_if(libc::SYS_setns, &[argument(1, libc::CLONE_NEWNET as u32)])
        // It gives up its rights later on.
        .allow(&[libc::SYS_capset])
        .allow_if(libc::SYS_prctl, &[argument(0, libc::PR_SET_DUMPABLE as u32)])
        .allow_if(libc::SYS_prctl, &[argument(0, libc::PR_CAP_AMBIENT as u32)])
}

/// Holding a descriptor, and handing it to who may ask for it.
pub(super) fn keeper() -> Filter {
    allow_data(allow_end(Filter::new().allow(DAILY)))
        .allow(&[
            libc::SYS_accept4,
            libc::SYS_shutdown,
            libc::SYS_setsockopt,
            libc::SYS_signalfd4,
            libc::SYS_fcntl,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_unlinkat,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lstat,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink,
        ])
        .allow_if(libc::SYS_ioctl, &[argument(1, libc::FIONBIO as u32)])
}

/// Threads that share everything, and neither a process nor a namespace.
fn allow_threads(filter: Filter) -> Filter {
    const LOOKED_AT: u32 = (libc::CLONE_THREAD
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET) as u32;
    filter.allow_if(libc::SYS_clone, &[masked(0, LOOKED_AT, libc::CLONE_THREAD as u32)])
}

fn allow_ioctls(filter: Filter) -> Filter {
    IOCTLS.iter().fold(filter, |filter, &request| {
        filter.allow_if(libc::SYS_ioctl, &[argument(1, request as u32)])
    })
}

fn allow_udp(filter: Filter) -> Filter {
    [libc::AF_INET, libc::AF_INET6].into_iter().fold(filter, |filter, family| {
        filter.allow_if(libc::SYS_socket, &of_kind(family, libc::SOCK_DGRAM))
    })
}

fn allow_routing(filter: Filter) -> Filter {
    let routing = [argument(0, libc::AF_NETLINK as u32), argument(2, libc::NETLINK_ROUTE as u32)];
    filter.allow_if(libc::SYS_socket, &routing)
}

fn of_kind(family: libc::c_int, kind: libc::c_int) -> [Argument; 2] {
    [argument(0, family as u32), masked(1, KIND, kind as u32)]
}

/// The packet loop asks for short slices, for itself.
fn allow_slices(filter: Filter) -> Filter {
    [libc::SYS_sched_getattr, libc::SYS_sched_setattr]
        .into_iter()
        .fold(filter, |filter, call| filter.allow_if(call, &[argument(0, 0)]))
}

/// Memory that is never code.
fn allow_data(filter: Filter) -> Filter {
    let data = [masked(2, libc::PROT_EXEC as u32, 0)];
    filter.allow_if(libc::SYS_mmap, &data).allow_if(libc::SYS_mprotect, &data)
}

/// A name for itself, looking at what is given up, and the end by a bug: a signal to its own process.
fn allow_end(filter: Filter) -> Filter {
    /// `PR_SET_VMA`: a name for a piece of memory, which newer C libraries give.
    const NAME_MEMORY: u32 = 0x5356_4d41;
    filter
        .allow_if(libc::SYS_tgkill, &[argument(0, std::process::id())])
        .allow_if(libc::SYS_prctl, &[argument(0, libc::PR_SET_NAME as u32)])
        .allow_if(libc::SYS_prctl, &[argument(0, NAME_MEMORY)])
        .allow_if(libc::SYS_prctl, &[argument(0, libc::PR_SET_NO_NEW_PRIVS as u32)])
        .allow_if(libc::SYS_prctl, &[argument(0, libc::PR_GET_NO_NEW_PRIVS as u32)])
        .allow_if(libc::SYS_prctl, &[argument(0, libc::PR_GET_DUMPABLE as u32)])
        .allow_if(libc::SYS_prctl, &[argument(0, libc::PR_CAPBSET_READ as u32)])
}
