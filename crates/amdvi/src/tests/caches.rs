//! Caches: what they hold, what invalidations drop, and that no address spaces alias.

use vm_iommu_dma::{IotlbConfig, WalkCacheConfig};
use vm_iommu_spec::amd::{FaultReason as Reason, HostPagingEntry};
use vm_iommu_spec::{Iova, Pasid, RequesterId};

use super::machine::*;
use crate::AmdViConfig;

/// Two pages mapped and cached.
fn cached() -> Machine {
    let machine = Machine::translating(AmdViConfig::default(), 3);
    for page in [0x5000, 0x6000] {
        machine.map(page, 0x50_0000 + page, 12, READ_WRITE);
        machine.store(0x50_0000 + page, page);
        machine.store(0x60_0000 + page, page + 1);
        assert_eq!(machine.read_at(page), Ok(page));
        machine.map(page, 0x60_0000 + page, 12, READ_WRITE);
        assert_eq!(machine.read_at(page), Ok(page), "cached");
    }
    machine
}

#[test]
fn pages_are_dropped_exactly_in_the_encoded_range_of_the_domain() {
    let machine = cached();
    for (command, dropped) in [
        (invalidate_pages(DOMAIN + 1, 0, u64::MAX, true), [false; 2]),
        (invalidate_pages(DOMAIN, 0x7000, 0x7fff, true), [false; 2]),
        (
            invalidate_pages(DOMAIN, 0x4000, 0x5fff, false),
            [true, false],
        ),
        (
            invalidate_pages(DOMAIN, 0x6000, 0x6fff, false),
            [true, true],
        ),
    ] {
        assert!(machine.invalidate(&[command]));
        let read = [0x5000, 0x6000].map(|page| machine.read_at(page).unwrap() & 1 == 1);
        assert_eq!(read, dropped);
    }
}

#[test]
fn the_whole_domain_and_everything_can_be_dropped() {
    for command in [
        invalidate_domain(DOMAIN),
        invalidate_all(),
        // The encoding of all addresses that drivers use.
        [3 << 60 | u64::from(DOMAIN) << 32, 0x7fff_ffff_ffff_f003],
    ] {
        let machine = cached();
        assert!(machine.invalidate(&[command]));
        assert_eq!(machine.read_at(0x5000), Ok(0x5001));
        assert_eq!(machine.read_at(0x6000), Ok(0x6001));
    }
}

#[test]
fn moved_tables_are_found_once_directories_were_invalidated() {
    let machine = Machine::translating(AmdViConfig::default(), 3);
    machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    machine.map(0x6000, 0x51_0000, 12, READ_WRITE);
    machine.store(0x51_0000, 1);
    machine.store(0x52_0000, 2);
    machine.read_at(0x5000).unwrap();
    // Another table of level 1 in the place of the first.
    let steps = machine.unit.explain(requester(), None, Iova(0x6000)).steps;
    let directory = steps[steps.len() - 2];
    let table = machine.table();
    machine.store(table + 6 * 8, 0x52_0000 | READ_WRITE | 1);
    machine.store(directory.address.0, table | 1 << 9 | READ_WRITE | 1);
    assert!(machine.invalidate(&[invalidate_pages(DOMAIN, 0x6000, 0x6fff, false)]));
    assert_eq!(machine.read_at(0x6000), Ok(1), "the cached table");
    assert!(machine.invalidate(&[invalidate_pages(DOMAIN, 0x6000, 0x6fff, true)]));
    assert_eq!(machine.read_at(0x6000), Ok(2));
}

#[test]
fn nested_walks_start_at_a_cached_guest_table_until_it_or_its_host_page_is_invalidated() {
    let machine = Machine::translating(AmdViConfig::default(), 4);
    let host = (machine.device(DEVICE).dma.host_tables().0, 4);
    for page in (0..RAM).step_by(0x1000) {
        machine.map_host(host, page, page, 12, READ_WRITE);
    }
    let root = machine.set_guest(1, 1, 4);
    let mut leaf = 0;
    for page in [0x5000, 0x6000, 0x7000, 0x8000, 0x9000] {
        leaf = machine.map_guest((root, 4), page, 0x50_0000 + page, 12, GUEST_RW);
        machine.store(0x50_0000 + page, page);
        machine.store(0x60_0000 + page, page + 1);
    }
    assert!(machine.invalidate(&[invalidate_device(DEVICE)]));
    let read = |iova| machine.read_with(Some(1), iova);
    let hits = || machine.unit.inspect().walk_cache.hits;
    assert_eq!((read(0x5000), hits()), (Ok(0x5000), 0));
    assert_eq!((read(0x6000), hits()), (Ok(0x6000), 1));
    // Another table of level 1 in the place of the first.
    let other = machine.table();
    for page in [0x7000, 0x8000, 0x9000] {
        machine.store(other + (page >> 9), (0x60_0000 + page) | GUEST_RW | 1);
    }
    let below = |table| machine.load(table) & HostPagingEntry::FRAME;
    let directory = below(below(root));
    machine.store(directory, other | 7);
    assert_eq!((read(0x7000), hits()), (Ok(0x7000), 2), "the cached table");
    assert!(machine.invalidate(&[invalidate_guest(DOMAIN, 1, 0x8000, 0x8fff)]));
    assert_eq!((read(0x8000), hits()), (Ok(0x8001), 2));
    // The second table's host page becomes the first's.
    machine.map_host(host, other, leaf & !0xfff, 12, READ_WRITE);
    assert!(machine.invalidate(&[invalidate_pages(DOMAIN, other, other | 0xfff, false)]));
    assert_eq!((read(0x9000), hits()), (Ok(0x9000), 2));
}

