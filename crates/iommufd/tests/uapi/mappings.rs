//! Address spaces, the memory in them, and accesses.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use vm_iommufd::selftest::APERTURE_START;
use vm_iommufd::{AccessUser, Caller, CallerFile};

#[test]
fn what_map_refuses() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let map_with = |change: &dyn Fn(&mut uapi::iommu_ioas_map)| {
        let mut command = map(ioas, MEMORY, PAGE, Some(0x10_0000));
        change(&mut command);
        bench.call(calls::IOMMU_IOAS_MAP, &mut command).map(|_| ())
    };
    assert_eq!(map_with(&|c| c.flags = 1), Err(Errno::EINVAL));
    assert_eq!(map_with(&|c| c.ioas_id = 9), Err(Errno::ENOENT));
    assert_eq!(map_with(&|c| c.length = 0), Err(Errno::EINVAL));
    assert_eq!(map_with(&|c| c.length = u64::MAX), Err(Errno::EOVERFLOW));
    assert_eq!(map_with(&|c| c.iova = u64::MAX), Err(Errno::EOVERFLOW));
    assert_eq!(
        map_with(&|c| c.iova = u64::MAX - 100),
        Err(Errno::EOVERFLOW)
    );
    assert_eq!(
        map_with(&|c| c.user_va = u64::MAX - 100),
        Err(Errno::EOVERFLOW)
    );
    assert_eq!(map_with(&|_| {}), Ok(()));
    assert_eq!(map_with(&|_| {}), Err(Errno::EEXIST));
    // Nothing is pinned as long as no device uses it: memory need not be there.
    assert_eq!(
        map_with(&|c| (c.user_va, c.iova) = (0x1000, 0x20_0000)),
        Ok(())
    );
    assert_eq!(bench.pinned(), 0);
    assert_eq!(bench.device(ioas, 0), Err(Errno::EADDRINUSE));
}

#[test]
fn a_device_pins_what_is_mapped_and_gives_it_back() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    bench
        .map(ioas, MEMORY + 2048, 3 * PAGE, Some(APERTURE_START + 2048))
        .unwrap();
    let (first, table, _) = bench.device(ioas, 0).unwrap();
    assert_eq!(bench.pinned(), 4);
    // A second device shares the table, and so the pins.
    let (second, same, _) = bench.device(ioas, 0).unwrap();
    assert_eq!(same, table);
    assert_eq!(bench.pinned(), 4);
    assert_eq!(bench.map(ioas, 0x1000, PAGE, None), Err(Errno::EFAULT));
    assert_eq!(
        bench.map(ioas, MEMORY, 1000, None),
        Err(Errno::EINVAL),
        "not of whole pages"
    );
    bench.destroy(first).unwrap();
    assert_eq!(bench.pinned(), 4);
    bench.destroy(second).unwrap();
    assert_eq!(bench.pinned(), 0);
    assert_eq!(
        bench.destroy(table),
        Err(Errno::ENOENT),
        "an automatic table goes with its last"
    );
    assert_eq!(bench.destroy(ioas), Ok(0));
}

#[test]
fn memory_of_a_process_that_is_gone_is_there_only_if_it_was_pinned() {
    let bench = Bench::new();
    let (pinned, lazy) = (bench.ioas(), bench.ioas());
    bench.device(pinned, 0).unwrap();
    let other = program(2);
    let mut command = map(pinned, MEMORY, PAGE, Some(APERTURE_START));
    assert_eq!(
        other.call(&bench.context, calls::IOMMU_IOAS_MAP, &mut command),
        Ok(0)
    );
    command.ioas_id = lazy;
    assert_eq!(
        other.call(&bench.context, calls::IOMMU_IOAS_MAP, &mut command),
        Ok(0)
    );
    other.poke(MEMORY, b"left behind").unwrap();
    other.end();
    assert_eq!(bench.device(lazy, 0), Err(Errno::EFAULT));
    // What is pinned goes on to another table.
    let (_, _, bound) = bench.device(pinned, 0).unwrap();
    bench.hwpt(bound, pinned, 0).unwrap();
    let access = bench.access(pinned, false).unwrap();
    let mut command = test(Operation::AccessRw, access);
    command.set_long(0, APERTURE_START);
    command.set_long(8, 11);
    command.set_long(16, MEMORY);
    assert_eq!(bench.test(&mut command), Ok(0));
    let mut found = [0; 11];
    bench.program.peek(MEMORY, &mut found).unwrap();
    assert_eq!(&found, b"left behind");
}

