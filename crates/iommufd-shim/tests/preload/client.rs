//! What a program does under the library. Each function is run alone in a process by the tests in
//! `main.rs`.

use std::collections::HashSet;
use std::ffi::c_void;
use std::process::Command;
use std::ptr;
use std::thread;

use libc::{c_int, c_ulong};

const IOAS_ALLOC: c_ulong = 0x3b81;
const UNKNOWN: c_ulong = 0x3b7f;
const PAGE: usize = 4096;

fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

fn open(flags: c_int) -> c_int {
    // SAFETY: the path ends in a zero.
    let fd = unsafe { libc::open(c"/dev/iommu".as_ptr(), libc::O_RDWR | flags) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    fd
}

/// Allocates an address space; the answer is its id.
fn allocate(fd: c_int) -> Result<u32, c_int> {
    let mut argument = [12u32, 0, 0];
    // SAFETY: the argument is as long as it says, and lives as long as the call.
    match unsafe { libc::ioctl(fd, IOAS_ALLOC, argument.as_mut_ptr()) } {
        0 => Ok(argument[2]),
        _ => Err(errno()),
    }
}

fn close(fd: c_int) {
    // SAFETY: the descriptor is this test's own.
    assert_eq!(unsafe { libc::close(fd) }, 0);
}

/// Runs `child` in a forked process, which ends with its answer.
fn fork(child: impl FnOnce() -> bool) -> libc::pid_t {
    // SAFETY: the child calls what may be called after a fork, and ends.
    match unsafe { libc::fork() } {
        // SAFETY: ends the child without what belongs to its parent.
        0 => unsafe { libc::_exit(i32::from(!child())) },
        pid => pid,
    }
}

fn wait(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: the status is this frame's.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0, "the child failed");
}

fn map(length: usize, flags: c_int) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping takes nothing from anybody.
    let mapped = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            protection,
            libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    assert_ne!(
        mapped,
        libc::MAP_FAILED,
        "{}",
        std::io::Error::last_os_error()
    );
    mapped.cast()
}

fn unmap(start: *mut u8, length: usize) {
    // SAFETY: it was mapped by `map`, and nothing refers to it any more.
    assert_eq!(unsafe { libc::munmap(start.cast::<c_void>(), length) }, 0);
}

/// The line of `/proc/self/maps` whose area begins at an address.
fn area(start: *mut u8) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let prefix = format!("{:x}-", start.addr());
    let line = maps.lines().find(|line| line.starts_with(&prefix));
    line.unwrap().to_owned()
}

#[test]
#[ignore = "needs the preload library"]
fn descriptors_have_the_kernels_lifetimes() {
    let fd = open(0);
    // SAFETY: the descriptor is open.
    let copy = unsafe { libc::dup(fd) };
    let first = allocate(fd).unwrap();
    close(fd);
    assert_eq!(allocate(fd), Err(libc::EBADF));
    let second = allocate(copy).unwrap();
    assert_ne!(first, second, "one context");
    wait(fork(|| {
        let inherited = allocate(copy).is_ok();
        // SAFETY: the child's copy is its own.
        inherited && unsafe { libc::close(copy) } == 0
    }));
    assert!(
        allocate(copy).unwrap() > second,
        "the child closed only its own"
    );
    close(copy);
    let other = open(0);
    assert_eq!(allocate(other), Ok(first), "a new context begins anew");
    close(other);
}

