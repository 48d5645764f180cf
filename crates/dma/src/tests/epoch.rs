use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use vm_iommu_spec::Iova;

use super::remapper::{MapRemapper, READ_WRITE, ram};
use crate::{DmaRemapper, Epochs, IotlbConfig};

#[test]
fn a_drain_waits_for_older_accesses_and_not_for_younger_ones() {
    let epochs = Epochs::default();
    let (old, young) = (epochs.register(), epochs.register());
    old.enter(&epochs);
    let mut drain = epochs.drain();
    young.enter(&epochs);
    assert!(!drain.is_complete());
    old.leave();
    assert!(drain.is_complete());
    young.leave();
}

#[test]
fn a_slot_that_left_and_entered_again_is_not_awaited() {
    let epochs = Epochs::default();
    let slot = epochs.register();
    slot.enter(&epochs);
    let mut drain = epochs.drain();
    slot.leave();
    slot.enter(&epochs);
    assert!(drain.is_complete());
}

#[test]
fn only_a_slot_that_is_not_parked_costs_a_drain_a_barrier() {
    let epochs = Epochs::default();
    let slot = epochs.register();
    let barriers = || {
        epochs.drain().wait();
        epochs.counters().barriers
    };
    assert_eq!(barriers(), 0);
    slot.enter(&epochs);
    slot.leave();
    assert_eq!(barriers(), 1);
    slot.park();
    assert_eq!(barriers(), 1);
    assert_eq!(epochs.counters().drains, 3);
}

#[test]
fn idle_and_dropped_slots_hold_nothing_up() {
    let epochs = Epochs::default();
    let _idle = epochs.register();
    drop(epochs.register());
    assert!(epochs.drain().is_complete());
}

/// Devices write through a page while its mapping alternates between two frames. After each
/// invalidation completed, the frame that was taken away must not change any more.
#[test]
fn no_write_lands_in_a_page_after_its_invalidation_completed() {
    const FRAMES: [u64; 2] = [0x2000, 0x10_3000];
    let memory = ram();
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x8000, FRAMES[0], 12, READ_WRITE);
    let port = remapper.port(&memory);
    let stop = Arc::new(AtomicBool::new(false));
    let writes = Arc::new(AtomicU64::new(0));
    let devices: Vec<_> = (0..2_u64)
        .map(|device| {
            let (handle, stop, writes) = (port.handle(), stop.clone(), writes.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let count = writes.fetch_add(1, Ordering::Relaxed);
                    let at = Iova(0x8000 + device * 0x800);
                    handle.write(at, &count.to_le_bytes()).unwrap();
                }
            })
        })
        .collect();
    let frame = |index: usize| {
        let view = crate::DmaPort::new(crate::Upstream::direct(memory.clone()));
        view.set_bus_master(true);
        let mut bytes = vec![0; 0x1000];
        let address = Iova(FRAMES[index]);
        view.handle().read(address, &mut bytes).unwrap();
        bytes
    };
    for round in 0..5000_usize {
        let (old, new) = (round % 2, 1 - round % 2);
        remapper.map(0x8000, FRAMES[new], 12, READ_WRITE);
        match round % 3 {
            0 => remapper.iotlb().invalidate_all(),
            1 => remapper.iotlb().invalidate_tag(&remapper.tag),
            _ => {
                let (first, last) = (Iova(0x8000), Iova(0x8fff));
                remapper
                    .iotlb()
                    .invalidate_range(&remapper.tag, first, last);
            }
        }
        port.upstream().epochs.drain().wait();
        let before = frame(old);
        if round % 64 == 0 {
            thread::yield_now();
        }
        assert_eq!(before, frame(old), "a late write in round {round}");
    }
    stop.store(true, Ordering::Relaxed);
    for device in devices {
        device.join().unwrap();
    }
    assert!(writes.load(Ordering::Relaxed) > 0);
}
