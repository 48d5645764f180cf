//! The functions that ours stand before, as the next library has them. Those that allocators call
//! while nothing is set up are system calls of their own.

use libc::{c_char, c_int, c_long, c_ulong, c_void, iovec, mode_t, off_t, size_t, ssize_t};
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A function of the next library.
struct Next {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Next {
            name,
            address: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    fn find(&self) {
        // SAFETY: the name ends in a zero; RTLD_NEXT looks in the libraries after this one.
        let address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.address.store(address, Ordering::Relaxed);
    }

    /// The function, if it was found yet.
    ///
    /// # Safety
    /// `F` must be the type of a function pointer, of the function that has this name.
    unsafe fn get<F: Copy>(&self) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let address = self.address.load(Ordering::Relaxed);
        if address.is_null() {
            return None;
        }
        // SAFETY: the caller says that F is a pointer to this function, and it has a pointer's size.
        Some(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }
}

static OPEN: Next = Next::new(c"open");
static OPENAT: Next = Next::new(c"openat");
static CLOSE: Next = Next::new(c"close");
static IOCTL: Next = Next::new(c"ioctl");
static READ: Next = Next::new(c"read");
static WRITE: Next = Next::new(c"write");
static READV: Next = Next::new(c"readv");
static WRITEV: Next = Next::new(c"writev");
static READ_CHECKED: Next = Next::new(c"__read_chk");
static FOPEN: Next = Next::new(c"fopen");

/// Finds all of them.
pub fn find_all() {
    for next in [
        &OPEN,
        &OPENAT,
        &CLOSE,
        &IOCTL,
        &READ,
        &WRITE,
        &READV,
        &WRITEV,
        &READ_CHECKED,
        &FOPEN,
    ] {
        next.find();
    }
}

/// `open(2)`.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    type F = unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int;
    // SAFETY: this is the function's type, and the caller vouches for the arguments.
    unsafe {
        match OPEN.get::<F>() {
            Some(open) => open(path, flags, mode),
            None => libc::syscall(libc::SYS_open, path, flags, mode) as c_int,
        }
    }
}

/// `openat(2)`.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn openat(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    type F = unsafe extern "C" fn(c_int, *const c_char, c_int, ...) -> c_int;
    // SAFETY: this is the function's type, and the caller vouches for the arguments.
    unsafe {
        match OPENAT.get::<F>() {
            Some(openat) => openat(at, path, flags, mode),
            None => libc::syscall(libc::SYS_openat, at, path, flags, mode) as c_int,
        }
    }
}

/// `fopen(3)`; fails with `ENOSYS` while there is no next library.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn fopen(path: *const c_char, mode: *const c_char) -> *mut libc::FILE {
    type F = unsafe extern "C" fn(*const c_char, *const c_char) -> *mut libc::FILE;
    // SAFETY: this is the function's type, and the caller vouches for the arguments.
    unsafe {
        match FOPEN.get::<F>() {
            Some(fopen) => fopen(path, mode),
            None => {
                set_errno(libc::ENOSYS);
                std::ptr::null_mut()
            }
        }
    }
}

/// `close(2)`.
///
/// # Safety
/// As of the C library's function: the caller owns the descriptor.
pub unsafe fn close(fd: c_int) -> c_int {
    type F = unsafe extern "C" fn(c_int) -> c_int;
    // SAFETY: this is the function's type, and the caller vouches for the arguments.
    unsafe {
        match CLOSE.get::<F>() {
            Some(close) => close(fd),
            None => libc::syscall(libc::SYS_close, fd) as c_int,
        }
    }
}

/// `ioctl(2)`.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn ioctl(fd: c_int, request: c_ulong, argument: c_ulong) -> c_int {
    type F = unsafe extern "C" fn(c_int, c_ulong, ...) -> c_int;
    // SAFETY: this is the function's type, and the caller vouches for the arguments.
    unsafe {
        match IOCTL.get::<F>() {
            Some(ioctl) => ioctl(fd, request, argument),
            None => libc::syscall(libc::SYS_ioctl, fd, request, argument) as c_int,
        }
    }
}

