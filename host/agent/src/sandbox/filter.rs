//! Which calls of the system a kernel's programs may not make: those that change what the whole node shares, that open
//! ways out of namespaces, or that programs of people hardly need and that had the most holes.
//!
//! It is a list of what is refused: new calls of new systems work. Refused calls fail with `EPERM`; `clone3`, whose
//! arguments a filter can't see, with `ENOSYS`, and C libraries then use `clone`.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::setup::{Outcome, at};

/// Refused whatever the arguments.
const REFUSED: [libc::c_long; 44] = [
    // File trees.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Other namespaces.
    libc::SYS_setns,
    // The node itself.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_nfsservctl,
    LOOKUP_DCOOKIE,
    // Keys belong to a user of the node, not to a namespace.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Programs and measurements inside the system.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    KEXEC_FILE_LOAD,
];

/// The same on every architecture, but not everywhere in the library.
const OPEN_TREE_ATTR: libc::c_long = 467;
#[cfg(target_arch = "x86_64")]
const LOOKUP_DCOOKIE: libc::c_long = 212;
#[cfg(not(target_arch = "x86_64"))]
const LOOKUP_DCOOKIE: libc::c_long = 18;
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: libc::c_long = 320;
#[cfg(not(target_arch = "x86_64"))]
const KEXEC_FILE_LOAD: libc::c_long = 294;

/// Refused, too, where the architecture has them.
#[cfg(target_arch = "x86_64")]
const OLD: [libc::c_long; 7] = [
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS__sysctl,
    libc::SYS_ustat,
    libc::SYS_sysfs,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: [libc::c_long; 0] = [];

/// Flags of `clone` and `unshare` that make namespaces.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];
/// `unshare` only: the bit means something else to `clone`.
const NEW_TIME: libc::c_int = 0x80;
/// Sockets that lead past the network namespace, or into parts of the system that nobody needs.
const FAMILIES: [libc::c_int; 2] = [libc::AF_VSOCK, libc::AF_ALG];
/// Calls of the second ABI of x86-64 have this bit; the list above has only those of the first.
const SECOND_ABI: u32 = 0x4000_0000;
/// Where a filter finds the number of the call.
const NUMBER: u32 = 0;

/// Whether filters can be made here; else why not.
pub(super) fn offered() -> Result<(), String> {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the call reads one number, which outlives it.
    #[allow(unsafe_code, reason = "no library asks that")]
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, std::ptr::from_ref(&action)) };
    if answer != 0 {
        return Err(format!("the system has no seccomp filters: {}", std::io::Error::last_os_error()));
    }
    programs().map(drop)
}

/// Puts the filters on this thread and all that it will start. There is no way back.
pub(super) fn apply() -> Outcome<()> {
    for program in programs()? {
        seccompiler::apply_filter(&program).map_err(at("filtering system calls"))?;
    }
    Ok(())
}

fn programs() -> Outcome<[BpfProgram; 2]> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(at("filters for this processor"))?;
    let bit = |flag: libc::c_int| {
        let flag = u64::from(flag.unsigned_abs());
        condition(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)
    };
    let clone = NAMESPACES.into_iter().map(bit).collect::<Outcome<Vec<_>>>()?;
    let unshare = NAMESPACES.into_iter().chain([NEW_TIME]).map(bit).collect::<Outcome<Vec<_>>>()?;
    let socket = FAMILIES
        .into_iter()
        .map(|family| condition(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(family.unsigned_abs())))
        .collect::<Outcome<Vec<_>>>()?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.into_iter().chain(OLD).map(|call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, clone);
    rules.insert(libc::SYS_unshare, unshare);
    rules.insert(libc::SYS_socket, socket);
    let refused = program(rules, libc::EPERM, arch)?;
    let unknown = program(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS, arch)?;
    let mut first = second_abi();
    first.extend(refused);
    Ok([first, unknown])
}

fn condition(argument: u8, length: SeccompCmpArgLen, operator: SeccompCmpOp, value: u64) -> Outcome<SeccompRule> {
    let condition = SeccompCondition::new(argument, length, operator, value).map_err(at("a filter"))?;
    SeccompRule::new(vec![condition]).map_err(at("a filter"))
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, error: libc::c_int, arch: TargetArch) -> Outcome<BpfProgram> {
    let refuse = SeccompAction::Errno(error.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).map_err(at("a filter"))?;
    filter.try_into().map_err(at("a filter"))
}

/// The beginning of a program: no call of the second ABI is known. What follows loads what it needs itself.
fn second_abi() -> BpfProgram {
    let code = |parts: [u32; 3]| parts.into_iter().sum::<u32>() as u16;
    let errno = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    vec![
        sock_filter { code: code([libc::BPF_LD, libc::BPF_W, libc::BPF_ABS]), jt: 0, jf: 0, k: NUMBER },
        sock_filter { code: code([libc::BPF_JMP, libc::BPF_JGE, libc::BPF_K]), jt: 0, jf: 1, k: SECOND_ABI },
        sock_filter { code: code([libc::BPF_RET, libc::BPF_K, 0]), jt: 0, jf: 0, k: errno },
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_refused_call_is_in_the_list_once() {
        let mut calls: Vec<_> = REFUSED.into_iter().chain(OLD).collect();
        calls.sort_unstable();
        calls.dedup();
        assert_eq!(calls.len(), REFUSED.len() + OLD.len());
        let programs = programs().unwrap();
        // What the system takes at most.
        assert!(programs.iter().all(|program| program.len() < 4096), "{}", programs[0].len());
    }

    /// The filter on a thread of its own: it doesn't come off.
    #[test]
    fn refused_calls_fail_and_others_work() {
        if let Err(reason) = offered() {
            eprintln!("skipped: {reason}");
            return;
        }
        let outcome = std::thread::spawn(|| {
            apply().unwrap();
            let error = |call: libc::c_long, argument: libc::c_int| {
                // SAFETY: with a filter, none of these calls reaches its arguments; without rights they change nothing.
                #[allow(unsafe_code, reason = "raw calls are what is tested")]
                let answer = unsafe { libc::syscall(call, argument, 0, 0, 0, 0) };
                (answer < 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap())
            };
            assert_eq!(error(libc::SYS_setns, -1), Some(libc::EPERM));
            assert_eq!(error(libc::SYS_unshare, libc::CLONE_NEWUSER), Some(libc::EPERM));
            assert_eq!(error(libc::SYS_unshare, libc::CLONE_NEWNS | libc::CLONE_FS), Some(libc::EPERM));
            assert_eq!(error(libc::SYS_unshare, libc::CLONE_FILES), None);
            assert_eq!(error(libc::SYS_clone3, 0), Some(libc::ENOSYS));
            assert_eq!(error(libc::SYS_keyctl, 0), Some(libc::EPERM));
            assert_eq!(error(libc::SYS_socket, libc::AF_VSOCK), Some(libc::EPERM));
            assert_eq!(error(libc::SYS_getpid | libc::c_long::from(SECOND_ABI), 0), Some(libc::ENOSYS));
            // Threads, programs and sockets go on working.
            assert!(std::thread::spawn(|| true).join().unwrap());
            assert!(std::process::Command::new("/bin/sh").args(["-c", "true"]).status().unwrap().success());
            assert!(std::net::TcpListener::bind("127.0.0.1:0").is_ok());
        });
        outcome.join().unwrap();
    }
}
