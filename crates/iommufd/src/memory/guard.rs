//! Memory files that are mapped here, and what happens when they are truncated: an access past the
//! end raises `SIGBUS`, which would end the process. With the guard the window turns into memory
//! of its own instead, and is known to be lost.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use libc::{c_int, c_void, siginfo_t};

/// More windows than this are not guarded, and so not made.
const PLACES: usize = 1024;

/// A window that the signal handler knows.
struct Place {
    /// 0 if the place is free, 1 while it changes.
    start: AtomicUsize,
    length: AtomicUsize,
    lost: AtomicBool,
}

static PLACES_TAKEN: [Place; PLACES] = [const {
    Place {
        start: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; PLACES];

/// What `SIGBUS` did before; set once the guard is there.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Guards this process against the truncation of memory files that it has mapped, for good. Until
/// then they are copied to and from, and not mapped.
///
/// `SIGBUS` from elsewhere goes on to whoever handled it before.
///
/// # Errors
/// What `sigaction` says.
pub fn guard_truncation() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    let mut before = MaybeUninit::uninit();
    // SAFETY: all zeroes are a valid action, whose parts are then set; the handler does nothing
    // but atomics and system calls that a handler may make.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        // Known before the first signal can need it.
        if BEFORE.set(before.assume_init()).is_err() {
            return Ok(());
        }
        action.sa_sigaction = handle as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        if libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid siginfo, of a fault here.
    let address = unsafe { (*info).si_addr() }.addr();
    let place = PLACES_TAKEN.iter().find(|place| {
        let start = place.start.load(Ordering::Acquire);
        let length = place.length.load(Ordering::Relaxed);
        start > 1 && address.wrapping_sub(start) < length
    });
    let Some(place) = place else {
        return pass_on(signal, info, context);
    };
    place.lost.store(true, Ordering::Release);
    // SAFETY: the range is a window of this module, whose users read and write bytes that may
    // change at any time; the call may be made by a handler, and errno is put back.
    unsafe {
        let errno = *libc::__errno_location();
        let mapped = libc::mmap(
            ptr::with_exposed_provenance_mut(place.start.load(Ordering::Relaxed)),
            place.length.load(Ordering::Relaxed),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        );
        *libc::__errno_location() = errno;
        if mapped == libc::MAP_FAILED {
            pass_on(signal, info, context);
        }
    }
}

/// Does what was done before the guard.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let before = BEFORE.get();
    let handler = before.map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // The access is made again, and ends the process.
        // SAFETY: signal may be called by a handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    let takes_info = before.is_some_and(|before| before.sa_flags & libc::SA_SIGINFO != 0);
    // SAFETY: the address is that of a handler of the kind that its flags say.
    unsafe {
        if takes_info {
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                std::mem::transmute(handler);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
            handler(signal);
        }
    }
}

/// A file mapped from its first byte, for reading and writing.
#[derive(Debug)]
pub(super) struct Window {
    start: NonNull<u8>,
    length: usize,
    place: usize,
}

// SAFETY: a window is an address range; whoever uses it treats its bytes as changing at any time.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Maps `length` bytes of the file; `None` without the guard, or if that fails.
    pub(super) fn new(file: &impl AsRawFd, length: usize) -> Option<Self> {
        BEFORE.get()?;
        let taken = PLACES_TAKEN.iter().position(|place| {
            place
                .start
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })?;
        let place = PLACES_TAKEN.get(taken)?;
        // SAFETY: a new mapping takes nothing from anybody.
        let mapped = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        let start = (mapped != libc::MAP_FAILED)
            .then(|| NonNull::new(mapped.cast::<u8>()))
            .flatten();
        let Some(start) = start else {
            place.start.store(0, Ordering::Release);
            return None;
        };
        place.lost.store(false, Ordering::Relaxed);
        place.length.store(length, Ordering::Relaxed);
        place
            .start
            .store(mapped.expose_provenance(), Ordering::Release);
        Some(Window {
            start,
            length,
            place: taken,
        })
    }

    /// Whether the file was truncated under an access.
    pub(super) fn is_lost(&self) -> bool {
        PLACES_TAKEN
            .get(self.place)
            .is_none_or(|place| place.lost.load(Ordering::Acquire))
    }

    /// The first of `length` bytes at `offset`, if all are in the window.
    pub(super) fn at(&self, offset: u64, length: usize) -> Option<NonNull<u8>> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(length)?;
        // SAFETY: the range is within the mapping.
        (end <= self.length).then(|| unsafe { self.start.add(offset) })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: it was mapped for this window, and whoever got addresses in it was to stop
        // before.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
        if let Some(place) = PLACES_TAKEN.get(self.place) {
            place.start.store(0, Ordering::Release);
        }
    }
}