#[test]
fn pins_count_against_the_limit_of_the_user_or_of_the_process() {
    for per_process in [false, true] {
        let bench = Bench::new();
        if per_process {
            let mut option = uapi::iommu_option {
                size: 24,
                val64: 1,
                ..Default::default()
            };
            bench.call(calls::IOMMU_OPTION, &mut option).unwrap();
        }
        bench.program.set_capable(false);
        bench.program.limit_memlock(2 * PAGE);
        let ioas = bench.ioas();
        bench.device(ioas, 0).unwrap();
        let iova = bench.map(ioas, MEMORY, 2 * PAGE, None).unwrap();
        let pins = bench.system.pins(bench.program.id());
        assert_eq!(pins.pinned_pages, 2);
        assert_eq!(pins.locked_pages, if per_process { 2 } else { 0 });
        assert_eq!(bench.map(ioas, MEMORY, PAGE, None), Err(Errno::ENOMEM));
        // Another process of the user has a limit of its own, or the same.
        let other = program(2);
        other.set_capable(false);
        other.limit_memlock(2 * PAGE);
        let mut command = map(ioas, MEMORY, PAGE, None);
        let found = other.call(&bench.context, calls::IOMMU_IOAS_MAP, &mut command);
        assert_eq!(
            found,
            if per_process {
                Ok(0)
            } else {
                Err(Errno::ENOMEM)
            }
        );
        bench.unmap(ioas, iova, 2 * PAGE).unwrap();
        assert_eq!(bench.pinned(), 0);
    }
}

fn memfd(pages: u64) -> OwnedFd {
    let file = tempfile::tempfile_in("/dev/shm").expect("there is memory for files");
    file.set_len(pages * PAGE).expect("it grows");
    file.into()
}

fn map_file(ioas: u32, fd: i32, start: u64, length: u64) -> uapi::iommu_ioas_map_file {
    uapi::iommu_ioas_map_file {
        size: 40,
        flags: 6,
        ioas_id: ioas,
        fd,
        start,
        length,
        iova: 0,
    }
}

#[test]
fn files_are_mapped_as_far_as_they_go_and_may_change_hands() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let (_, _, bound) = bench.device(ioas, 0).unwrap();
    let fd = bench.program.open(memfd(2));
    let file = |start, length| {
        let mut command = map_file(ioas, fd, start, length);
        bench
            .call(calls::IOMMU_IOAS_MAP_FILE, &mut command)
            .map(|_| command.iova)
    };
    assert_eq!(file(0, 0), Err(Errno::EINVAL));
    assert_eq!(file(0, 3 * PAGE), Err(Errno::EINVAL));
    assert_eq!(file(2 * PAGE, PAGE), Err(Errno::EINVAL));
    assert_eq!(file(u64::MAX, 2), Err(Errno::EOVERFLOW));
    let mut command = map_file(ioas, 999, 0, PAGE);
    assert_eq!(
        bench.call(calls::IOMMU_IOAS_MAP_FILE, &mut command),
        Err(Errno::EBADF)
    );
    // A descriptor of the framework that exports no memory.
    let mut queue = uapi::iommu_fault_alloc {
        size: 16,
        ..Default::default()
    };
    bench
        .call(calls::IOMMU_FAULT_QUEUE_ALLOC, &mut queue)
        .unwrap();
    let mut command = map_file(ioas, queue.out_fault_fd as i32, 0, PAGE);
    assert_eq!(
        bench.call(calls::IOMMU_IOAS_MAP_FILE, &mut command),
        Err(Errno::EINVAL)
    );
    let iova = file(PAGE, PAGE).unwrap();
    assert_eq!(bench.pinned(), 1);
    let other = program(2);
    let mut change = uapi::iommu_ioas_change_process {
        size: 8,
        ..Default::default()
    };
    let moved = other.call(
        &bench.context,
        calls::IOMMU_IOAS_CHANGE_PROCESS,
        &mut change,
    );
    assert_eq!(moved, Ok(0));
    assert_eq!(bench.pinned(), 0);
    assert_eq!(bench.system.pins(other.id()).pinned_pages, 1);
    // Memory of a process stays with it.
    bench.map(ioas, MEMORY, PAGE, None).unwrap();
    let refused = other.call(
        &bench.context,
        calls::IOMMU_IOAS_CHANGE_PROCESS,
        &mut change,
    );
    assert_eq!(refused, Err(Errno::EINVAL));
    bench.unmap(ioas, iova, PAGE).unwrap();
    assert_eq!(bench.system.pins(other.id()).pinned_pages, 0);
    let _ = bound;
}

