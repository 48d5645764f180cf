use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::{Access, Iova, PhysAddr};
use vm_memory::{Bytes, GuestAddress};

use super::remapper::{MapRemapper, READ_WRITE, ram};
use crate::{DmaPort, GuestRam, IotlbConfig, Upstream};

fn harvest(ram: &GuestRam) -> Vec<u64> {
    let pages = ram.harvest_dirty_pages();
    let pages: Vec<u64> = pages.iter().map(|page| page.0).collect();
    pages
}

#[test]
fn writes_mark_their_pages_and_reads_and_probes_do_not() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    // One large page onto the second region.
    remapper.map(0x10_0000, 0x10_0000, 16, READ_WRITE);
    let memory = ram();
    let handle = remapper.port(&memory).handle();
    handle.write(Iova(0x10_0000), &[1]).unwrap();
    assert!(harvest(&memory).is_empty());

    memory.start_dirty_log();
    handle.read(Iova(0x10_1000), &mut [0; 8]).unwrap();
    handle
        .check(Iova(0x10_2000), 0x1000, Access::WRITE)
        .unwrap();
    assert!(memory.harvest_dirty_pages().is_empty());

    for round in 0..3 {
        handle.read(Iova(0x10_2000), &mut [0; 8]).unwrap();
        handle.write(Iova(0x10_3ffc), &[round; 8]).unwrap();
        handle.write(Iova(0x10_f000), &[round; 8]).unwrap();
        handle.write(Iova(0x10_f010), &[round; 8]).unwrap();
        assert_eq!(harvest(&memory), [0x10_3000, 0x10_4000, 0x10_f000]);
        assert!(harvest(&memory).is_empty());
    }
    handle.write(Iova(0x10_5000), &[1; 0x3000]).unwrap();
    assert_eq!(harvest(&memory), [0x10_5000, 0x10_6000, 0x10_7000]);

    memory.stop_dirty_log();
    handle.write(Iova(0x10_0000), &[1]).unwrap();
    assert!(harvest(&memory).is_empty());
}

#[test]
fn writes_without_a_unit_of_sessions_and_of_units_themselves_are_marked() {
    let memory = ram();
    memory.start_dirty_log();
    let port = DmaPort::new(Upstream::direct(memory.clone()));
    port.set_bus_master(true);
    let mut handle = port.handle();
    handle.write(Iova(0x1000), &[1; 8]).unwrap();
    handle
        .session()
        .write_slice(&[1; 0x1001], GuestAddress(0x2000))
        .unwrap();
    memory.store(PhysAddr(0x5000), 1).unwrap();
    memory.store_u32(PhysAddr(0x6004), 1).unwrap();
    let _ = memory.compare_exchange(PhysAddr(0x10_0000), 0, 1).unwrap();
    memory.load(PhysAddr(0x7000)).unwrap();
    assert_eq!(
        harvest(&memory),
        [0x1000, 0x2000, 0x3000, 0x5000, 0x6000, 0x10_0000]
    );
}

#[test]
fn a_harvest_waits_for_the_writes_that_it_reports() {
    let memory = ram();
    memory.start_dirty_log();
    let port = DmaPort::new(Upstream::direct(memory.clone()));
    port.set_bus_master(true);
    let mut handle = port.handle();
    let session = handle.session();
    session.write_slice(&[1], GuestAddress(0x1000)).unwrap();
    thread::scope(|scope| {
        let harvesting = scope.spawn(|| harvest(&memory));
        thread::sleep(std::time::Duration::from_millis(20));
        assert!(!harvesting.is_finished());
        session.write_slice(&[2], GuestAddress(0x1000)).unwrap();
        drop(session);
        assert_eq!(harvesting.join().unwrap(), [0x1000]);
    });
}

/// Devices write at random while a migration copies the pages that each harvest names. In the end
/// the copy is the memory.
#[test]
fn no_write_is_missed_over_harvests() {
    const SIZE: usize = 0x10000;
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x10_0000, 0x10_0000, 16, READ_WRITE);
    remapper.map(0x8000, 0x10_4000, 12, READ_WRITE);
    let memory = ram();
    let port = remapper.port(&memory);
    let stop = Arc::new(AtomicBool::new(false));
    let writes = Arc::new(AtomicU64::new(0));
    let devices: Vec<_> = (1..=2_u64)
        .map(|seed| {
            let (mut handle, stop, writes) = (port.handle(), stop.clone(), writes.clone());
            thread::spawn(move || {
                let mut state = seed * 0x9e37_79b9;
                while !stop.load(Ordering::Relaxed) {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let offset = (state >> 33) % (SIZE as u64 - 64);
                    let data = [(state >> 24) as u8; 48];
                    match writes.fetch_add(1, Ordering::Relaxed) % 3 {
                        0 => handle.write(Iova(0x10_0000 + offset), &data).unwrap(),
                        1 => handle.write(Iova(0x8000 + offset % 4000), &data).unwrap(),
                        _ => {
                            let session = handle.session();
                            let address = GuestAddress(0x10_0000 + offset);
                            session.write_slice(&data, address).unwrap();
                        }
                    }
                }
            })
        })
        .collect();

    let guest = memory.memory();
    let mut copy = vec![0; SIZE];
    let mut pages = BTreeSet::new();
    let mut fetch = |page: PhysAddr| {
        let at = (page.0 - 0x10_0000) as usize;
        guest
            .read_slice(&mut copy[at..at + 0x1000], GuestAddress(page.0))
            .unwrap();
        pages.insert(page);
    };
    memory.start_dirty_log();
    (0..16).for_each(|page| fetch(PhysAddr(0x10_0000 + page * 0x1000)));
    let mut harvests = 0;
    while harvests < 400 || writes.load(Ordering::Relaxed) < 20_000 {
        harvests += 1;
        memory.harvest_dirty_pages().iter().for_each(&mut fetch);
    }
    stop.store(true, Ordering::Relaxed);
    for device in devices {
        device.join().unwrap();
    }
    memory.harvest_dirty_pages().iter().for_each(&mut fetch);
    let mut now = vec![0; SIZE];
    guest.read_slice(&mut now, GuestAddress(0x10_0000)).unwrap();
    assert!(copy == now, "a write was missed");
    assert!(memory.harvest_dirty_pages().is_empty());
}
