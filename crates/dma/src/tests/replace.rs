use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::{FaultReason, Iova, PhysAddr};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::remapper::{MapRemapper, READ_WRITE, ram};
use crate::{DmaPort, GuestRam, IotlbConfig, OutputSpace, Upstream};

fn memory(ranges: &[(u64, usize)]) -> GuestMemoryMmap {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|(start, len)| (GuestAddress(*start), *len))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

#[test]
fn devices_and_tables_see_the_memory_that_is_there() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x10_0000, 12, READ_WRITE);
    let ram = ram();
    let handle = remapper.port(&ram).handle();
    handle.write(Iova(0x4000), &[7; 8]).unwrap();
    let old = ram.replace(memory(&[(0, 0x10000)]));
    // The device held the page in a cache.
    let refused = handle.write(Iova(0x4000), &[9; 8]).unwrap_err();
    assert_eq!(refused.fault.reason, FaultReason::NotMemory);
    assert!(ram.load(PhysAddr(0x10_0000)).is_err());
    assert_eq!(old.read_obj::<u8>(GuestAddress(0x10_0000)).unwrap(), 7);
    // Nobody else holds what was removed.
    assert_eq!(Arc::strong_count(&old), 1);

    let _ = ram.replace(memory(&[(0x10_0000, 0x20000)]));
    handle.write(Iova(0x4000), &[5; 8]).unwrap();
    assert_eq!(ram.load(PhysAddr(0x10_0000)), Ok(0x0505_0505_0505_0505));
    assert!(ram.contains(PhysAddr(0x10_0000), 0x20000));
    assert!(ram.resolve(PhysAddr(0)).is_err());
}

#[test]
fn a_replacement_waits_for_accesses_in_flight() {
    let ram = ram();
    let port = DmaPort::new(Upstream::direct(ram.clone()));
    port.set_bus_master(true);
    let mut handle = port.handle();
    let session = handle.session();
    session.write_slice(&[1], GuestAddress(0x10_0000)).unwrap();
    thread::scope(|scope| {
        let replacing = scope.spawn(|| ram.replace(memory(&[(0, 0x10000)])));
        thread::sleep(std::time::Duration::from_millis(20));
        assert!(!replacing.is_finished());
        drop(session);
    });
}

#[test]
fn marks_move_with_the_memory_that_stays() {
    let ram = ram();
    ram.start_dirty_log();
    ram.store(PhysAddr(0x3000), 1).unwrap();
    ram.store(PhysAddr(0x10_0000), 1).unwrap();
    let _ = ram.replace(memory(&[(0, 0x8000)]));
    ram.store(PhysAddr(0x4000), 1).unwrap();
    let pages: Vec<_> = ram.harvest_dirty_pages().iter().collect();
    assert_eq!(pages, [PhysAddr(0x3000), PhysAddr(0x4000)]);
}

/// Devices and table walks go on while memory comes and goes; what was taken out is unmapped, so
/// that a late access would end the test.
#[test]
fn no_access_reaches_memory_that_went_away() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x10_0000, 16, READ_WRITE);
    let ram = ram();
    let port = remapper.port(&ram);
    let direct = DmaPort::new(Upstream::direct(ram.clone()));
    direct.set_bus_master(true);
    let stop = AtomicBool::new(false);
    let (done, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let count = |ok: bool| {
        let counter = if ok { &done } else { &refused };
        counter.fetch_add(1, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        for (port, base) in [(&port, 0x4000), (&direct, 0x10_0000)] {
            let (handle, stop, count) = (port.handle(), &stop, &count);
            scope.spawn(move || {
                let mut at = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    at = (at + 0x1040) % 0x8000;
                    count(handle.write(Iova(base + at), &[3; 256]).is_ok());
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                count(ram.load(PhysAddr(0x10_4000)).is_ok());
            }
        });
        let met = |counter: &AtomicU64| counter.load(Ordering::Relaxed) > 1000;
        let mut round = 0;
        while round < 400 || !(met(&done) && met(&refused)) {
            round += 1;
            let ranges = [(0, 0x10000), (0x10_0000, 0x10000)];
            let old = ram.replace(memory(&ranges[..1 + round % 2]));
            assert_eq!(Arc::strong_count(&old), 1);
            // Unmapped here.
            drop(old);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// What is cached are places in this process: a port with other memory must not find them.
#[test]
fn ports_with_different_memories_behind_one_unit_reach_their_own() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x8000, 12, READ_WRITE);
    let (one, other) = (ram(), ram());
    let first = remapper.port(&one);
    let second = remapper.port(&other);
    let (first, second) = (first.handle(), second.handle());
    for _ in 0..2 {
        first.write(Iova(0x4000), b"first").unwrap();
        second.write(Iova(0x4000), b"other").unwrap();
    }
    let content = |memory: &GuestRam| {
        let mut bytes = [0; 5];
        let memory = memory.memory();
        memory.read_slice(&mut bytes, GuestAddress(0x8000)).unwrap();
        bytes
    };
    assert_eq!((content(&one), content(&other)), (*b"first", *b"other"));
}

/// Nobody tells a cache of memory that goes while no port is there.
#[test]
fn what_was_cached_for_ports_that_are_gone_is_not_found_by_new_ones() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x8000, 12, READ_WRITE);
    let gone = ram();
    remapper
        .port(&gone)
        .handle()
        .write(Iova(0x4000), b"gone")
        .unwrap();
    drop(gone);
    let memory = ram();
    let port = remapper.port(&memory);
    port.handle().write(Iova(0x4000), b"here").unwrap();
    let mut bytes = [0; 4];
    memory
        .memory()
        .read_slice(&mut bytes, GuestAddress(0x8000))
        .unwrap();
    assert_eq!(bytes, *b"here");
    // The same where the memory stays and what it is made of changes.
    drop(port);
    let other = ram().memory();
    drop(memory.replace(other));
    let port = remapper.port(&memory);
    let mut bytes = [1; 4];
    port.handle().read(Iova(0x4000), &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4]);
}