#[test]
#[ignore = "needs the preload library"]
fn errors_are_the_kernels() {
    static CONSTANT: [u32; 3] = [12, 0, 0];
    let fd = open(0);
    let call = |request: c_ulong, argument: *const u32| {
        // SAFETY: the kernel's rules: whatever the argument is, it is an error at most.
        let result = unsafe { libc::ioctl(fd, request, argument) };
        assert_eq!(result, -1);
        errno()
    };
    let argument = [12u32, 0, 0];
    assert_eq!(call(IOAS_ALLOC, ptr::null()), libc::EFAULT);
    assert_eq!(
        call(IOAS_ALLOC, ptr::without_provenance(usize::MAX - 3)),
        libc::EFAULT
    );
    assert_eq!(
        call(IOAS_ALLOC, std::hint::black_box(&CONSTANT).as_ptr()),
        libc::EFAULT
    );
    assert_eq!(call(UNKNOWN, argument.as_ptr()), libc::ENOTTY);
    let short = [11u32, 0, 0];
    assert_eq!(call(IOAS_ALLOC, short.as_ptr()), libc::EINVAL);
    let mut buffer = [0u8; 8];
    // SAFETY: the buffer is as long as it says.
    assert_eq!(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), 8) }, -1);
    assert_eq!(errno(), libc::EINVAL);
    close(fd);
    // SAFETY: closing what is not open is an error.
    assert_eq!(unsafe { libc::close(fd) }, -1);
    assert_eq!(errno(), libc::EBADF);
}

#[test]
#[ignore = "needs the preload library"]
fn many_threads_call_at_once() {
    let fd = open(0);
    let threads: Vec<_> = (0..80)
        .map(|_| thread::spawn(move || (0..20).map(|_| allocate(fd).unwrap()).collect::<Vec<_>>()))
        .collect();
    let ids: HashSet<u32> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    assert_eq!(ids.len(), 80 * 20);
    close(fd);
}

