//! Connections to the server. Each is used by one thread at a time; idle ones wait in a page that
//! is empty again in a forked child, since a child must not speak on its parent's connections.

use crate::{descriptor, start};
use libc::{c_int, c_void};
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::{fs, io, mm, net, process};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use vm_iommufd_wire::{FILES, Name, Reply, Request, VERSION, ask};

const PLACES: usize = 64;
/// A place that holds no connection.
const EMPTY: u64 = 0;
/// A place whose connection is in use, or is being made.
const BUSY: u64 = 1;
/// Descriptors from here on are not what a program expects its next one to be.
const HIGH: [c_int; 2] = [900, LOW];
const LOW: c_int = 200;

/// What a forked child does not inherit.
struct Page {
    /// 0 in a new page and in a forked child.
    used: AtomicU32,
    /// The process image's number at the server; 0 while it has none.
    image: AtomicU64,
    /// [`EMPTY`], [`BUSY`], or a descriptor plus two.
    places: [AtomicU64; PLACES],
}

static PAGE: AtomicPtr<Page> = AtomicPtr::new(ptr::null_mut());

/// What the place's descriptor is, for a child that has to close it; -1 for none.
static LEFT: [AtomicI32; PLACES] = [const { AtomicI32::new(-1) }; PLACES];
/// The image's number again: to a forked child, its parent's.
static IMAGE: AtomicU64 = AtomicU64::new(0);
/// Whether the server said that this machine has no huge pages.
static NO_HUGE_PAGES: AtomicBool = AtomicBool::new(false);

/// Sets up; `false` if connections cannot be kept apart over a fork.
pub fn prepare() -> bool {
    const { assert!(size_of::<Page>() <= 4096) };
    // SAFETY: a new private mapping is nobody else's.
    let mapped = unsafe {
        mm::mmap_anonymous(
            ptr::null_mut(),
            4096,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    };
    let Ok(page) = mapped else {
        return false;
    };
    // SAFETY: the page was mapped just now and is not used yet.
    let wiped = unsafe { mm::madvise(page, 4096, Advice::LinuxWipeOnFork) };
    PAGE.store(page.cast(), Ordering::Release);
    wiped.is_ok()
}

fn page() -> Option<&'static Page> {
    let page = PAGE.load(Ordering::Acquire);
    // SAFETY: the page is mapped for good and is aligned as a page is. All zeroes are a valid
    // Page, whose parts are atomics.
    unsafe { page.as_ref() }
}

/// The page, ready for this process. A child that runs in its parent's memory until it calls
/// `exec` has its parent's page; the server refuses it, and hangs up.
fn own_page() -> Option<&'static Page> {
    let page = page()?;
    if page.used.load(Ordering::Acquire) == 0 {
        close_left();
        page.used.store(1, Ordering::Release);
    }
    Some(page)
}

