//! The functions that a program calls in place of the C library's.
//!
//! Their names, arguments and results are the C library's, so each is unsafe to the extent that
//! the C library's is.

mod calls;
mod files;
mod mappings;

pub use calls::{__read_chk, ioctl, read, readv, write, writev};
pub use files::{
    __open_2, __open64_2, __openat_2, __openat64_2, close, fopen, fopen64, open, open64, openat,
    openat64,
};
pub use mappings::{memfd_create, mmap, mmap64, munmap};

use crate::{link, next};
use libc::c_int;
use rustix::fd::OwnedFd;
use std::ptr;
use vm_iommufd_wire::{FILES, Place, Reply, Request};

/// What the C library returns: the value, or -1 with `errno` set.
fn returned(outcome: Result<u64, c_int>) -> i64 {
    match outcome {
        Ok(value) => value.cast_signed(),
        Err(errno) => {
            next::set_errno(errno);
            -1
        }
    }
}

/// Puts a call to the server, and gives the program the files that come back. `fd` is the
/// descriptor that the call is on.
fn call(request: &Request, fd: c_int) -> Result<u64, c_int> {
    call_at(request, fd, 0)
}

/// As [`call`], for one whose argument's content went with it: `argument` is where that is.
fn call_at(request: &Request, fd: c_int, argument: usize) -> Result<u64, c_int> {
    let (reply, files) = link::call(request, &[])?;
    let Reply::Done {
        outcome,
        files: places,
        take,
        written,
    } = reply
    else {
        return Err(libc::ENODEV);
    };
    if take {
        link::take_byte(fd);
    }
    for (at, bytes) in written.runs() {
        let to = ptr::with_exposed_provenance_mut::<u8>(argument.wrapping_add(at));
        // SAFETY: the server writes only within the content that went with the call, which is
        // writable; the program gave it to this call.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }
    let value = outcome.map_err(c_int::from)?;
    give_all(value, places, files)
}

fn give_all(
    mut value: u64,
    places: [Option<vm_iommufd_wire::File>; FILES],
    files: [Option<OwnedFd>; FILES],
) -> Result<u64, c_int> {
    for (file, place) in files.into_iter().zip(places) {
        let (Some(file), Some(place)) = (file, place) else {
            continue;
        };
        let number = link::give(file, place.close_on_exec);
        match place.place {
            Place::Value => value = u64::from(number.cast_unsigned()),
            Place::At(address) => {
                if let Err(errno) = link::write_u32(address, number.cast_unsigned()) {
                    link::take_back(number);
                    return Err(errno);
                }
            }
        }
    }
    Ok(value)
}
