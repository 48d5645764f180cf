use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::server::files::Files;
use crate::server::image::Image;
use crate::{Errno, Process};

const PAGE: usize = 4096;

/// Pages of this process, unmapped when dropped.
struct Pages {
    start: *mut c_void,
    length: usize,
}

impl Pages {
    fn private(pages: usize, protection: ProtFlags) -> Pages {
        let length = pages * PAGE;
        // SAFETY: the mapping is new, and its address is only told to the image.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE) };
        Pages {
            start: start.unwrap(),
            length,
        }
    }

    fn of_file(file: &impl AsFd, pages: usize, offset: u64) -> Pages {
        let length = pages * PAGE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the mapping is new, and its address is only told to the image.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                protection,
                MapFlags::SHARED,
                file,
                offset,
            )
        };
        Pages {
            start: start.unwrap(),
            length,
        }
    }

    fn address(&self) -> u64 {
        self.start.expose_provenance() as u64
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: it was mapped here, and nothing refers to it.
        unsafe { munmap(self.start, self.length).unwrap() };
    }
}

fn own_image(files: &Arc<Files>) -> Arc<Image> {
    let memory = File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")
        .unwrap();
    let maps = File::open("/proc/self/maps").unwrap();
    Image::new(
        7,
        (std::process::id(), 0),
        (memory, maps),
        Arc::clone(files),
        None,
    )
}

#[test]
fn private_memory_is_read_and_written_where_its_owner_may() {
    let image = own_image(&Arc::default());
    let pages = Pages::private(2, ProtFlags::READ | ProtFlags::WRITE);
    image
        .write_memory(pages.address() + 4090, b"across pages")
        .unwrap();
    let mut back = [0; 12];
    image
        .read_memory(pages.address() + 4090, &mut back)
        .unwrap();
    assert_eq!(&back, b"across pages");

    let fixed = Pages::private(1, ProtFlags::READ);
    assert_eq!(
        image.write_memory(fixed.address(), b"x"),
        Err(Errno::EFAULT)
    );
    assert_eq!(image.read_memory(fixed.address(), &mut back), Ok(()));
    assert_eq!(image.read_memory(0, &mut back), Err(Errno::EFAULT));
    assert_eq!(
        image.read_memory(u64::MAX - 3, &mut back),
        Err(Errno::EFAULT)
    );
    assert_eq!(image.write_memory(u64::MAX - 3, &back), Err(Errno::EFAULT));
}

#[test]
fn a_shared_file_is_the_same_memory_wherever_it_is_mapped() {
    let files = Arc::new(Files::default());
    let image = own_image(&files);
    let file = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 4 * PAGE as u64).unwrap();
    let one = Pages::of_file(&file, 4, 0);
    let other = Pages::of_file(&file, 2, 2 * PAGE as u64);

    // Not known yet, it is memory of this image.
    let runs = image.resolve(one.address(), PAGE as u64, true).unwrap();
    assert_eq!((runs.len(), runs[0].offset), (1, one.address()));

    files
        .add(file.try_clone().unwrap(), 4 * PAGE as u64)
        .unwrap();
    let first = image
        .resolve(one.address() + 2 * PAGE as u64, PAGE as u64, true)
        .unwrap();
    let second = image.resolve(other.address(), PAGE as u64, true).unwrap();
    assert_eq!(first[0].backing.id(), second[0].backing.id());
    assert_eq!(first[0].offset, second[0].offset);
    second[0].backing.write(second[0].offset, b"here").unwrap();
    let mut back = [0; 4];
    first[0].backing.read(first[0].offset, &mut back).unwrap();
    assert_eq!(&back, b"here");
}

#[test]
fn what_a_file_lost_is_a_fault() {
    let files = Arc::new(Files::default());
    let image = own_image(&files);
    let file = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 2 * PAGE as u64).unwrap();
    let pages = Pages::of_file(&file, 2, 0);
    files
        .add(file.try_clone().unwrap(), 2 * PAGE as u64)
        .unwrap();
    let runs = image
        .resolve(pages.address(), 2 * PAGE as u64, true)
        .unwrap();
    ftruncate(&file, PAGE as u64).unwrap();
    let resolved = image.resolve(pages.address(), 2 * PAGE as u64, true);
    assert_eq!(resolved.map(|runs| runs.len()), Err(Errno::EFAULT));
    let mut back = [0; 8];
    let lost = runs[0].offset + PAGE as u64;
    assert_eq!(runs[0].backing.read(lost, &mut back), Err(Errno::EFAULT));
    assert_eq!(runs[0].backing.write(lost, &back), Err(Errno::EFAULT));
}

#[test]
fn runs_follow_the_areas_and_a_hole_or_a_missing_right_is_a_fault() {
    let image = own_image(&Arc::default());
    let pages = Pages::private(3, ProtFlags::READ | ProtFlags::WRITE);
    let whole = image
        .resolve(pages.address(), 3 * PAGE as u64, true)
        .unwrap();
    let length: u64 = whole.iter().map(|run| run.length).sum();
    assert_eq!(length, 3 * PAGE as u64);

    let fixed = Pages::private(1, ProtFlags::READ);
    assert!(image.resolve(fixed.address(), PAGE as u64, false).is_ok());
    let written = image.resolve(fixed.address(), PAGE as u64, true);
    assert_eq!(written.map(|runs| runs.len()), Err(Errno::EFAULT));
    for (address, length) in [(0, 4096), (u64::MAX - 4095, 4096), (!0xfff, 8192)] {
        let resolved = image.resolve(address, length, false);
        assert_eq!(
            resolved.map(|runs| runs.len()),
            Err(Errno::EFAULT),
            "{address:x}"
        );
    }
}