#[test]
#[ignore = "needs the preload library"]
fn children_call_while_their_parent_does() {
    let fd = open(0);
    let threads: Vec<_> = (0..3)
        .map(|_| {
            thread::spawn(move || {
                for _ in 0..300 {
                    allocate(fd).unwrap();
                }
            })
        })
        .collect();
    for _ in 0..30 {
        wait(fork(|| {
            let shared = allocate(fd).is_ok();
            let own = open(0);
            let fresh = allocate(own) == Ok(1);
            // SAFETY: the descriptor is the child's own.
            shared && fresh && unsafe { libc::close(own) } == 0
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    close(fd);
}

#[test]
#[ignore = "needs the preload library"]
fn shared_memory_is_a_memory_file_and_stays_shared() {
    let memory = map(3 * PAGE, libc::MAP_SHARED);
    assert!(
        area(memory).contains("/memfd:anonymous"),
        "{}",
        area(memory)
    );
    // SAFETY: the pages are mapped, and only this test has them.
    unsafe { memory.add(2 * PAGE).write_volatile(1) };
    wait(fork(|| {
        // SAFETY: the pages are mapped, and the parent waits.
        unsafe {
            memory.write_volatile(7);
            memory.add(2 * PAGE).read_volatile() == 1
        }
    }));
    // SAFETY: the pages are mapped, and the child has ended.
    assert_eq!(unsafe { memory.read_volatile() }, 7);
    // A fixed place is kept, as is a length that is no whole page.
    let again = map(PAGE + 1, libc::MAP_SHARED);
    // SAFETY: the place is this test's own, and nothing refers to it.
    let fixed = unsafe {
        libc::mmap(
            again.cast(),
            PAGE,
            libc::PROT_READ,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    assert_eq!(fixed.cast::<u8>(), again);
    unmap(again, 2 * PAGE);
    unmap(memory, 3 * PAGE);
}

#[test]
#[ignore = "needs the preload library"]
fn private_memory_is_left_alone() {
    let memory = map(PAGE, libc::MAP_PRIVATE);
    assert!(!area(memory).contains("memfd"), "{}", area(memory));
    unmap(memory, PAGE);
}

#[test]
#[ignore = "needs the preload library"]
fn huge_pages_are_aligned_whether_there_are_any_or_not() {
    const HUGE: usize = 2 << 20;
    for flags in [libc::MAP_SHARED, libc::MAP_PRIVATE] {
        let memory = map(HUGE, flags | libc::MAP_HUGETLB);
        assert!(memory.addr().is_multiple_of(HUGE), "{memory:?}");
        // SAFETY: the pages are mapped, and only this test has them.
        unsafe {
            memory.write_volatile(1);
            memory.add(HUGE - 1).write_volatile(1);
        }
        unmap(memory, HUGE);
    }
    // SAFETY: the name ends in a zero.
    let file = unsafe { libc::memfd_create(c"huge".as_ptr(), libc::MFD_HUGETLB) };
    assert!(file >= 0, "{}", std::io::Error::last_os_error());
    close(file);
}

#[test]
#[ignore = "needs the preload library"]
fn flags_of_an_open_are_kept() {
    for (flags, expected) in [(0, 0), (libc::O_CLOEXEC, libc::FD_CLOEXEC)] {
        let fd = open(flags);
        // SAFETY: the descriptor is open.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, expected);
        close(fd);
    }
    // SAFETY: the path ends in a zero.
    let fd = unsafe { libc::openat(-1, c"/dev/iommu".as_ptr(), libc::O_RDWR) };
    assert!(fd >= 0);
    assert_eq!(allocate(fd), Ok(1));
    close(fd);
}

#[test]
#[ignore = "needs the preload library"]
fn a_program_may_close_all_descriptors() {
    let fd = open(0);
    assert_eq!(allocate(fd), Ok(1));
    wait(fork(|| {
        // SAFETY: the child uses none of the descriptors that this closes.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
        let own = open(0);
        allocate(own) == Ok(1)
    }));
    wait(fork(|| {
        for fd in 3..1024 {
            // SAFETY: the child uses none of the descriptors that this closes.
            unsafe { libc::close(fd) };
        }
        let own = open(0);
        allocate(own) == Ok(1)
    }));
    assert_eq!(allocate(fd), Ok(2));
    close(fd);
}

#[test]
#[ignore = "needs the preload library"]
fn other_descriptors_are_not_touched() {
    let mut ends = [0; 2];
    // SAFETY: the array takes both ends.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let [reading, writing] = ends;
    // SAFETY: the buffers are as long as is said.
    unsafe {
        assert_eq!(libc::write(writing, b"four".as_ptr().cast(), 4), 4);
        let mut waiting: c_int = 0;
        assert_eq!(libc::ioctl(reading, libc::FIONREAD, &raw mut waiting), 0);
        assert_eq!(waiting, 4);
        let mut buffer = [0u8; 8];
        assert_eq!(libc::read(reading, buffer.as_mut_ptr().cast(), 8), 4);
        assert_eq!(&buffer[..4], b"four");
        assert_eq!(libc::ioctl(reading, IOAS_ALLOC, buffer.as_mut_ptr()), -1);
        assert_eq!(errno(), libc::ENOTTY);
    }
    close(reading);
    close(writing);
}

#[test]
#[ignore = "needs the preload library"]
fn another_program_may_be_started() {
    let fd = open(0);
    assert_eq!(allocate(fd), Ok(1));
    let output = Command::new("cat")
        .arg("/proc/self/status")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("VmPin:\t       0 kB"));
    assert_eq!(allocate(fd), Ok(2));
    close(fd);
}

#[test]
#[ignore = "needs the preload library"]
fn another_user_is_refused() {
    // SAFETY: it takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let fd = open(0);
    assert_eq!(allocate(fd), Ok(1));
    wait(fork(|| {
        const NOBODY: libc::uid_t = 65534;
        // SAFETY: it changes this child alone.
        assert_eq!(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }, 0);
        // SAFETY: the path ends in a zero.
        let refused = unsafe { libc::open(c"/dev/iommu".as_ptr(), libc::O_RDWR) };
        refused == -1 && allocate(fd).is_err()
    }));
    assert_eq!(allocate(fd), Ok(2));
    close(fd);
}