#[test]
fn a_changed_device_table_entry_counts_once_it_was_invalidated() {
    let machine = cached();
    let mut entry = machine.device(DEVICE);
    entry.dma.set_read(false);
    machine.set_device(DEVICE, entry);
    assert!(machine.read_at(0x5000).is_ok());
    assert!(machine.invalidate(&[invalidate_device(DEVICE + 1)]));
    assert!(machine.read_at(0x5000).is_ok());
    assert!(machine.invalidate(&[invalidate_device(DEVICE)]));
    assert_eq!(reason(machine.read_at(0x5000)), Reason::ReadDenied);
}

#[test]
fn tables_that_grow_are_used_once_the_entry_was_invalidated() {
    let machine = Machine::translating(AmdViConfig::default(), 3);
    machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    machine.read_at(0x5000).unwrap();
    let top = machine.table();
    let old = machine.device(DEVICE).dma.host_tables().0;
    machine.store(top, old | 3 << 9 | READ_WRITE | 1);
    machine.change_device(|entry| {
        entry.dma = entry
            .dma
            .with_mode(4)
            .with_host_tables(vm_iommu_spec::PhysAddr(top));
    });
    machine.map(1 << 40, 0x51_0000, 12, READ_WRITE);
    assert!(machine.read_at(0x5000).is_ok());
    assert!(machine.read_at(1 << 40).is_ok());
}

#[test]
fn devices_of_one_domain_share_pages_only_where_their_entries_agree() {
    let machine = cached();
    let other = RequesterId::from_source_id(0, DEVICE + 8);
    let mut entry = machine.device(DEVICE);
    machine.set_device(DEVICE + 8, entry);
    machine.port.set_requester(other);
    assert_eq!(machine.read_at(0x5000), Ok(0x5000), "shared");
    // The same domain, but no writes.
    entry.dma.set_write(false);
    machine.set_device(DEVICE + 8, entry);
    assert!(machine.invalidate(&[invalidate_device(DEVICE + 8)]));
    assert_eq!(reason(machine.write_at(0x5000, 1)), Reason::WriteDenied);
    // The same domain, other tables.
    let tables = machine.table();
    machine.set_device(DEVICE + 8, device(3, tables));
    assert!(machine.invalidate(&[invalidate_device(DEVICE + 8)]));
    assert_eq!(reason(machine.read_at(0x5000)), Reason::NotPresent);
    machine.port.set_requester(requester());
    assert_eq!(machine.read_at(0x5000), Ok(0x5000));
}

#[test]
fn pasids_of_one_domain_do_not_alias_and_are_invalidated_apart() {
    let machine = Machine::translating(AmdViConfig::default(), 0);
    let mut places = Vec::new();
    for pasid in [1, 2_u32] {
        let root = machine.set_guest(pasid, 1, 4);
        let page = 0x50_0000 + u64::from(pasid) * 0x1000;
        places.push(machine.map_guest((root, 4), 0x5000, page, 12, GUEST_RW));
        machine.store(page, pasid.into());
    }
    assert!(machine.invalidate(&[invalidate_device(DEVICE)]));
    let read = |pasid| machine.read_with(Some(pasid), 0x5000);
    assert_eq!((read(1), read(2)), (Ok(1), Ok(2)));
    for place in places {
        machine.store(place, 0);
    }
    assert!(machine.invalidate(&[invalidate_guest(DOMAIN, 2, 0x5000, 0x5fff)]));
    assert_eq!(read(1), Ok(1));
    assert_eq!(reason(read(2)), Reason::NotPresent);
    // What host tables translate does not concern guest tables that rest on none.
    assert!(machine.invalidate(&[invalidate_domain(DOMAIN)]));
    assert_eq!(read(1), Ok(1));
    assert!(machine.invalidate(&[invalidate_guest(DOMAIN, 1, 0, u64::MAX)]));
    assert_eq!(reason(read(1)), Reason::NotPresent);
}

