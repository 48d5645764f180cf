use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::MemfdFlags;
use vm_iommufd_wire::{Inline, Privileges, Reply, Request, VERSION, ask, receive, send};

use super::{Client, server, socket};
use crate::Errno;

/// `IOMMU_IOAS_ALLOC` and its argument: the size, the flags and the id that comes back.
const IOAS_ALLOC: u32 = 0x3b81;

fn failed(errno: Errno) -> Reply {
    Reply::done(Err(errno.raw() as u16))
}

#[test]
fn a_call_reaches_the_callers_memory() {
    let server = server();
    let client = Client::connect(&server, 0);
    let (_fd, handle) = client.open();
    let argument = Box::into_raw(Box::new([12u32, 0, 0]));
    let address = argument.expose_provenance() as u64;
    assert_eq!(
        client.ioctl(handle, IOAS_ALLOC, address, &[]),
        Reply::done(Ok(0))
    );
    // SAFETY: it came from a box, and nobody else has it.
    let argument = unsafe { Box::from_raw(argument) };
    assert_eq!(*argument, [12, 0, 1]);
    assert_eq!(
        client.ioctl(handle, IOAS_ALLOC, 0, &[]),
        failed(Errno::EFAULT)
    );
    assert_eq!(
        client.ioctl(handle, IOAS_ALLOC, u64::MAX, &[]),
        failed(Errno::EFAULT)
    );
    assert_eq!(
        client.ioctl(handle + 1, IOAS_ALLOC, 0, &[]),
        failed(Errno::EBADF)
    );
}

#[test]
fn an_argument_that_came_with_the_call_goes_back_with_the_answer() {
    let server = server();
    let client = Client::connect(&server, 0);
    let (_fd, handle) = client.open();
    let content = [12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7];
    // Nothing is at that address, and nobody looks.
    let Reply::Done {
        outcome, written, ..
    } = client.ioctl(handle, IOAS_ALLOC, 64, &content)
    else {
        panic!("an ioctl is done");
    };
    assert_eq!(outcome, Ok(0));
    assert!(
        written
            .runs()
            .flat_map(|(at, bytes)| at..at + bytes.len())
            .all(|at| at < 12)
    );
    assert_eq!(written.bytes[8..14], [1, 0, 0, 0, 0, 0]);
    // What it does not hold whole is looked for.
    assert_eq!(
        client.ioctl(handle, IOAS_ALLOC, 64, &content[..8]),
        failed(Errno::EFAULT)
    );
}

#[test]
fn an_argument_that_may_not_be_written_is_a_fault() {
    static CONSTANT: [u32; 3] = [12, 0, 0];
    let server = server();
    let client = Client::connect(&server, 0);
    let (_fd, handle) = client.open();
    let constant = std::hint::black_box(&CONSTANT);
    let address = constant.as_ptr().expose_provenance() as u64;
    assert_eq!(
        client.ioctl(handle, IOAS_ALLOC, address, &[]),
        failed(Errno::EFAULT)
    );
    assert_eq!(*constant, [12, 0, 0]);
}

#[test]
fn what_a_descriptor_stands_for_goes_with_its_last_copy_and_before_the_next_request() {
    let server = server();
    let client = Client::connect(&server, 0);
    let (fd, handle) = client.open();
    let copy = fd.try_clone().unwrap();
    drop(fd);
    assert_eq!(client.ask(&Request::Sync).0, Reply::done(Ok(0)));
    assert_eq!(server.shared().handles.count(), 1);
    drop(copy);
    assert_eq!(client.ask(&Request::Sync).0, Reply::done(Ok(0)));
    assert_eq!(server.shared().handles.count(), 0);
    assert_eq!(
        client.ioctl(handle, IOAS_ALLOC, 0, &[]),
        failed(Errno::EBADF)
    );
}

#[test]
fn a_context_is_not_read_nor_written() {
    let server = server();
    let client = Client::connect(&server, 0);
    let (_fd, handle) = client.open();
    let (address, length) = (0, 8);
    let read = Request::Read {
        handle,
        address,
        length,
    };
    let write = Request::Write {
        handle,
        address,
        length,
    };
    for request in [read, write] {
        assert_eq!(client.ask(&request).0, failed(Errno::EINVAL));
    }
}

