//! Calls on descriptors.

use super::{call, call_at, returned};
use crate::{descriptor, next};
use libc::{c_int, c_ulong, c_void, iovec, size_t, ssize_t};
use rustix::mm::{self, Advice};
use rustix::process;
use rustix::thread::{self, CapabilitySet};
use std::ptr;
use vm_iommufd_wire::{Capabilities, INLINE, Inline, Privileges, Request};

/// The type of iommufd's and VFIO's request numbers.
const TYPE: c_ulong = b';' as c_ulong;
const PAGE: usize = 4096;

/// `ioctl(2)`.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: c_ulong) -> c_int {
    if request >> 8 & 0xff == TYPE
        && let Some(handle) = descriptor::handle(fd)
    {
        let place = argument as usize;
        let request = Request::Ioctl {
            handle,
            request: request as u32,
            argument,
            content: content(place),
            privileges: depends_on_privileges(request as u32).then(|| Privileges {
                capabilities: capabilities(),
                lockable: lockable(),
            }),
        };
        return returned(call_at(&request, fd, place)) as c_int;
    }
    // SAFETY: the caller vouches.
    unsafe { next::ioctl(fd, request, argument) }
}

/// Whether the call may depend on what the caller may do. Those that do not are iommufd's calls to
/// destroy, to allocate an address space, to allow and to tell addresses, to unmap, to choose the
/// compatible address space, to tell of the hardware, of dirty pages, and to invalidate.
fn depends_on_privileges(request: u32) -> bool {
    !matches!(request, 0x3b80..=0x3b82 | 0x3b84 | 0x3b86 | 0x3b88 | 0x3b8a..=0x3b8d)
}

/// What is at the address, as far as it is writable: most calls read it and write it back, for
/// which the server need not look into this process then.
fn content(address: usize) -> Inline {
    let mut content = Inline::default();
    let length = writable(address).min(INLINE);
    if length > 0 {
        let mut bytes = [0; INLINE];
        let from = ptr::with_exposed_provenance::<u8>(address);
        // SAFETY: the bytes are mapped, and the program gave them to this call.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), length) };
        content.set(0, bytes.get(..length).unwrap_or_default());
    }
    content
}

/// How many bytes at the address are writable, as far as that matters.
fn writable(address: usize) -> usize {
    let own_page = (&raw const address).addr() / PAGE;
    let mut end = address;
    while end - address < INLINE {
        let page = end - end % PAGE;
        let Some(next) = page.checked_add(PAGE) else {
            break;
        };
        // Most arguments are on the stack, close to this function's own.
        if page / PAGE != own_page && !is_writable(page) {
            break;
        }
        end = next;
    }
    end - address
}

/// Whether a page is writable.
fn is_writable(page: usize) -> bool {
    if page == 0 {
        return false;
    }
    let place = ptr::with_exposed_provenance_mut::<c_void>(page);
    // SAFETY: pages come to be there as if they had been written to, with their content
    // unchanged; the kernel refuses where nothing is mapped or may be written.
    unsafe { mm::madvise(place, PAGE, Advice::LinuxPopulateWrite) }.is_ok()
}

/// How many bytes this process may lock.
fn lockable() -> u64 {
    let limit = process::getrlimit(process::Resource::Memlock);
    limit.current.unwrap_or(u64::MAX)
}

/// The calling thread's capabilities.
fn capabilities() -> Capabilities {
    let Ok(sets) = thread::capabilities(None) else {
        return Capabilities::default();
    };
    let has = |capability| sets.effective.contains(capability);
    Capabilities {
        ipc_lock: has(CapabilitySet::IPC_LOCK),
        sys_resource: has(CapabilitySet::SYS_RESOURCE),
        sys_rawio: has(CapabilitySet::SYS_RAWIO),
    }
}

fn read_ours(fd: c_int, buffer: *mut c_void, length: size_t) -> Option<ssize_t> {
    let request = Request::Read {
        handle: descriptor::handle(fd)?,
        address: buffer.expose_provenance() as u64,
        length: length as u64,
    };
    Some(returned(call(&request, fd)) as ssize_t)
}

fn write_ours(fd: c_int, buffer: *const c_void, length: size_t) -> Option<ssize_t> {
    let request = Request::Write {
        handle: descriptor::handle(fd)?,
        address: buffer.expose_provenance() as u64,
        length: length as u64,
    };
    Some(returned(call(&request, fd)) as ssize_t)
}

/// `read(2)`.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn read(fd: c_int, buffer: *mut c_void, length: size_t) -> ssize_t {
    // SAFETY: the caller vouches.
    read_ours(fd, buffer, length).unwrap_or_else(|| unsafe { next::read(fd, buffer, length) })
}

/// `read` that knows the buffer's size, as fortified programs call it.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __read_chk(
    fd: c_int,
    buffer: *mut c_void,
    length: size_t,
    size: size_t,
) -> ssize_t {
    if length <= size
        && let Some(read) = read_ours(fd, buffer, length)
    {
        return read;
    }
    // SAFETY: the caller vouches; the next one ends the program if the buffer is too small.
    unsafe { next::read_checked(fd, buffer, length, size) }
}

/// `write(2)`.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, length: size_t) -> ssize_t {
    // SAFETY: the caller vouches.
    write_ours(fd, buffer, length).unwrap_or_else(|| unsafe { next::write(fd, buffer, length) })
}

/// One part after the other, as the kernel does for files like ours, until one is not whole.
fn each_part(
    parts: &[iovec],
    transfer: impl Fn(*mut c_void, size_t) -> Option<ssize_t>,
) -> ssize_t {
    let mut sum: ssize_t = 0;
    for part in parts {
        match transfer(part.iov_base, part.iov_len) {
            Some(done) if done >= 0 => {
                sum = sum.saturating_add(done);
                if done.cast_unsigned() < part.iov_len {
                    break;
                }
            }
            failed => {
                if sum == 0 {
                    sum = failed.unwrap_or(-1);
                }
                break;
            }
        }
    }
    sum
}

/// The parts of a vectored call on a descriptor of ours.
///
/// # Safety
/// `parts` must be as `readv` takes it.
unsafe fn parts_ours<'a>(fd: c_int, parts: *const iovec, count: c_int) -> Option<&'a [iovec]> {
    descriptor::handle(fd)?;
    let count = usize::try_from(count).ok().filter(|count| *count <= 1024)?;
    if parts.is_null() {
        return None;
    }
    // SAFETY: the caller vouches for `count` parts.
    Some(unsafe { std::slice::from_raw_parts(parts, count) })
}

/// `readv(2)`.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn readv(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller vouches.
    match unsafe { parts_ours(fd, parts, count) } {
        Some(parts) => each_part(parts, |buffer, length| read_ours(fd, buffer, length)),
        // SAFETY: the caller vouches.
        None => unsafe { next::readv(fd, parts, count) },
    }
}

/// `writev(2)`.
///
/// # Safety
/// As of the C library's function.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller vouches.
    match unsafe { parts_ours(fd, parts, count) } {
        Some(parts) => each_part(parts, |buffer, length| write_ours(fd, buffer, length)),
        // SAFETY: the caller vouches.
        None => unsafe { next::writev(fd, parts, count) },
    }
}