/// `read(2)`.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn read(fd: c_int, buffer: *mut c_void, length: size_t) -> ssize_t {
    type F = unsafe extern "C" fn(c_int, *mut c_void, size_t) -> ssize_t;
    // SAFETY: this is the function's type, and the caller vouches for the arguments.
    unsafe {
        match READ.get::<F>() {
            Some(read) => read(fd, buffer, length),
            None => libc::syscall(libc::SYS_read, fd, buffer, length) as ssize_t,
        }
    }
}

/// `__read_chk`, the C library's `read` that knows the buffer's size.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn read_checked(
    fd: c_int,
    buffer: *mut c_void,
    length: size_t,
    size: size_t,
) -> ssize_t {
    type F = unsafe extern "C" fn(c_int, *mut c_void, size_t, size_t) -> ssize_t;
    // SAFETY: this is the function's type, and the caller vouches for the arguments; without it,
    // no more than the buffer's size is read.
    unsafe {
        match READ_CHECKED.get::<F>() {
            Some(read) => read(fd, buffer, length, size),
            None => read(fd, buffer, length.min(size)),
        }
    }
}

/// `write(2)`.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn write(fd: c_int, buffer: *const c_void, length: size_t) -> ssize_t {
    type F = unsafe extern "C" fn(c_int, *const c_void, size_t) -> ssize_t;
    // SAFETY: this is the function's type, and the caller vouches for the arguments.
    unsafe {
        match WRITE.get::<F>() {
            Some(write) => write(fd, buffer, length),
            None => libc::syscall(libc::SYS_write, fd, buffer, length) as ssize_t,
        }
    }
}

/// `readv(2)`.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn readv(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    type F = unsafe extern "C" fn(c_int, *const iovec, c_int) -> ssize_t;
    // SAFETY: this is the function's type, and the caller vouches for the arguments.
    unsafe {
        match READV.get::<F>() {
            Some(readv) => readv(fd, parts, count),
            None => libc::syscall(libc::SYS_readv, fd, parts, count) as ssize_t,
        }
    }
}

/// `writev(2)`.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    type F = unsafe extern "C" fn(c_int, *const iovec, c_int) -> ssize_t;
    // SAFETY: this is the function's type, and the caller vouches for the arguments.
    unsafe {
        match WRITEV.get::<F>() {
            Some(writev) => writev(fd, parts, count),
            None => libc::syscall(libc::SYS_writev, fd, parts, count) as ssize_t,
        }
    }
}

/// `mmap(2)`, by a system call: allocators call it before anything is set up.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    let (protection, flags) = (c_long::from(protection), c_long::from(flags));
    // SAFETY: the caller vouches for the arguments.
    let mapped = unsafe {
        libc::syscall(
            libc::SYS_mmap,
            address,
            length,
            protection,
            flags,
            c_long::from(fd),
            offset,
        )
    };
    std::ptr::with_exposed_provenance_mut(mapped as usize)
}

/// `munmap(2)`, by a system call.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn munmap(address: *mut c_void, length: size_t) -> c_int {
    // SAFETY: the caller vouches for the arguments.
    unsafe { libc::syscall(libc::SYS_munmap, address, length) as c_int }
}

/// `memfd_create(2)`, by a system call.
///
/// # Safety
/// As of the C library's function.
pub unsafe fn memfd_create(name: *const c_char, flags: libc::c_uint) -> c_int {
    // SAFETY: the caller vouches for the arguments.
    unsafe { libc::syscall(libc::SYS_memfd_create, name, flags) as c_int }
}

/// The calling thread's `errno`.
pub fn errno() -> c_int {
    // SAFETY: the C library gives a valid address of the thread's own.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's `errno`.
pub fn set_errno(errno: c_int) {
    // SAFETY: the C library gives a valid address of the thread's own.
    unsafe { *libc::__errno_location() = errno };
}
