//! Opening and closing.

use super::{call, returned};
use crate::{descriptor, link, next, start, status};
use libc::{FILE, c_char, c_int, mode_t};
use std::ffi::CStr;
use vm_iommufd_wire::Request;

const DEVICE: &CStr = c"/dev/iommu";

/// What we open in place of a path.
enum Ours {
    Device,
    Status(u32),
}

/// Whether the path is one of ours; nothing is while there is no server.
///
/// # Safety
/// `path` must be null or end in a zero.
unsafe fn ours(path: *const c_char) -> Option<Ours> {
    start::server()?;
    if path.is_null() {
        return None;
    }
    // SAFETY: the caller vouches for a path that is not null.
    let path = unsafe { CStr::from_ptr(path) };
    if path == DEVICE {
        return Some(Ours::Device);
    }
    status::process_of(path.to_bytes()).map(Ours::Status)
}

/// Opens a path that may be ours; `None` if the next library is to open it.
///
/// # Safety
/// `path` must be null or end in a zero.
unsafe fn open_ours(path: *const c_char, flags: c_int) -> Option<c_int> {
    // SAFETY: the caller vouches.
    match unsafe { ours(path)? } {
        Ours::Device => Some(open_device(flags)),
        Ours::Status(_) if flags & libc::O_ACCMODE != libc::O_RDONLY => None,
        Ours::Status(process) => {
            // SAFETY: it is not null, or it would not be ours.
            let file = status::open(process, unsafe { CStr::from_ptr(path) })?;
            Some(link::give(file, flags & libc::O_CLOEXEC != 0))
        }
    }
}

fn open_device(flags: c_int) -> c_int {
    let outcome = call(&Request::Open, -1);
    let fd = returned(outcome) as c_int;
    if let Some(file) = descriptor::borrow(fd)
        && flags & libc::O_CLOEXEC == 0
    {
        // It cannot fail on an open file.
        let _ = rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty());
    }
    fd
}

/// `open(2)`.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller vouches for the path and the rest.
    unsafe { open_ours(path, flags).unwrap_or_else(|| next::open(path, flags, mode)) }
}

/// `open` with 64-bit offsets, which all are.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller vouches.
    unsafe { open(path, flags, mode) }
}

/// `open` without a mode, as fortified programs call it.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __open_2(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller vouches.
    unsafe { open(path, flags, 0) }
}

/// `open64` without a mode, as fortified programs call it.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller vouches.
    unsafe { open(path, flags, 0) }
}

/// `openat(2)`.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn openat(
    at: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: the caller vouches. Our paths are absolute, so `at` does not matter to them.
    unsafe { open_ours(path, flags).unwrap_or_else(|| next::openat(at, path, flags, mode)) }
}

/// `openat` with 64-bit offsets, which all are.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn openat64(
    at: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: the caller vouches.
    unsafe { openat(at, path, flags, mode) }
}

/// `openat` without a mode, as fortified programs call it.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __openat_2(at: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller vouches.
    unsafe { openat(at, path, flags, 0) }
}

/// `openat64` without a mode, as fortified programs call it.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __openat64_2(at: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller vouches.
    unsafe { openat(at, path, flags, 0) }
}

/// `fopen(3)`, of which only `/proc/PID/status` is ours.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE {
    // SAFETY: the caller vouches.
    unsafe {
        match fopen_ours(path, mode) {
            Some(stream) => stream,
            None => next::fopen(path, mode),
        }
    }
}

/// `fopen` with 64-bit offsets, which all are.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE {
    // SAFETY: the caller vouches.
    unsafe { fopen(path, mode) }
}

/// # Safety
/// As of `fopen`.
unsafe fn fopen_ours(path: *const c_char, mode: *const c_char) -> Option<*mut FILE> {
    // SAFETY: the caller vouches for the path.
    let Ours::Status(process) = (unsafe { ours(path)? }) else {
        return None;
    };
    if mode.is_null() {
        return None;
    }
    // SAFETY: both are not null, and the caller vouches that they end in a zero.
    let (path, text) = unsafe { (CStr::from_ptr(path), CStr::from_ptr(mode)) };
    let text = text.to_bytes();
    if text.first() != Some(&b'r') || text.contains(&b'+') {
        return None;
    }
    let file = status::open(process, path)?;
    let fd = link::give(file, text.contains(&b'e'));
    // SAFETY: the descriptor is open for reading, and the mode ends in a zero.
    let stream = unsafe { libc::fdopen(fd, mode) };
    if stream.is_null() {
        link::take_back(fd);
    }
    Some(stream)
}

/// `close(2)`: returns when what the descriptor stood for is gone, if this was the last of it.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    let was_ours = descriptor::handle(fd).is_some();
    // SAFETY: the caller vouches that the descriptor is its own.
    let outcome = unsafe { next::close(fd) };
    if was_ours {
        let errno = next::errno();
        // Without a server all is gone anyway.
        let _: Result<_, c_int> = link::call(&Request::Sync, &[]);
        next::set_errno(errno);
    }
    outcome
}