#[test]
fn an_image_keeps_its_number_and_the_last_is_its_processs_present_one() {
    let server = server();
    let first = Client::connect(&server, 0);
    let second = Client::connect(&server, first.image);
    assert_eq!(first.image, second.image);
    let other = Client::connect(&server, 0);
    assert_ne!(other.image, first.image);
    let images = &server.shared().images;
    let present = images.of_process(std::process::id()).unwrap();
    assert_eq!(present.number(), other.image);
    assert!(images.of_process(1).is_none());
}

#[test]
fn a_client_of_another_version_is_refused() {
    let server = server();
    let socket = socket(&server);
    let null = File::open("/dev/null").unwrap();
    let hello = Request::Hello {
        version: VERSION + 1,
        image: 0,
        parent: 0,
    };
    let files = [null.as_fd(), null.as_fd()];
    let (reply, _) = ask(&socket, &hello, &files, |_| None).unwrap();
    assert_eq!(reply, failed(Errno::EPERM));
    assert!(receive(&socket).unwrap().is_none());
}

#[test]
fn who_does_not_introduce_itself_or_speaks_nonsense_is_hung_up_on() {
    let server = server();
    let silent = socket(&server);
    send(&silent, &Request::Open.encode(), &[]).unwrap();
    // Unread messages may turn the hang-up into a reset.
    assert!(receive(&silent).map_or(true, |message| message.is_none()));
    let client = Client::connect(&server, 0);
    send(&client.socket, b"nonsense", &[]).unwrap();
    assert!(receive(&client.socket).map_or(true, |message| message.is_none()));
}

#[test]
fn only_files_in_memory_are_shared() {
    let server = server();
    let client = Client::connect(&server, 0);
    let memory = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
    let disk = File::open("/proc/self/exe").unwrap();
    let share = Request::Share { length: 4096 };
    let shared = |files: &[_]| ask(&client.socket, &share, files, |_| None).unwrap().0;
    assert_eq!(shared(&[memory.as_fd()]), Reply::done(Ok(0)));
    assert_eq!(shared(&[memory.as_fd()]), Reply::done(Ok(0)));
    assert_eq!(shared(&[disk.as_fd()]), failed(Errno::EINVAL));
    assert_eq!(shared(&[]), failed(Errno::EINVAL));
    assert_eq!(server.shared().images.files.count(), 1);
}

#[test]
fn files_that_nobody_has_mapped_are_forgotten() {
    let server = server();
    let client = Client::connect(&server, 0);
    let share = Request::Share { length: 4096 };
    for _ in 0..200 {
        let file = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        ask(&client.socket, &share, &[file.as_fd()], |_| None).unwrap();
    }
    assert!(server.shared().images.files.count() <= 33);
}

#[test]
fn a_process_without_pins_has_none() {
    let server = server();
    let client = Client::connect(&server, 0);
    let none = Reply::Pins {
        pinned: 0,
        locked: 0,
    };
    for process in [std::process::id(), 1, u32::MAX] {
        assert_eq!(client.ask(&Request::Status { process }).0, none);
    }
}

#[test]
fn a_file_that_a_call_names_is_asked_for() {
    /// `IOMMU_IOAS_MAP_FILE`.
    const MAP_FILE: u32 = 0x3b8f;
    let server = server();
    let client = Client::connect(&server, 0);
    let (_fd, handle) = client.open();
    client.ioctl(
        handle,
        IOAS_ALLOC,
        64,
        &[12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    let memory = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memory, 4096).unwrap();
    // 40 bytes: readable and writable, address space 1, file 5, from 0, one page, at any address.
    let words = [40u64 | 6 << 32, 1 | 5 << 32, 0, 4096, 0];
    let mut content = Inline::default();
    content.set(0, &words.map(u64::to_ne_bytes).concat());
    let call = Request::Ioctl {
        handle,
        request: MAP_FILE,
        argument: 64,
        content,
        privileges: Some(Privileges {
            lockable: 1 << 20,
            ..Privileges::default()
        }),
    };
    let outcome = |file: Option<_>| {
        let mut asked = 0;
        let (reply, _) = ask(&client.socket, &call, &[], |fd| {
            asked = fd;
            file
        })
        .unwrap();
        assert_eq!(asked, 5);
        let Reply::Done { outcome, .. } = reply else {
            panic!("an ioctl is done");
        };
        outcome
    };
    assert_eq!(outcome(None), Err(Errno::EBADF.raw() as u16));
    assert_eq!(outcome(Some(memory.as_fd())), Ok(0));
}
