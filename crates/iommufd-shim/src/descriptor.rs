//! Whether a descriptor is one of ours, and what it stands for.

use crate::start;
use libc::c_int;
use rustix::fd::BorrowedFd;
use std::num::NonZeroU64;
use vm_iommufd_wire::Name;

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A connection of this library; the program does not know of it.
    Connection,
    /// What the server handed out, by its handle.
    Handle(NonZeroU64),
}

/// What the descriptor is; `None` if it is not of our server.
pub fn kind(fd: c_int) -> Option<Kind> {
    let server = start::server()?;
    let name = Name::of_peer(borrow(fd)?)?;
    if name.server != server {
        return None;
    }
    Some(NonZeroU64::new(name.handle).map_or(Kind::Connection, Kind::Handle))
}

/// The handle of a descriptor that the server handed out.
pub fn handle(fd: c_int) -> Option<u64> {
    match kind(fd)? {
        Kind::Handle(handle) => Some(handle.get()),
        Kind::Connection => None,
    }
}

/// A descriptor as the program names it, for as long as a call takes. It may not be open, which
/// the kernel then says.
pub fn borrow<'a>(fd: c_int) -> Option<BorrowedFd<'a>> {
    // SAFETY: it is not -1, and is only passed to system calls, as the program itself would.
    (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}
