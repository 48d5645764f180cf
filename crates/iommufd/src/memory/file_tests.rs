use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::{Backing, FileBacking, guard_truncation};
use crate::Errno;

const PAGE: u64 = 4096;

fn file(pages: u64) -> OwnedFd {
    let file = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, pages * PAGE).unwrap();
    file
}

fn backing(file: &OwnedFd) -> FileBacking {
    guard_truncation().unwrap();
    FileBacking::new(file.try_clone().unwrap()).unwrap()
}

#[test]
fn a_mapped_file_is_the_same_memory_as_the_file() {
    let file = file(2);
    let backing = backing(&file);
    let range = backing.host(PAGE, 4).unwrap();
    backing.write(PAGE, b"four").unwrap();
    // SAFETY: the range is four bytes of the backing, which lives.
    let seen = unsafe { range.start.cast::<[u8; 4]>().read_volatile() };
    assert_eq!(&seen, b"four");
    // SAFETY: as above.
    unsafe { range.start.cast::<[u8; 4]>().write_volatile(*b"hand") };
    let mut back = [0; 4];
    backing.read(PAGE, &mut back).unwrap();
    assert_eq!(&back, b"hand");
    for (offset, length) in [
        (2 * PAGE, 1),
        (PAGE, PAGE + 1),
        (u64::MAX, 2),
        (1, u64::MAX),
    ] {
        assert_eq!(backing.host(offset, length), None, "{offset:x}");
    }
}

#[test]
fn a_truncation_under_an_access_loses_the_file_and_not_the_process() {
    let file = file(2);
    let backing = backing(&file);
    let range = backing.host(PAGE, 1).unwrap();
    backing.write(PAGE, b"x").unwrap();
    ftruncate(&file, PAGE).unwrap();
    // SAFETY: the range is a byte of the backing, which lives; the guard is there.
    let seen = unsafe { range.start.read_volatile() };
    assert_eq!(seen, 0);
    assert_eq!(backing.host(0, 1), None);
    assert_eq!(backing.read(0, &mut [0]), Err(Errno::EFAULT));
    assert_eq!(backing.write(0, &[0]), Err(Errno::EFAULT));
}

#[test]
fn a_file_is_not_made_longer_by_a_write() {
    let file = file(1);
    let backing = backing(&file);
    assert_eq!(backing.write(PAGE - 1, b"xy"), Err(Errno::EFAULT));
    assert_eq!(backing.write(u64::MAX, b"xy"), Err(Errno::EFAULT));
    assert_eq!(backing.length(), Some(PAGE));
}

#[test]
fn what_may_only_be_read_is_not_written() {
    let file = file(1);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let read_only = File::open(path).unwrap();
    let backing = backing(&read_only.into());
    assert_eq!(backing.host(0, 1), None);
    assert_eq!(backing.write(0, b"x"), Err(Errno::EFAULT));
    assert_eq!(backing.read(0, &mut [1]), Ok(()));
}
