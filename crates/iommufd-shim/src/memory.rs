//! Memory that the server can map as well, and mappings of what the server gives.

use crate::{descriptor, link, next};
use libc::{c_int, c_uint, c_void, off_t, size_t};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use vm_iommufd_wire::{Reply, Request};

const PAGE: usize = 4096;
/// The default huge page.
const HUGE: usize = 2 << 20;
/// Where the size of huge pages is in `mmap`'s and `memfd_create`'s flags: its logarithm.
const HUGE_SHIFT: u32 = libc::MAP_HUGE_SHIFT as u32;
const HUGE_BITS: u32 = libc::MAP_HUGE_MASK as u32;

/// What a program asks `mmap` for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Where.
    pub address: *mut c_void,
    /// How much, in bytes.
    pub length: size_t,
    /// `PROT_*`.
    pub protection: c_int,
    /// `MAP_*`.
    pub flags: c_int,
    /// The file; -1 for none.
    pub fd: c_int,
    /// Where in the file, in bytes.
    pub offset: off_t,
}

impl Wanted {
    /// Maps.
    ///
    /// # Safety
    /// As of `mmap`.
    unsafe fn map(self) -> Result<*mut c_void, c_int> {
        // SAFETY: the caller vouches.
        let mapped = unsafe {
            next::mmap(
                self.address,
                self.length,
                self.protection,
                self.flags,
                self.fd,
                self.offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            Err(next::errno())
        } else {
            Ok(mapped)
        }
    }

    fn is_shared(&self) -> bool {
        matches!(
            self.flags & libc::MAP_TYPE,
            libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE
        )
    }

    fn is_fixed(&self) -> bool {
        self.flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0
    }

    fn is_huge(&self) -> bool {
        self.flags & libc::MAP_HUGETLB != 0
    }

    /// The size of the pages that are wanted, if they are huge.
    fn huge_page(&self) -> usize {
        match self.flags.cast_unsigned() >> HUGE_SHIFT & HUGE_BITS {
            0 => HUGE,
            shift => 1usize.checked_shl(shift).unwrap_or(HUGE),
        }
    }

    /// The same in ordinary pages, with a huge page's length and alignment.
    ///
    /// # Safety
    /// As of `mmap`.
    unsafe fn map_without_huge_pages(mut self) -> Result<*mut c_void, c_int> {
        let page = self.huge_page();
        let whole = self.length.checked_next_multiple_of(page);
        self.length = whole.ok_or(libc::ENOMEM)?;
        self.flags &= !(libc::MAP_HUGETLB | (HUGE_BITS << HUGE_SHIFT).cast_signed());
        if self.is_fixed() {
            if !self.address.addr().is_multiple_of(page) {
                return Err(libc::EINVAL);
            }
            // SAFETY: the caller vouches.
            return unsafe { self.map() };
        }
        let room = Wanted {
            address: ptr::null_mut(),
            length: self.length.checked_add(page).ok_or(libc::ENOMEM)?,
            protection: libc::PROT_NONE,
            flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            fd: -1,
            offset: 0,
        };
        // SAFETY: room where nothing is takes nothing from anybody.
        let start = unsafe { room.map()? };
        let before = start.addr().wrapping_neg() % page;
        self.address = start.wrapping_byte_add(before);
        self.flags |= libc::MAP_FIXED;
        // SAFETY: it lies within the room, which is ours.
        let mapped = unsafe { self.map() };
        let after = self.address.wrapping_byte_add(self.length);
        // SAFETY: what is unmapped is the room, but for what was mapped in it.
        unsafe {
            match mapped {
                Ok(_) => {
                    if before > 0 {
                        next::munmap(start, before);
                    }
                    if page > before {
                        next::munmap(after, page - before);
                    }
                }
                Err(_) => {
                    next::munmap(start, room.length);
                }
            }
        }
        mapped
    }
}

/// `mmap` under a server.
///
/// # Safety
/// As of `mmap`.
pub unsafe fn map(wanted: Wanted) -> Result<*mut c_void, c_int> {
    if wanted.flags & libc::MAP_ANONYMOUS != 0 {
        // SAFETY: the caller vouches.
        unsafe {
            if wanted.is_shared() {
                return match map_shared(wanted) {
                    Some(mapped) => Ok(mapped),
                    None => plain(wanted),
                };
            }
            return plain(wanted);
        }
    }
    if let Some(handle) = descriptor::handle(wanted.fd) {
        // SAFETY: the caller vouches.
        return unsafe { map_handle(wanted, handle) };
    }
    // SAFETY: the caller vouches.
    let mapped = unsafe { wanted.map()? };
    if wanted.is_shared()
        && let Some(file) = descriptor::borrow(wanted.fd)
        // Files in memory have seals, others do not.
        && fs::fcntl_get_seals(file).is_ok()
    {
        let end = (wanted.offset as u64).saturating_add(wanted.length as u64);
        // Not known to the server, it is reached as private memory is.
        let _ = link::call(&Request::Share { length: end }, &[file]);
    }
    Ok(mapped)
}

/// What the kernel makes of it, in ordinary pages if there are no huge ones.
///
/// # Safety
/// As of `mmap`.
unsafe fn plain(wanted: Wanted) -> Result<*mut c_void, c_int> {
    // SAFETY: the caller vouches; what fails has mapped nothing.
    unsafe {
        match wanted.map() {
            Err(libc::ENOMEM) if wanted.is_huge() => wanted.map_without_huge_pages(),
            outcome => outcome,
        }
    }
}

/// Shared anonymous memory as a memory file that the server has too. `None` if that cannot be;
/// then nothing has changed.
///
/// # Safety
/// As of `mmap`.
unsafe fn map_shared(wanted: Wanted) -> Option<*mut c_void> {
    let mut wanted = wanted;
    let page = if wanted.is_huge() {
        wanted.huge_page()
    } else {
        PAGE
    };
    let length = wanted.length.checked_next_multiple_of(page)?;
    if wanted.length == 0 || is_over_file_limit(length) {
        return None;
    }
    wanted.flags &= !libc::MAP_ANONYMOUS;
    wanted.offset = 0;
    let attempt = |huge: bool| {
        let file = memory_file(length, huge.then_some(wanted.flags))?;
        let wanted = Wanted {
            fd: file.as_raw_fd(),
            ..wanted
        };
        // SAFETY: the caller vouches; the file is as long as the mapping.
        let mapped = unsafe {
            if wanted.is_huge() && !huge {
                wanted.map_without_huge_pages()
            } else {
                wanted.map()
            }
        };
        Some((file, mapped.ok()?))
    };
    let made = if wanted.is_huge() {
        attempt(true).or_else(|| attempt(false))
    } else {
        attempt(false)
    };
    let (file, mapped) = made?;
    let share = Request::Share {
        length: length as u64,
    };
    let _ = link::call(&share, &[file.as_fd()]);
    Some(mapped)
}

/// Memory files are under a limit that anonymous memory is not.
fn is_over_file_limit(length: usize) -> bool {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    limit.current.is_some_and(|limit| length as u64 > limit)
}

/// A file in memory, of huge pages if `huge` has the flags of `mmap` that say of which.
fn memory_file(length: usize, huge: Option<c_int>) -> Option<OwnedFd> {
    let create = |flags: c_uint| {
        let size = huge.map_or(0, |flags| {
            flags.cast_unsigned() & (HUGE_BITS << HUGE_SHIFT) | libc::MFD_HUGETLB
        });
        // SAFETY: the name ends in a zero.
        let fd = unsafe { next::memfd_create(c"anonymous".as_ptr(), flags | size) };
        // SAFETY: the kernel made it just now.
        (fd >= 0).then(|| unsafe { rustix::fd::FromRawFd::from_raw_fd(fd) })
    };
    // Kernels before 6.3 do not know that flag.
    let file: OwnedFd =
        create(libc::MFD_CLOEXEC | libc::MFD_NOEXEC_SEAL).or_else(|| create(libc::MFD_CLOEXEC))?;
    fs::ftruncate(&file, length as u64).ok()?;
    Some(file)
}

/// Maps what the server gives in place of the descriptor.
///
/// # Safety
/// As of `mmap`.
unsafe fn map_handle(wanted: Wanted, handle: u64) -> Result<*mut c_void, c_int> {
    let request = Request::Map {
        handle,
        offset: wanted.offset.cast_unsigned(),
        length: wanted.length as u64,
        shared: wanted.is_shared(),
        write: wanted.protection & libc::PROT_WRITE != 0,
        execute: wanted.protection & libc::PROT_EXEC != 0,
    };
    let (reply, [file, _]) = link::call(&request, &[])?;
    let mapping = match reply {
        Reply::Done { outcome, .. } => outcome.map_err(c_int::from)?,
        _ => return Err(libc::ENODEV),
    };
    let file = file.ok_or(libc::ENODEV)?;
    let wanted = Wanted {
        fd: file.as_raw_fd(),
        offset: 0,
        ..wanted
    };
    // SAFETY: the caller vouches; the server gave a file for all of the range.
    let outcome = unsafe { wanted.map() };
    match outcome {
        Ok(mapped) => remember(mapped.addr(), wanted.length, mapping),
        Err(_) => unmapped(mapping),
    }
    outcome
}

/// A mapping of a descriptor of ours.
struct Mapping {
    /// 0 if the place is free, 1 while it changes.
    address: AtomicUsize,
    length: AtomicUsize,
    number: AtomicU64,
}

static MAPPINGS: [Mapping; 64] = [const {
    Mapping {
        address: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        number: AtomicU64::new(0),
    }
}; 64];
/// How many there may be at most, so that most programs' `munmap` looks no further.
static KNOWN: AtomicUsize = AtomicUsize::new(0);

/// More than there are places last until the process ends.
fn remember(address: usize, length: usize, number: u64) {
    KNOWN.fetch_add(1, Ordering::AcqRel);
    for mapping in &MAPPINGS {
        let taken = mapping
            .address
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        if taken.is_ok() {
            mapping.length.store(length, Ordering::Relaxed);
            mapping.number.store(number, Ordering::Relaxed);
            mapping.address.store(address, Ordering::Release);
            return;
        }
    }
}

/// Tells the server of mappings that lay wholly in a range that is unmapped now.
pub fn forget(address: usize, length: usize) {
    if KNOWN.load(Ordering::Acquire) == 0 {
        return;
    }
    for mapping in &MAPPINGS {
        let start = mapping.address.load(Ordering::Acquire);
        let size = mapping.length.load(Ordering::Relaxed);
        let is_within = start > 1
            && start
                .checked_sub(address)
                .and_then(|before| before.checked_add(size))
                .is_some_and(|end| end <= length.next_multiple_of(4096));
        if !is_within {
            continue;
        }
        let number = mapping.number.load(Ordering::Relaxed);
        let freed = mapping
            .address
            .compare_exchange(start, 0, Ordering::AcqRel, Ordering::Relaxed);
        if freed.is_ok() {
            KNOWN.fetch_sub(1, Ordering::AcqRel);
            unmapped(number);
        }
    }
}

fn unmapped(mapping: u64) {
    // Without a server there is nobody to tell.
    let _ = link::call(&Request::Unmap { mapping }, &[]);
}
