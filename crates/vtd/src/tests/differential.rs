//! A guest that invalidates what it must, over units with caches and one without: their answers,
//! their faults and the guest's memory are the same.

use proptest::collection::vec;
use proptest::prelude::*;
use vm_iommu_dma::{IotlbConfig, WalkCacheConfig};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::registers::InvalidateAddress;
use vm_iommu_spec::{Iova, PhysAddr};

use super::machine::{DOMAIN, Machine, context, iotlb_domain, iotlb_global, iotlb_pages};
use super::machine::{SOURCE, context_global};
use crate::VtdConfig;

/// The topmost table, the one below, two of level 2, and the leaves' tables.
const LEVEL_4: u64 = 0x20_0000;
const LEVEL_3: u64 = 0x20_1000;
const LEVEL_2: [u64; 2] = [0x20_2000, 0x20_3000];
const LEVEL_1: u64 = 0x21_0000;
const LEAF_TABLES: u64 = 4;
const FRAMES: u64 = 0x40_0000;
const FRAME_COUNT: u64 = 8;

/// How much more than it must the guest invalidates.
#[derive(Clone, Copy, Debug)]
enum Scope {
    Pages,
    Domain,
    Global,
}

#[derive(Clone, Debug)]
enum Step {
    /// Writes entry `page` of leaf table `table`.
    Leaf {
        table: u64,
        page: u64,
        frame: u64,
        permissions: u64,
        scope: Scope,
    },
    /// Hangs a leaf table below an entry of level 2, or removes it.
    Table {
        region: u64,
        slot: u64,
        table: u64,
        permissions: u64,
        scope: Scope,
    },
    /// Changes what an entry of level 3 permits.
    Region {
        region: u64,
        permissions: u64,
        scope: Scope,
    },
    Contexts,
    Access {
        address: u64,
        write: Option<u64>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let scope = || {
        prop::sample::select(vec![
            Scope::Pages,
            Scope::Pages,
            Scope::Domain,
            Scope::Global,
        ])
    };
    let permissions = || prop::sample::select(vec![0, 1, 2, 3, 3, 3, 3]);
    let address = (0..2_u64, 0..2_u64, 0..3_u64, 0..0xff8_u64)
        .prop_map(|(region, slot, page, byte)| address(region, slot, page) | byte);
    prop_oneof![
        4 => (0..LEAF_TABLES, 0..3_u64, 0..FRAME_COUNT, permissions(), scope()).prop_map(
            |(table, page, frame, permissions, scope)| Step::Leaf { table, page, frame, permissions, scope }
        ),
        2 => (0..2_u64, 0..2_u64, 0..LEAF_TABLES, permissions(), scope()).prop_map(
            |(region, slot, table, permissions, scope)| Step::Table { region, slot, table, permissions, scope }
        ),
        1 => (0..2_u64, permissions(), scope())
            .prop_map(|(region, permissions, scope)| Step::Region { region, permissions, scope }),
        1 => Just(Step::Contexts),
        16 => (address, prop::option::of(any::<u64>()))
            .prop_map(|(address, write)| Step::Access { address, write }),
    ]
}

fn address(region: u64, slot: u64, page: u64) -> u64 {
    (region << 30) | (slot << 21) | (page << 12)
}

fn machine(iotlb: usize, walks: usize, contexts: usize) -> Machine {
    let machine = Machine::translating(
        VtdConfig {
            iotlb: IotlbConfig { sets: iotlb },
            walk_cache: WalkCacheConfig { sets: walks },
            context_cache: contexts,
            ..VtdConfig::default()
        },
        4,
    );
    machine.set_context(SOURCE, context(4, LEVEL_4));
    assert!(machine.invalidate(&[context_global(), iotlb_global()]));
    let store = |place, value| machine.ram.store(PhysAddr(place), value).unwrap();
    store(LEVEL_4, LEVEL_3 | 3);
    for (region, table) in (0..).zip(LEVEL_2) {
        store(LEVEL_3 + region * 8, table | 3);
        for slot in 0..2 {
            store(table + slot * 8, leaf_table(region * 2 + slot) | 3);
        }
    }
    for frame in 0..FRAME_COUNT {
        store(FRAMES + frame * 0x1000, frame);
        store(
            leaf_table(frame / 2) + frame % 2 * 8,
            (FRAMES + frame * 0x1000) | 3,
        );
    }
    machine
}

fn leaf_table(table: u64) -> u64 {
    LEVEL_1 + table * 0x1000
}

/// Invalidates the pages from `address`, 2 to the power `mask` of them.
fn invalidate(machine: &Machine, scope: Scope, pages: &[u64], mask: u8, leaves_only: bool) {
    let descriptors = match scope {
        Scope::Global => vec![iotlb_global()],
        Scope::Domain => vec![iotlb_domain(DOMAIN)],
        Scope::Pages => pages
            .iter()
            .map(|address| {
                let [low, high] = iotlb_pages(DOMAIN, *address, mask);
                let high = InvalidateAddress::from_bits(high).with_hint(leaves_only);
                [low, high.into_bits()]
            })
            .collect(),
    };
    assert!(machine.invalidate(&descriptors));
}

/// What a step answered, if it asks.
fn perform(machine: &Machine, step: &Step) -> Option<Result<u64, vm_iommu_spec::Fault>> {
    // An entry that was not present is nowhere cached.
    let replace = |place: u64, entry: u64| {
        let old = machine.ram.load(PhysAddr(place)).unwrap();
        machine.ram.store(PhysAddr(place), entry).unwrap();
        old & 3 != 0
    };
    match *step {
        Step::Leaf {
            table,
            page,
            frame,
            permissions,
            scope,
        } => {
            let place = leaf_table(table) + page * 8;
            if replace(place, (FRAMES + frame * 0x1000) | permissions) {
                // Wherever the table hangs.
                let mut pages = Vec::new();
                for (region, upper) in (0..).zip(LEVEL_2) {
                    for slot in 0..2 {
                        let entry = machine.ram.load(PhysAddr(upper + slot * 8)).unwrap();
                        if entry & !0xfff == leaf_table(table) {
                            pages.push(address(region, slot, page));
                        }
                    }
                }
                invalidate(machine, scope, &pages, 0, true);
            }
        }
        Step::Table {
            region,
            slot,
            table,
            permissions,
            scope,
        } => {
            let place = LEVEL_2[region as usize] + slot * 8;
            if replace(place, leaf_table(table) | permissions) {
                invalidate(machine, scope, &[address(region, slot, 0)], 9, false);
            }
        }
        Step::Region {
            region,
            permissions,
            scope,
        } => {
            let table = LEVEL_2[region as usize];
            if replace(LEVEL_3 + region * 8, table | permissions) {
                invalidate(machine, scope, &[address(region, 0, 0)], 18, false);
            }
        }
        Step::Contexts => assert!(machine.invalidate(&[context_global(), iotlb_global()])),
        Step::Access { address, write } => {
            return Some(match write {
                Some(value) => machine.write_at(address, value).map(|()| value),
                None => machine.read_at(address),
            });
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_cache_turned_off_gives_the_same_bytes_and_faults(steps in vec(step(), 1..160)) {
        let machines = [
            machine(0, 0, 0),
            machine(0, 64, 16),
            machine(64, 0, 16),
            machine(64, 64, 0),
            machine(64, 64, 16),
            machine(1, 1, 1),
        ];
        for step in &steps {
            let answers = machines.each_ref().map(|machine| perform(machine, step));
            for answer in &answers[1..] {
                prop_assert_eq!(answer, &answers[0], "{:?}", step);
            }
        }
        let bytes = machines.each_ref().map(|machine| {
            let frames = (0..FRAME_COUNT * 512).map(|word| PhysAddr(FRAMES + word * 8));
            frames.map(|place| machine.ram.load(place).unwrap()).collect::<Vec<_>>()
        });
        let records = machines.each_ref().map(Machine::records);
        for index in 1..machines.len() {
            prop_assert!(bytes[index] == bytes[0]);
            prop_assert_eq!(&records[index], &records[0]);
        }
    }
}

#[test]
fn a_walk_begins_at_the_lowest_cached_table_until_an_invalidation_without_hint() {
    let machine = machine(0, 64, 16);
    let counters = || machine.unit.inspect().walk_cache;
    let page = [iotlb_pages(DOMAIN, 0, 0)];
    let [low, high] = page[0];
    let hinted = [[low, high | (1 << 6)]];
    machine.read_at(0).unwrap();
    assert_eq!((counters().hits, counters().misses), (0, 1));
    machine.read_at(0x1000).unwrap();
    assert_eq!(counters().hits, 1);
    assert!(machine.invalidate(&hinted));
    machine.read_at(0).unwrap();
    assert_eq!(counters().hits, 2);
    assert!(machine.invalidate(&page));
    machine.read_at(0).unwrap();
    assert_eq!((counters().hits, counters().misses), (2, 2));
    // The walk from the root begins at what the tables say now.
    let entry = machine.ram.load(PhysAddr(LEVEL_2[0])).unwrap();
    machine.ram.store(PhysAddr(LEVEL_2[0]), 0).unwrap();
    assert!(machine.invalidate(&[iotlb_domain(DOMAIN)]));
    assert!(machine.read_at(0).is_err());
    machine.ram.store(PhysAddr(LEVEL_2[0]), entry).unwrap();
    assert_eq!(machine.read_at(0), Ok(0));
    assert!(
        machine
            .unit
            .explain(super::machine::requester(), None, Iova(0))
            .steps
            .len()
            > 4
    );
}