#[test]
fn exported_memory_is_gone_when_it_is_revoked() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let (_, table, _) = bench.device(ioas, 0).unwrap();
    let mut export = test(Operation::DmabufGet, 0);
    export.set_word(0, 2 * PAGE as u32);
    let fd = bench.test(&mut export).unwrap();
    let mut command = map_file(ioas, fd, 0, 2 * PAGE);
    bench
        .call(calls::IOMMU_IOAS_MAP_FILE, &mut command)
        .unwrap();
    let mapped = || {
        let file = bench.program.file(fd);
        assert!(matches!(file, Ok(CallerFile::Ours(_))));
        let mut check = test(Operation::CheckMap, table);
        check.set_long(0, command.iova);
        check.set_long(8, PAGE);
        check.set_long(16, MEMORY);
        // The program's page is not pinned, so this tells nothing but that the call is right.
        bench.test(&mut check)
    };
    assert_eq!(mapped(), Err(Errno::EINVAL));
    let revoke = |revoked: bool| {
        let mut command = test(Operation::DmabufRevoke, 0);
        command.set_word(0, fd as u32);
        command.set_word(4, revoked.into());
        bench.test(&mut command)
    };
    assert_eq!(revoke(true), Ok(0));
    let again = || {
        let mut command = map_file(ioas, fd, 0, PAGE);
        bench
            .call(calls::IOMMU_IOAS_MAP_FILE, &mut command)
            .map(|_| ())
    };
    assert_eq!(again(), Err(Errno::ENODEV));
    assert_eq!(revoke(false), Ok(0));
    assert_eq!(again(), Ok(()));
    assert_eq!(bench.unmap(ioas, command.iova, 2 * PAGE), Ok(2 * PAGE));
}

#[test]
fn copies_need_the_permission_of_what_they_copy() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let mut command = map(ioas, MEMORY, 2 * PAGE, Some(0x10_0000));
    command.flags = 1 | 4;
    bench.call(calls::IOMMU_IOAS_MAP, &mut command).unwrap();
    let copy = |source, target, length, flags| {
        let mut command = uapi::iommu_ioas_copy {
            size: 40,
            flags,
            src_ioas_id: ioas,
            dst_ioas_id: ioas,
            length,
            src_iova: source,
            dst_iova: target,
        };
        bench.call(calls::IOMMU_IOAS_COPY, &mut command).map(|_| ())
    };
    assert_eq!(copy(0x10_0000, 0x20_0000, PAGE, 7), Err(Errno::EPERM));
    assert_eq!(copy(0x10_0000, 0x20_0000, PAGE, 5), Ok(()));
    assert_eq!(copy(0x10_1000, 0x30_0000, 2 * PAGE, 5), Err(Errno::ENOENT));
    assert_eq!(copy(0x10_0000, 0x20_0000, PAGE, 5), Err(Errno::EEXIST));
    assert_eq!(copy(u64::MAX, 0x40_0000, PAGE, 5), Err(Errno::EOVERFLOW));
    assert_eq!(copy(0x10_0000, 0x40_0000, 0, 5), Err(Errno::EINVAL));
    assert_eq!(copy(0x10_0000, 0x40_0000, PAGE, 1), Err(Errno::EINVAL));
}

#[test]
fn pinned_pages_are_asked_back_before_they_are_unmapped() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let access = bench.access(ioas, true).unwrap();
    let iova = bench.map(ioas, MEMORY, 4 * PAGE, None).unwrap();
    let pages = bench.pin(access, iova + PAGE, 2 * PAGE).unwrap();
    assert_eq!(bench.pinned(), 2);
    assert_eq!(bench.unmap(ioas, iova, 4 * PAGE), Ok(4 * PAGE));
    assert_eq!(bench.pinned(), 0);
    let mut unpin = test(Operation::DestroyAccessPages, access);
    unpin.set_word(0, pages);
    assert_eq!(bench.test(&mut unpin), Err(Errno::ENOENT));
    assert_eq!(bench.pin(access, iova, PAGE), Err(Errno::ENOENT));
    assert_eq!(
        bench.destroy(ioas),
        Err(Errno::EBUSY),
        "an access is attached"
    );
    bench.program.close(access as i32);
    assert_eq!(bench.destroy(ioas), Ok(0));
}

/// Keeps what it pinned, whatever it is asked.
#[derive(Default)]
struct Stubborn(AtomicU32);

