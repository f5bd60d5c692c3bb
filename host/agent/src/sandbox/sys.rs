//! System calls that no library of ours wraps: the mount calls on file descriptors, and giving up capabilities.
//!
//! Each function is one call whose arguments it makes itself.
#![allow(unsafe_code, reason = "raw system calls; each states why it is sound")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::libc;

/// What is allowed on a mount.
pub(super) const READ_ONLY: u64 = 1;
pub(super) const NO_SUID: u64 = 2;
pub(super) const NO_DEVICES: u64 = 4;
pub(super) const NO_EXEC: u64 = 8;
const ID_MAP: u64 = 0x0010_0000;

const OPEN_TREE_CLONE: libc::c_long = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_long = 4;
const FSCONFIG_SET_STRING: libc::c_long = 1;
const FSCONFIG_CMD_CREATE: libc::c_long = 6;
const CLOSE_ON_EXEC: libc::c_long = 1;

#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the call has just returned this descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A copy of the mount at that path, attached nowhere; with the mounts below it when `recursive`.
pub(super) fn open_tree(path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let deep = if recursive { libc::c_long::from(libc::AT_RECURSIVE) } else { 0 };
    let flags = OPEN_TREE_CLONE | libc::c_long::from(libc::O_CLOEXEC) | deep;
    // SAFETY: the path is a C string that outlives the call.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// Attaches a mount at a path.
pub(super) fn move_mount(mount: BorrowedFd<'_>, to: &CStr) -> io::Result<()> {
    // SAFETY: both strings outlive the call.
    done(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
}

/// Restricts a mount, and has its owners translated by a user namespace.
pub(super) fn set_mount(
    mount: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let deep = if recursive { libc::AT_RECURSIVE } else { 0 };
    let mut wanted = MountAttributes { set: attributes, ..Default::default() };
    if let Some(userns) = userns {
        wanted.set |= ID_MAP;
        wanted.userns = userns.as_raw_fd().unsigned_abs().into();
    }
    // SAFETY: the structure has the layout of the kernel's `mount_attr`, its size is told, and it outlives the call.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | deep,
            &raw const wanted,
            size_of::<MountAttributes>(),
        )
    })
}

/// A new file system, attached nowhere.
pub(super) fn new_mount(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: all strings outlive the calls, the descriptors are open.
    unsafe {
        let context = descriptor(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOSE_ON_EXEC))?;
        let fd = context.as_raw_fd();
        for (name, value) in options {
            done(libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_SET_STRING, name.as_ptr(), value.as_ptr(), 0))?;
        }
        let none = std::ptr::null::<libc::c_char>();
        done(libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, none, none, 0))?;
        descriptor(libc::syscall(libc::SYS_fsmount, fd, CLOSE_ON_EXEC, attributes))
    }
}

/// Gives up all capabilities, for this thread and all that it will start.
pub(super) fn drop_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    for capability in 0..64 {
        // SAFETY: the call takes plain numbers. It fails for those that this kernel doesn't know.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    let header = Header { version: VERSION_3, pid: 0 };
    // Effective, permitted and inheritable, twice 32 bits.
    let none = [0_u32; 6];
    // SAFETY: both have the layout of version 3, and outlive the call.
    done(unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) })
}