/// Closes the connections that a fork copied from the parent.
fn close_left() {
    for left in &LEFT {
        let fd = left.swap(-1, Ordering::AcqRel);
        // The program may have closed it and opened something else since.
        if fd >= 0 && descriptor::kind(fd) == Some(descriptor::Kind::Connection) {
            // SAFETY: it is a connection, and connections are this library's.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

/// A connection in use; back in its place when dropped.
struct Connection {
    socket: Option<OwnedFd>,
    place: Option<(&'static Page, usize)>,
    /// Whether it was used before, so that the server may have hung up.
    used: bool,
}

impl Connection {
    fn take() -> io::Result<Self> {
        let page = own_page().ok_or(Errno::NODEV)?;
        for (index, place) in page.places.iter().enumerate() {
            let state = place.load(Ordering::Acquire);
            if state == BUSY
                || place
                    .compare_exchange(state, BUSY, Ordering::AcqRel, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            let mut connection = Connection {
                socket: None,
                place: Some((page, index)),
                used: false,
            };
            let known = state.checked_sub(2).and_then(|fd| c_int::try_from(fd).ok());
            if let Some(fd) = known
                && is_still_ours(fd)
            {
                // SAFETY: the place was taken just now, so the connection is nobody else's.
                connection.socket = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                connection.used = true;
                return Ok(connection);
            }
            connection.socket = Some(connect_image(page)?);
            return Ok(connection);
        }
        Ok(Connection {
            socket: Some(connect_image(page)?),
            place: None,
            used: false,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some((page, index)) = self.place else {
            return;
        };
        let (Some(place), Some(left)) = (page.places.get(index), LEFT.get(index)) else {
            return;
        };
        let state = match self.socket.take() {
            Some(socket) => {
                let fd = socket.into_raw_fd();
                left.store(fd, Ordering::Release);
                u64::from(fd.cast_unsigned()) + 2
            }
            None => {
                left.store(-1, Ordering::Release);
                EMPTY
            }
        };
        place.store(state, Ordering::Release);
    }
}

/// Whether a descriptor is still the connection that it was. A program may close all descriptors
/// that it does not know; the next that it opens are low ones, so that a high one is ours, or
/// closed, which the next call on it finds.
fn is_still_ours(fd: c_int) -> bool {
    fd >= LOW || descriptor::kind(fd) == Some(descriptor::Kind::Connection)
}

/// Connects as this process image, which gets its number on the first connection.
fn connect_image(page: &Page) -> io::Result<OwnedFd> {
    let image = page.image.load(Ordering::Acquire);
    let parent = IMAGE.load(Ordering::Acquire);
    let (socket, given) = connect(image, parent)?;
    // Of two threads that connect at once, each with no number yet, one stays.
    let first = page
        .image
        .compare_exchange(image, given, Ordering::AcqRel, Ordering::Acquire);
    match first {
        Ok(_) => {
            IMAGE.store(given, Ordering::Release);
            Ok(socket)
        }
        Err(other) => connect(other, 0).map(|(socket, _)| socket),
    }
}

fn connect(image: u64, parent: u64) -> io::Result<(OwnedFd, u64)> {
    let server = start::server().ok_or(Errno::NODEV)?;
    let socket = net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let socket = move_up(socket);
    net::connect(&socket, &Name { server, handle: 0 }.address()?)?;
    let own =
        |name: &core::ffi::CStr, access| fs::open(name, access | OFlags::CLOEXEC, Mode::empty());
    let memory = own(c"/proc/self/mem", OFlags::RDWR)?;
    let maps = own(c"/proc/self/maps", OFlags::RDONLY)?;
    let hello = Request::Hello {
        version: VERSION,
        image,
        parent,
    };
    let files = [memory.as_fd(), maps.as_fd()];
    let (reply, _) = ask(&socket, &hello, &files, |_| None)?;
    match reply {
        Reply::Welcome {
            image,
            no_huge_pages,
        } => {
            NO_HUGE_PAGES.store(no_huge_pages, Ordering::Relaxed);
            Ok((socket, image))
        }
        // It said on its own standard error why.
        _ => Err(Errno::ACCESS),
    }
}

/// The same socket under a number that no program expects.
fn move_up(socket: OwnedFd) -> OwnedFd {
    let higher = HIGH
        .iter()
        .find_map(|from| io::fcntl_dupfd_cloexec(&socket, *from).ok());
    higher.unwrap_or(socket)
}

/// Whether the server says that this machine has no huge pages.
pub fn no_huge_pages() -> bool {
    // It says so when a connection is made, so one is.
    Connection::take().is_ok() && NO_HUGE_PAGES.load(Ordering::Relaxed)
}

/// Puts a request to the server.
pub fn call(
    request: &Request,
    files: &[BorrowedFd<'_>],
) -> Result<(Reply, [Option<OwnedFd>; FILES]), c_int> {
    let lost = |error: Errno| match error {
        Errno::ACCESS | Errno::MFILE | Errno::NFILE | Errno::NOMEM => error.raw_os_error(),
        _ => libc::ENODEV,
    };
    loop {
        let mut connection = Connection::take().map_err(lost)?;
        let socket = connection.socket.as_ref().ok_or(libc::ENODEV)?;
        let error = match ask(socket, request, files, descriptor::borrow) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // What is no socket any more is not this library's to close.
        let is_gone = matches!(error, Errno::BADF | Errno::NOTSOCK | Errno::NOTCONN);
        if let Some(socket) = connection.socket.take()
            && is_gone
        {
            let _ = socket.into_raw_fd();
        }
        // Nor has a server that hung up looked at the request.
        let is_fresh = is_gone || matches!(error, Errno::PIPE | Errno::CONNRESET);
        if !connection.used || !is_fresh {
            return Err(lost(error));
        }
    }
}

/// Writes to this process's own memory; an address that cannot be written is an error, not the
/// program's end.
pub fn write_u32(address: u64, value: u32) -> Result<(), c_int> {
    let bytes = value.to_ne_bytes();
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast::<c_void>().cast_mut(),
        iov_len: bytes.len(),
    };
    let remote = libc::iovec {
        iov_base: ptr::with_exposed_provenance_mut(address as usize),
        iov_len: bytes.len(),
    };
    let own = process::getpid().as_raw_nonzero().get();
    // SAFETY: the source is an array of ours; the kernel checks the destination, which the program
    // named for this.
    let written = unsafe { libc::process_vm_writev(own, &local, 1, &remote, 1, 0) };
    if written == bytes.len() as isize {
        Ok(())
    } else {
        Err(libc::EFAULT)
    }
}

/// The number of the descriptor that the program gets for `file`.
pub fn give(file: OwnedFd, close_on_exec: bool) -> c_int {
    if !close_on_exec {
        // It cannot fail on an open file.
        let _ = io::fcntl_setfd(&file, io::FdFlags::empty());
    }
    file.into_raw_fd()
}

/// Takes a descriptor back that the program does not learn of.
pub fn take_back(fd: c_int) {
    if fd >= 0 {
        // SAFETY: `give` made it a moment ago, and the program was not told.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// Takes the byte that told `poll` of something that is read now.
pub fn take_byte(fd: c_int) {
    let mut byte = [0; 1];
    if let Some(socket) = descriptor::borrow(fd) {
        let _ = net::recv(socket, &mut byte[..], net::RecvFlags::DONTWAIT);
    }
}
