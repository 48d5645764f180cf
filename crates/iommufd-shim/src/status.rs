//! `/proc/PID/status` with the memory that iommufd pins and locks for the process.

use crate::edit::{Added, edit};
use crate::link;
use rustix::fd::OwnedFd;
use rustix::fs::{self, MemfdFlags, Mode, OFlags, SeekFrom};
use rustix::{io, process};
use vm_iommufd_wire::{Reply, Request};

/// The process whose status the path is, in a form that programs use.
pub fn process_of(path: &[u8]) -> Option<u32> {
    let middle = path.strip_prefix(b"/proc/")?.strip_suffix(b"/status")?;
    if middle == b"self" || middle == b"thread-self" {
        return Some(process::getpid().as_raw_nonzero().get().cast_unsigned());
    }
    std::str::from_utf8(middle).ok()?.parse().ok()
}

/// A file with the status of the process; `None` if iommufd adds nothing to it.
pub fn open(process: u32, path: &std::ffi::CStr) -> Option<OwnedFd> {
    let (reply, _) = link::call(&Request::Status { process }, &[]).ok()?;
    let added = match reply {
        Reply::Pins { pinned, locked } => Added { pinned, locked },
        _ => return None,
    };
    if added == Added::default() {
        return None;
    }
    let file = fs::memfd_create(c"status", MemfdFlags::CLOEXEC).ok()?;
    copy(path, added, &file).ok()?;
    Some(file)
}

fn copy(path: &std::ffi::CStr, added: Added, file: &OwnedFd) -> io::Result<()> {
    let status = fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel's is below two pages, whatever the machine.
    let mut text = [0; 8192];
    let mut length = 0;
    while let Some(rest) = text.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match io::read(&status, rest)? {
            0 => break,
            read => length += read,
        }
    }
    let text = text.get(..length).unwrap_or_default();
    let mut outcome = Ok(());
    edit(text, added, |piece| {
        if outcome.is_ok() {
            // A memory file takes all of a piece, or none.
            outcome = io::write(file, piece).map(drop);
        }
    });
    outcome?;
    fs::seek(file, SeekFrom::Start(0))?;
    Ok(())
}
