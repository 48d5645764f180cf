//! Pages that a handle used before, and what ends their use.

use std::sync::atomic::Ordering;

use vm_iommu_spec::{Access, FaultReason, Iova, RequesterId};

use super::remapper::{MapRemapper, READ_WRITE, ram};
use crate::{DmaPort, DmaRemapper, IotlbConfig, Upstream};

const PAGE: Iova = Iova(0x4000);

#[test]
fn a_page_is_looked_up_once_in_an_era_even_when_others_took_its_place_in_the_iotlb() {
    let remapper = MapRemapper::new(IotlbConfig { sets: 1 });
    for page in 0..8 {
        remapper.map(page << 12, page << 12, 12, READ_WRITE);
    }
    let port = remapper.port(&ram());
    let handle = port.handle();
    let touch_all = || {
        for page in 0..8 {
            handle.write(Iova(page << 12), &[1; 8]).unwrap();
        }
        remapper.walks.load(Ordering::Relaxed)
    };
    assert_eq!(touch_all(), 8);
    assert_eq!(touch_all(), 8);
    port.upstream().epochs.drain().wait();
    assert!(touch_all() > 8);
}

#[test]
fn an_invalidated_page_is_not_used_after_the_drain_whatever_was_invalidated() {
    let ways: [fn(&MapRemapper); 4] = [
        |remapper| remapper.iotlb().invalidate_all(),
        |remapper| remapper.iotlb().invalidate_tag(&remapper.tag),
        |remapper| {
            let (first, last) = (PAGE, Iova(PAGE.0 | 0xfff));
            remapper
                .iotlb()
                .invalidate_range(&remapper.tag, first, last);
        },
        |remapper| {
            remapper.invalidate_context();
            remapper.iotlb().invalidate_tag(&remapper.tag);
        },
    ];
    for invalidate in ways {
        let remapper = MapRemapper::new(IotlbConfig::default());
        remapper.map(PAGE.0, 0x8000, 12, READ_WRITE);
        let port = remapper.port(&ram());
        let mut handle = port.handle();
        handle.write(PAGE, b"before").unwrap();
        remapper.unmap(PAGE.0);
        invalidate(&remapper);
        port.upstream().epochs.drain().wait();
        assert!(handle.write(PAGE, b"after").is_err());
        assert!(handle.read(PAGE, &mut [0; 6]).is_err());
        let session = handle.session();
        let slices = vm_memory::GuestMemory::get_slices(
            &session,
            vm_memory::GuestAddress(PAGE.0),
            8,
            vm_memory::Permissions::Read,
        );
        assert!(slices.unwrap().all(|slice| slice.is_err()));
    }
}

#[test]
fn a_page_used_for_reading_is_not_thereby_writable() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(PAGE.0, 0x8000, 12, Access::READ);
    let handle = remapper.port(&ram()).handle();
    for _ in 0..2 {
        handle.read(PAGE, &mut [0; 64]).unwrap();
        assert!(handle.write(PAGE, &[0; 64]).is_err());
    }
}

#[test]
fn a_range_that_leaves_a_used_page_is_checked_to_its_end() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(PAGE.0, 0x8000, 12, READ_WRITE);
    let handle = remapper.port(&ram()).handle();
    handle.read(Iova(0x4f00), &mut [0; 0x100]).unwrap();
    let partial = handle.read(Iova(0x4f00), &mut [0; 0x101]).unwrap_err();
    assert_eq!((partial.done, partial.fault.address), (0x100, Iova(0x5000)));
}

#[test]
fn without_an_iotlb_nothing_is_remembered() {
    let remapper = MapRemapper::new(IotlbConfig { sets: 0 });
    remapper.map(PAGE.0, 0x8000, 12, READ_WRITE);
    let handle = remapper.port(&ram()).handle();
    for walks in 1..4 {
        handle.read(PAGE, &mut [0; 8]).unwrap();
        assert_eq!(remapper.walks.load(Ordering::Relaxed), walks);
    }
}

#[test]
fn a_function_that_was_stopped_or_renumbered_uses_nothing_that_it_remembers() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(PAGE.0, 0x8000, 12, READ_WRITE);
    let memory = ram();
    let direct = DmaPort::new(Upstream::direct(memory.clone()));
    direct.set_bus_master(true);
    for port in [remapper.port(&memory), direct] {
        let handle = port.handle();
        handle.read(PAGE, &mut [0; 8]).unwrap();
        port.set_bus_master(false);
        let refused = handle.read(PAGE, &mut [0; 8]).unwrap_err();
        assert_eq!(refused.fault.reason, FaultReason::BusMasterDisabled);
        port.set_bus_master(true);
        handle.read(PAGE, &mut [0; 8]).unwrap();
        port.stop();
        let refused = handle.read(PAGE, &mut [0; 8]).unwrap_err();
        assert_eq!(refused.fault.reason, FaultReason::Stopped);
        port.restart();
        handle.read(PAGE, &mut [0; 8]).unwrap();
    }
    let port = remapper.port(&memory);
    let handle = port.handle();
    handle.read(PAGE, &mut [0; 8]).unwrap();
    let binds = remapper.binds.load(Ordering::Relaxed);
    port.set_requester(RequesterId::from_source_id(0, 0x100));
    handle.read(PAGE, &mut [0; 8]).unwrap();
    assert_eq!(remapper.binds.load(Ordering::Relaxed), binds + 1);
}

#[test]
fn a_parked_handle_finds_its_pages_again_in_the_same_era_only() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(PAGE.0, 0x8000, 12, READ_WRITE);
    let port = remapper.port(&ram());
    let handle = port.handle();
    handle.read(PAGE, &mut [0; 8]).unwrap();
    handle.park();
    handle.read(PAGE, &mut [0; 8]).unwrap();
    handle.park();
    remapper.unmap(PAGE.0);
    remapper.iotlb().invalidate_all();
    port.upstream().epochs.drain().wait();
    assert!(handle.read(PAGE, &mut [0; 8]).is_err());
}

#[test]
fn a_page_is_forgotten_even_when_the_marks_of_eras_come_round() {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(PAGE.0, 0x8000, 12, READ_WRITE);
    let port = remapper.port(&ram());
    let handle = port.handle();
    handle.read(PAGE, &mut [0; 8]).unwrap();
    remapper.unmap(PAGE.0);
    remapper.iotlb().invalidate_all();
    for _ in 0..3 * 4096 {
        port.upstream().epochs.renew();
        assert!(handle.check(PAGE, 8, Access::READ).is_err());
        assert!(handle.read(PAGE, &mut [0; 8]).is_err());
    }
}

/// The same for a handle that pauses: it skips eras, and with them the moment when the marks
/// come round.
#[test]
fn a_page_is_forgotten_however_many_eras_pass_between_two_accesses() {
    for eras in [4094, 4095, 4096, 2 * 4095, 3 * 4096] {
        let remapper = MapRemapper::new(IotlbConfig::default());
        remapper.map(PAGE.0, 0x8000, 12, READ_WRITE);
        let port = remapper.port(&ram());
        let handle = port.handle();
        handle.read(PAGE, &mut [0; 8]).unwrap();
        remapper.unmap(PAGE.0);
        remapper.iotlb().invalidate_all();
        (0..eras).for_each(|_| port.upstream().epochs.renew());
        assert!(handle.read(PAGE, &mut [0; 8]).is_err(), "{eras} eras");
    }
}