impl AccessUser for Stubborn {
    fn unmap(&self, _: u64, _: u64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_user_that_keeps_pages_is_asked_a_hundred_times() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let user = Arc::new(Stubborn::default());
    let weak: std::sync::Weak<Stubborn> = Arc::downgrade(&user);
    let access = bench.context.access(ioas, true, weak).unwrap();
    let iova = bench.map(ioas, MEMORY, PAGE, None).unwrap();
    assert_eq!(access.pin(iova, PAGE, true).map(|pages| pages.len()), Ok(1));
    assert_eq!(bench.unmap(ioas, iova, PAGE), Err(Errno::EDEADLK));
    assert_eq!(user.0.load(Ordering::Relaxed), 101);
    assert_eq!(
        access.pin(iova, PAGE, true),
        Err(Errno::EINVAL),
        "it is being unmapped"
    );
    access.unpin(iova, PAGE);
    assert_eq!(bench.unmap(ioas, iova, PAGE), Ok(PAGE));
    drop(access);
    assert_eq!(bench.destroy(ioas), Ok(0));
}

#[test]
fn an_access_reads_and_writes_what_it_may() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let user: std::sync::Weak<Stubborn> = std::sync::Weak::new();
    let access = bench.context.access(ioas, false, user).unwrap();
    // Two areas of which the second is the first of the program's pages.
    bench
        .map(ioas, MEMORY + PAGE, PAGE, Some(0x10_0000))
        .unwrap();
    let mut command = map(ioas, MEMORY, PAGE, Some(0x10_1000));
    command.flags = 1 | 4;
    bench.call(calls::IOMMU_IOAS_MAP, &mut command).unwrap();
    bench.program.poke(MEMORY + 2 * PAGE - 3, b"abc").unwrap();
    bench.program.poke(MEMORY, b"def").unwrap();
    let mut found = [0; 6];
    assert_eq!(access.read(0x10_0ffd, &mut found), Ok(()));
    assert_eq!(&found, b"abcdef");
    assert_eq!(access.write(0x10_0ffd, b"ABC"), Ok(()));
    bench
        .program
        .peek(MEMORY + 2 * PAGE - 3, &mut found[..3])
        .unwrap();
    assert_eq!(&found[..3], b"ABC");
    assert_eq!(access.write(0x10_0ffd, b"ABCD"), Err(Errno::EPERM));
    assert_eq!(access.read(0x10_1ffd, &mut found), Err(Errno::ENOENT));
    assert_eq!(access.read(0x10_0000, &mut []), Err(Errno::EINVAL));
    assert_eq!(access.read(u64::MAX, &mut found), Err(Errno::EOVERFLOW));
}

#[test]
fn a_buffer_for_ranges_that_is_too_small_tells_how_many_there_are() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let mut reserve = test(Operation::AddReserved, ioas);
    reserve.set_long(0, PAGE);
    reserve.set_long(8, PAGE);
    bench.test(&mut reserve).unwrap();
    let mut command = uapi::iommu_ioas_iova_ranges {
        size: 32,
        ioas_id: ioas,
        num_iovas: 1,
        allowed_iovas: MEMORY,
        ..Default::default()
    };
    let found = bench.call(calls::IOMMU_IOAS_IOVA_RANGES, &mut command);
    assert_eq!((found, command.num_iovas), (Err(Errno::EMSGSIZE), 2));
    let mut bytes = [0; 32];
    bench.program.peek(MEMORY, &mut bytes).unwrap();
    assert_eq!(
        u64::from_le_bytes(bytes[8..16].try_into().unwrap()),
        PAGE - 1
    );
    assert_eq!(
        bytes[16..],
        [0; 16],
        "only what there is room for is written"
    );
    command.num_iovas = 2;
    command.allowed_iovas = 8;
    let found = bench.call(calls::IOMMU_IOAS_IOVA_RANGES, &mut command);
    assert_eq!(found, Err(Errno::EFAULT));
}

#[test]
fn a_context_has_so_many_areas_and_objects_and_no_more() {
    let system = System::new(SystemConfig {
        objects: 3,
        areas: 4,
        ..SystemConfig::default()
    });
    let bench = Bench {
        context: system.open(),
        system,
        program: program(1),
    };
    let spaces = [(); 3].map(|()| bench.ioas());
    let mut another = uapi::iommu_ioas_alloc {
        size: 12,
        ..Default::default()
    };
    let refused = bench.call(calls::IOMMU_IOAS_ALLOC, &mut another);
    assert_eq!(refused, Err(Errno::ENOMEM));
    // The areas of all address spaces count.
    for area in 0..4 {
        let ioas = spaces[area as usize % 2];
        let iova = bench.map(ioas, MEMORY, PAGE, Some(area * PAGE));
        assert_eq!(iova, Ok(area * PAGE));
    }
    let refused = bench.map(spaces[2], MEMORY, PAGE, None);
    assert_eq!(refused, Err(Errno::ENOMEM));
    // What goes makes room.
    assert_eq!(bench.unmap(spaces[0], 0, PAGE), Ok(PAGE));
    assert_eq!(bench.map(spaces[2], MEMORY, PAGE, Some(0)), Ok(0));
    assert_eq!(bench.destroy(spaces[1]), Ok(0));
    let ioas = bench.ioas();
    assert_eq!(bench.map(ioas, MEMORY, PAGE, Some(0)), Ok(0));
    // Another context has its own.
    let other = Bench {
        context: bench.system.open(),
        system: Arc::clone(&bench.system),
        program: program(2),
    };
    let ioas = other.ioas();
    assert_eq!(other.map(ioas, MEMORY, PAGE, Some(0)), Ok(0));
}