#[test]
fn guest_tables_of_requests_without_pasid_are_invalidated_with_a_pasid_or_without() {
    let machine = Machine::translating(AmdViConfig::default(), 0);
    let root = machine.set_guest(0, 1, 4);
    let mut entry = machine.device(DEVICE);
    entry.dma.set_guest_io_valid(true);
    machine.set_device(DEVICE, entry);
    assert!(machine.invalidate(&[invalidate_device(DEVICE)]));
    let commands = [
        invalidate_pages(DOMAIN, 0x5000, 0x5fff, false),
        invalidate_domain(DOMAIN),
        invalidate_guest(DOMAIN, 0, 0x5000, 0x5fff),
    ];
    for (command, value) in commands.into_iter().zip(1..) {
        let page = 0x50_0000 + value * 0x1000;
        machine.store(page, value);
        let place = machine.map_guest((root, 4), 0x5000, page, 12, GUEST_RW);
        assert_eq!(machine.read_at(0x5000), Ok(value));
        machine.store(place, 0);
        assert_eq!(machine.read_at(0x5000), Ok(value));
        assert!(machine.invalidate(&[command]));
        assert_eq!(reason(machine.read_at(0x5000)), Reason::NotPresent);
    }
}

#[test]
fn invalidating_a_guest_physical_page_drops_what_rests_on_it() {
    let machine = Machine::translating(AmdViConfig::default(), 4);
    let host = machine.device(DEVICE).dma.host_tables().0;
    for page in (0..RAM).step_by(0x20_0000) {
        machine.map_host((host, 4), page, page, 21, READ_WRITE);
    }
    let root = machine.set_guest(1, 1, 4);
    machine.map_guest((root, 4), 0x5000, 0x140_0000, 12, GUEST_RW);
    assert!(machine.invalidate(&[invalidate_device(DEVICE)]));
    machine.store(0x140_0000, 1);
    machine.store(0x160_0000, 2);
    assert_eq!(machine.read_with(Some(1), 0x5000), Ok(1));
    machine.map_host((host, 4), 0x140_0000, 0x160_0000, 21, READ_WRITE);
    assert_eq!(machine.read_with(Some(1), 0x5000), Ok(1));
    let page = invalidate_pages(DOMAIN, 0x140_0000, 0x140_0fff, false);
    assert!(machine.invalidate(&[page]));
    assert_eq!(machine.read_with(Some(1), 0x5000), Ok(2));
}

#[test]
fn with_all_caches_off_the_answers_are_the_same() {
    let off = AmdViConfig {
        iotlb: IotlbConfig { sets: 0 },
        walk_cache: WalkCacheConfig { sets: 0 },
        device_cache: 0,
        interrupt_cache: 0,
        ..AmdViConfig::default()
    };
    let answers = [off, AmdViConfig::default()].map(|config| {
        let machine = Machine::translating(config, 4);
        let root = machine.set_guest(3, 2, 4);
        machine.map_guest((root, 4), 0x5000, 0x50_0000, 12, GUEST_RW);
        // Host tables map 2 MiB to themselves, with the guest tables in them.
        let host = machine.device(DEVICE).dma.host_tables().0;
        for page in (0..RAM).step_by(0x20_0000) {
            machine.map_host((host, 4), page, page, 21, READ_WRITE);
        }
        assert!(machine.invalidate(&[invalidate_all()]));
        let mut answers = Vec::new();
        for round in 0..3 {
            for iova in [0x5000, 0x6000, 0x50_0000, 0x140_0000, 1 << 47, 1 << 60] {
                answers.push(machine.read_at(iova));
                answers.push(machine.read_with(Some(3), iova));
                answers.push(machine.read_with(Some(4), iova));
                answers.push(machine.write_at(iova | 8, round).map(|()| 0));
            }
        }
        (answers, machine.events().len())
    });
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0].0.iter().any(Result::is_ok));
    assert!(answers[0].0.iter().any(Result::is_err));
}

#[test]
fn the_device_cache_is_bounded() {
    let config = AmdViConfig {
        device_cache: 4,
        ..AmdViConfig::default()
    };
    let machine = Machine::translating(config, 0);
    for device_id in 0..20 {
        machine.set_device(device_id, device(0, 0));
        let requester = RequesterId::from_source_id(0, device_id);
        machine.port.set_requester(requester);
        machine.read_at(0x5000).unwrap();
    }
    let inspection = machine.unit.inspect();
    assert_eq!(inspection.device_cache.entries, 4);
    assert!(inspection.device_cache.evictions >= 16);
    assert!(inspection.cached.contains(&(19, None)));
    assert!(!inspection.cached.contains(&(0, Pasid::new(0))));
}
