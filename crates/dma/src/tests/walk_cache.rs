use std::sync::Arc;

use vm_iommu_pagetable::{Levels, SecondStage, SecondStageConfig, TableMemory, Walker};
use vm_iommu_spec::{Access, Iova, PhysAddr};

use super::remapper::ram;
use crate::{GuestRam, Iotlb, IotlbConfig, Tag, WalkCache, WalkCacheConfig};

const ROOT: u64 = 0x1000;
const ADDRESS: Iova = Iova(0x12_3456_7000);

struct Machine {
    ram: GuestRam,
    format: SecondStage,
    iotlb: Arc<Iotlb>,
    cache: Arc<WalkCache>,
    tag: Arc<Tag>,
}

/// Four levels of tables for one page, at 0x1000, 0x2000, 0x3000 and 0x4000.
fn machine(sets: usize) -> Machine {
    let ram = ram();
    for (table, level) in [(ROOT, 4), (0x2000, 3), (0x3000, 2), (0x4000, 1)] {
        let index = ADDRESS.0 >> (3 + 9 * level) & 511;
        let entry = if level == 2 { 1 } else { 3 };
        ram.store(PhysAddr(table + index * 8), (table + 0x1000) | entry)
            .unwrap();
    }
    let iotlb = Iotlb::new(IotlbConfig::default());
    Machine {
        ram,
        format: SecondStage::new(SecondStageConfig::new(Levels::Four)),
        tag: iotlb.tag(),
        iotlb,
        cache: WalkCache::new(WalkCacheConfig { sets }),
    }
}

impl Machine {
    /// Walks from the root and caches what was passed.
    fn fill(&self) {
        let (_, token) = self.cache.lookup(&self.tag, ADDRESS);
        let root = PhysAddr(ROOT);
        let walk = self.format.walk(&self.ram, root, ADDRESS, Access::READ);
        let visited = walk.unwrap().visited;
        let start = self.format.root(root);
        let positions = self.format.positions(start, ADDRESS, &visited);
        self.cache.insert(token, ADDRESS, positions);
    }

    /// The level of the lowest cached table on the way to `address`.
    fn level(&self, address: u64) -> Option<u8> {
        let (position, _) = self.cache.lookup(&self.tag, Iova(address));
        position.map(|position| position.level())
    }
}

#[test]
fn the_lowest_table_on_the_way_is_found() {
    let machine = machine(64);
    assert_eq!(machine.level(ADDRESS.0), None);
    machine.fill();
    for (beyond, level) in [(0, 1), (1 << 21, 2), (1 << 30, 3)] {
        assert_eq!(machine.level(ADDRESS.0 ^ beyond), Some(level));
    }
    assert_eq!(machine.level(ADDRESS.0 ^ 1 << 39), None);
    let other = machine.iotlb.tag();
    assert!(machine.cache.lookup(&other, ADDRESS).0.is_none());
    let counters = machine.cache.counters();
    assert_eq!((counters.hits, counters.misses), (3, 4));
}

#[test]
fn permissions_of_the_entries_above_go_with_a_table() {
    let machine = machine(64);
    machine.fill();
    let (position, _) = machine.cache.lookup(&machine.tag, ADDRESS);
    let position = position.unwrap();
    // The entry of level 2 denies writes, and is not read again.
    let from = |access| {
        let root = PhysAddr(0x9000);
        machine
            .format
            .translate_from(&machine.ram, position, root, ADDRESS, access)
    };
    assert!(!from(Access::READ).unwrap().permissions.writes());
    assert!(from(Access::WRITE).is_err());
}

#[test]
fn each_invalidation_drops_what_it_names_and_voids_walks_under_way() {
    let machine = machine(64);
    let (cache, tag) = (&machine.cache, &machine.tag);
    let page = (ADDRESS, Iova(ADDRESS.0 | 0xfff));
    let invalidations: [&dyn Fn(); 4] = [
        &|| cache.invalidate_all(),
        &|| machine.iotlb.invalidate_tag(tag),
        &|| cache.invalidate_range(tag, page.0, page.1),
        &|| cache.invalidate_range(tag, Iova(0), Iova(u64::MAX)),
    ];
    for invalidate in invalidations {
        machine.fill();
        assert_eq!(machine.level(ADDRESS.0), Some(1));
        invalidate();
        assert_eq!(machine.level(ADDRESS.0), None);

        let (_, token) = cache.lookup(tag, ADDRESS);
        invalidate();
        let root = machine.format.root(PhysAddr(ROOT));
        cache.insert(token, ADDRESS, [root]);
        assert_eq!(machine.level(ADDRESS.0), None);
    }
}

#[test]
fn a_range_drops_every_table_that_overlaps_it_and_no_other() {
    let machine = machine(64);
    machine.fill();
    // Beside the table of level 1, within that of level 2.
    let beside = ADDRESS.0 ^ 1 << 21;
    machine
        .cache
        .invalidate_range(&machine.tag, Iova(beside), Iova(beside | 0xfff));
    assert_eq!(machine.level(ADDRESS.0), Some(1));
    assert_eq!(machine.level(beside), None);
    let other = machine.iotlb.tag();
    machine
        .cache
        .invalidate_range(&other, Iova(0), Iova(u64::MAX));
    assert_eq!(machine.level(ADDRESS.0), Some(1));
}

#[test]
fn a_global_invalidation_drops_everything_however_often_it_came() {
    let machine = machine(1);
    for _ in 0..(1 << 16) + 2 {
        machine.cache.invalidate_all();
        assert_eq!(machine.level(ADDRESS.0), None);
    }
    machine.fill();
    for _ in 0..1 << 16 {
        machine.cache.invalidate_all();
    }
    assert_eq!(machine.level(ADDRESS.0), None);
}

#[test]
fn the_cache_is_bounded_and_may_be_off() {
    let bounded = machine(1);
    let (_, token) = bounded.cache.lookup(&bounded.tag, ADDRESS);
    let root = PhysAddr(ROOT);
    let walk = bounded
        .format
        .walk(&bounded.ram, root, ADDRESS, Access::READ);
    let visited = walk.unwrap().visited;
    let start = bounded.format.root(root);
    for region in 0..100 {
        let address = Iova(region << 21);
        let positions = bounded.format.positions(start, ADDRESS, &visited);
        bounded.cache.insert(token, address, positions);
    }
    assert!(bounded.cache.counters().evictions > 90);

    let off = machine(0);
    off.fill();
    assert_eq!(off.level(ADDRESS.0), None);
    off.cache.invalidate_range(&off.tag, Iova(0), Iova(0xfff));
    off.cache.invalidate_all();
}
