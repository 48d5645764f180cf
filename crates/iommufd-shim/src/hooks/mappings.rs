//! Mapping memory.

use crate::memory::{self, Wanted};
use crate::{link, next, start};
use libc::{c_char, c_int, c_uint, c_void, off_t, size_t};

/// `mmap(2)`.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    if start::server().is_none() {
        // SAFETY: the caller vouches.
        return unsafe { next::mmap(address, length, protection, flags, fd, offset) };
    }
    let wanted = Wanted {
        address,
        length,
        protection,
        flags,
        fd,
        offset,
    };
    // SAFETY: the caller vouches.
    match unsafe { memory::map(wanted) } {
        Ok(mapped) => mapped,
        Err(errno) => {
            next::set_errno(errno);
            libc::MAP_FAILED
        }
    }
}

/// `mmap` with 64-bit offsets, which all are.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller vouches.
    unsafe { mmap(address, length, protection, flags, fd, offset) }
}

/// `munmap(2)`.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn munmap(address: *mut c_void, length: size_t) -> c_int {
    // SAFETY: the caller vouches.
    let outcome = unsafe { next::munmap(address, length) };
    if outcome == 0 {
        memory::forget(address.addr(), length);
    }
    outcome
}

/// `memfd_create(2)`, in ordinary pages where the machine has no huge ones.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn memfd_create(name: *const c_char, flags: c_uint) -> c_int {
    let mut flags = flags;
    if flags & libc::MFD_HUGETLB != 0 && start::server().is_some() && link::no_huge_pages() {
        let size = (libc::MAP_HUGE_MASK << libc::MAP_HUGE_SHIFT).cast_unsigned();
        flags &= !(libc::MFD_HUGETLB | size);
    }
    // SAFETY: the caller vouches.
    unsafe { next::memfd_create(name, flags) }
}
