use vm_iommu_spec::{Iova, PhysAddr};

use super::*;
use crate::testing::MockMemory;
use crate::{TableMemory, Walker};

const ROOT: PhysAddr = PhysAddr(0x1000);
const RW: u64 = Entry::READ | Entry::WRITE;

/// Tables at 0x1000, 0x2000, … from the top, all with their entry for `iova` set: to the next
/// table, and at `leaf_level` to the page at 0x40_0000_0000.
fn chain(config: &SecondStageConfig, iova: u64, leaf_level: u8) -> MockMemory {
    let memory = MockMemory::new(PhysAddr(0), 0x7000);
    let mut table = ROOT.0;
    for level in (leaf_level..=config.levels.count()).rev() {
        let entry = if level > leaf_level {
            (table + 0x1000) | RW
        } else {
            0x40_0000_0000 | RW | if level > 1 { Entry::PAGE_SIZE } else { 0 }
        };
        memory.store(place(config, iova, level), entry).unwrap();
        table += 0x1000;
    }
    memory
}

/// Where [`chain`] has the entry of `level`.
fn place(config: &SecondStageConfig, iova: u64, level: u8) -> PhysAddr {
    let table = ROOT.0 + u64::from(config.levels.count() - level) * 0x1000;
    PhysAddr(table + (iova >> (3 + 9 * level) & 0x1ff) * 8)
}

fn change(memory: &MockMemory, place: PhysAddr, clear: u64, set: u64) {
    memory
        .store(place, memory.load(place).unwrap() & !clear | set)
        .unwrap();
}

/// Every table depth with every level that can hold a page.
fn shapes() -> impl Iterator<Item = (SecondStageConfig, u8)> {
    [Levels::Three, Levels::Four, Levels::Five]
        .into_iter()
        .flat_map(|levels| (1..=3).map(move |leaf| (SecondStageConfig::new(levels), leaf)))
}

#[test]
fn each_page_size_translates_in_each_depth() {
    for (config, leaf) in shapes() {
        let iova = Iova(0x55_5555_5555 & ((1 << config.levels.address_width()) - 1));
        let memory = chain(&config, iova.0, leaf);
        let format = SecondStage::new(config);
        let walk = format.walk(&memory, ROOT, iova, Access::ATOMIC_OP).unwrap();
        let size = 1 << (3 + 9 * leaf);
        assert_eq!(walk.page_size(), size);
        assert_eq!(walk.page(), PhysAddr(0x40_0000_0000));
        assert_eq!(walk.output, PhysAddr(0x40_0000_0000 + iova.offset_in(size)));
        assert_eq!(
            walk.visited.len(),
            usize::from(config.levels.count() - leaf + 1)
        );
        assert_eq!(
            walk.permissions,
            Access::READ | Access::WRITE | Access::EXECUTE
        );
        assert_eq!(walk.cacheable, walk.permissions);
        let levels: Vec<_> = walk.visited.iter().map(|step| step.level).collect();
        assert_eq!(
            levels,
            (leaf..=config.levels.count()).rev().collect::<Vec<_>>()
        );
        for step in walk.visited.iter() {
            assert_eq!(step.address, place(&config, iova.0, step.level));
            assert_eq!(step.entry, memory.load(step.address).unwrap());
        }
    }
}

#[test]
fn addresses_beyond_the_width_are_refused_not_aliased() {
    for levels in [Levels::Three, Levels::Four, Levels::Five] {
        let config = SecondStageConfig::new(levels);
        let width = levels.address_width();
        let format = SecondStage::new(config);
        let last = (1 << width) - 0x1000;
        let memory = chain(&config, last, 1);
        memory
            .store(place(&config, 0, levels.count()), 0x2000 | RW)
            .unwrap();
        assert!(
            format
                .walk(&memory, ROOT, Iova(last | 0xfff), Access::READ)
                .is_ok()
        );
        for beyond in [1 << width, last | 1 << width, last | 1 << 63, u64::MAX] {
            let fault = format
                .walk(&memory, ROOT, Iova(beyond), Access::READ)
                .unwrap_err();
            assert_eq!((fault.level, fault.reason), (0, Reason::BeyondWidth));
            assert_eq!(fault.step(), None);
        }
    }
}

/// The bits that the specification's tables reserve in an entry of `level`, written out
/// independently of the masks under test.
fn reserved_bits(config: &SecondStageConfig, level: u8, is_page: bool) -> Vec<u32> {
    let mut bits: Vec<u32> = (u32::from(config.host_address_width)..52).collect();
    if is_page {
        bits.extend(match level {
            2 => 12..21,
            3 => 12..30,
            _ => 0..0,
        });
        bits.extend((!config.snoop_control).then_some(11));
        bits.extend((!config.transient_mapping).then_some(62));
    } else {
        bits.extend([11, 62]);
        let large = level == 2 && config.two_mib_pages || level == 3 && config.one_gib_pages;
        bits.extend((!large).then_some(7));
    }
    bits
}

#[test]
fn each_reserved_bit_of_each_level_faults_and_no_other_bit_does() {
    for (mut config, leaf) in shapes() {
        for variant in 0..32 {
            config.host_address_width = if variant & 1 != 0 { 39 } else { 52 };
            config.snoop_control = variant & 2 != 0;
            config.transient_mapping = variant & 4 != 0;
            config.two_mib_pages = variant & 8 != 0 || leaf == 2;
            config.one_gib_pages = variant & 16 != 0 || leaf == 3;
            let format = SecondStage::new(config);
            for level in leaf..=config.levels.count() {
                let memory = chain(&config, 0, leaf);
                let entry = place(&config, 0, level);
                if config.host_address_width == 39 {
                    change(&memory, place(&config, 0, leaf), 1 << 38, 0);
                }
                let good = memory.load(entry).unwrap();
                let reserved = reserved_bits(&config, level, level == leaf);
                for bit in (0..64).filter(|&bit| good >> bit & 1 == 0) {
                    change(&memory, entry, 0, 1 << bit);
                    let outcome = format.walk(&memory, ROOT, Iova(0), Access::READ);
                    let context = (config, leaf, level, bit);
                    if reserved.contains(&bit) {
                        let fault = outcome.unwrap_err();
                        assert_eq!(fault.level, level, "{context:?}");
                        assert_eq!(fault.reason, Reason::Reserved { bit: bit as u8 });
                        assert_eq!(fault.entry_address(), Some(entry));
                        assert_eq!(fault.entry(), Some(good | 1 << bit));
                    } else if level == leaf {
                        assert!(outcome.is_ok(), "{context:?}");
                    } else if let Err(fault) = outcome {
                        // Other address bits lead elsewhere, PS to a misaligned page.
                        assert!((12..52).contains(&bit) || bit == 7, "{context:?}");
                        assert!(fault.level < level || bit == 7, "{context:?}");
                    }
                    change(&memory, entry, 1 << bit, 0);
                }
            }
        }
    }
}

#[test]
fn reserved_bits_of_entries_that_are_not_present_do_not_matter() {
    let config = SecondStageConfig::new(Levels::Four);
    let format = SecondStage::new(config);
    let memory = chain(&config, 0, 1);
    memory.store(place(&config, 0, 2), !RW).unwrap();
    let fault = format
        .walk(&memory, ROOT, Iova(0), Access::READ)
        .unwrap_err();
    assert_eq!((fault.level, fault.reason), (2, Reason::NotPresent));
}

#[test]
fn the_topmost_entry_without_permission_refuses() {
    let base = SecondStageConfig {
        execute: true,
        ..SecondStageConfig::new(Levels::Three)
    };
    let accesses = [
        (Access::READ, Entry::READ),
        (Access::WRITE, Entry::WRITE),
        (Access::ATOMIC_OP, RW),
        (Access::READ | Access::EXECUTE, Entry::READ | Entry::EXECUTE),
        (Access::empty(), 0),
    ];
    for execute in [true, false] {
        let config = SecondStageConfig { execute, ..base };
        let format = SecondStage::new(config);
        for combination in 0..512u64 {
            let at = |level: u8| combination >> (3 * (level - 1)) & 7;
            let memory = chain(&config, 0, 1);
            for level in 1..=3 {
                change(&memory, place(&config, 0, level), 7, at(level));
            }
            for (access, needed) in accesses {
                let needed = if execute { needed } else { needed & RW };
                let present = if execute { 7 } else { RW };
                let outcome = format.walk(&memory, ROOT, Iova(0), access);
                let absent = (1..=3).rev().find(|&level| at(level) & present == 0);
                let lacking = (1..=3).rev().find(|&level| at(level) & needed != needed);
                match (outcome, absent, lacking) {
                    (Err(fault), Some(level), _) => {
                        assert_eq!((fault.level, fault.reason), (level, Reason::NotPresent));
                    }
                    (Err(fault), None, Some(level)) => {
                        assert_eq!(fault.level, level);
                        let reason = match needed & !at(level) {
                            bits if bits & Entry::WRITE != 0 => Reason::WriteDenied,
                            bits if bits & Entry::READ != 0 => Reason::ReadDenied,
                            _ => Reason::ExecuteDenied,
                        };
                        assert_eq!(fault.reason, reason);
                    }
                    (Ok(walk), None, None) => {
                        let all = at(1) & at(2) & at(3);
                        let mut permissions = Access::from_bits_truncate(all as u8 & 3);
                        let x = if execute { Entry::EXECUTE } else { Entry::READ };
                        permissions.set(Access::EXECUTE, all & x != 0);
                        assert_eq!(walk.permissions, permissions);
                    }
                    other => panic!("{combination:#o} {access}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn tables_outside_memory_fault_at_the_entry_that_cannot_be_read() {
    let config = SecondStageConfig::new(Levels::Four);
    let format = SecondStage::new(config);
    let memory = chain(&config, 0, 1);
    change(&memory, place(&config, 0, 3), Entry::FRAME, 0x9000_0000);
    let fault = format
        .walk(&memory, ROOT, Iova(0x20_1000), Access::READ)
        .unwrap_err();
    assert_eq!((fault.level, fault.reason), (2, Reason::TableAccess));
    assert_eq!(fault.entry_address(), Some(PhysAddr(0x9000_0008)));
    for root in [0x7000, 1 << 51, u64::MAX << 12] {
        let fault = format
            .walk(&memory, PhysAddr(root), Iova(0), Access::READ)
            .unwrap_err();
        assert_eq!((fault.level, fault.reason), (4, Reason::TableAccess));
    }
}

#[test]
fn a_table_that_points_to_itself_ends_at_the_lowest_level() {
    let format = SecondStage::new(SecondStageConfig::new(Levels::Five));
    let memory = MockMemory::new(PhysAddr(0), 0x2000);
    memory.store(ROOT, ROOT.0 | RW).unwrap();
    let walk = format
        .walk(&memory, ROOT, Iova(0x123), Access::READ)
        .unwrap();
    assert_eq!(walk.output, PhysAddr(0x1123));
    assert_eq!(walk.visited.len(), 5);
}

#[test]
fn accessed_and_dirty_flags_are_set_as_the_access_needs() {
    for (config, leaf) in shapes() {
        let config = SecondStageConfig {
            accessed_dirty: true,
            ..config
        };
        let format = SecondStage::new(config);
        let memory = chain(&config, 0, leaf);
        let flags = |level| memory.load(place(&config, 0, level)).unwrap() >> 8 & 3;

        let probe = format.probe(&memory, ROOT, Iova(0), Access::WRITE).unwrap();
        assert!(probe.cacheable.is_empty());
        assert!((leaf..=config.levels.count()).all(|level| flags(level) == 0));

        let read = format.walk(&memory, ROOT, Iova(0), Access::READ).unwrap();
        assert_eq!(read.cacheable, Access::READ | Access::EXECUTE);
        assert!((leaf..=config.levels.count()).all(|level| flags(level) == 1));

        let write = format.walk(&memory, ROOT, Iova(0), Access::WRITE).unwrap();
        assert_eq!(write.cacheable, write.permissions);
        assert_eq!(flags(leaf), 3);
        assert!((leaf + 1..=config.levels.count()).all(|level| flags(level) == 1));
        let read = format.walk(&memory, ROOT, Iova(0), Access::READ).unwrap();
        assert_eq!(read.cacheable, read.permissions);
    }
}

#[test]
fn refused_walks_set_no_flags() {
    let config = SecondStageConfig {
        accessed_dirty: true,
        ..SecondStageConfig::new(Levels::Three)
    };
    let format = SecondStage::new(config);
    let memory = chain(&config, 0, 1);
    change(&memory, place(&config, 0, 1), Entry::WRITE, 0);
    format
        .walk(&memory, ROOT, Iova(0), Access::WRITE)
        .unwrap_err();
    for level in 1..=3 {
        assert_eq!(memory.load(place(&config, 0, level)).unwrap() >> 8 & 3, 0);
    }
}

/// Memory in which another party wins the first `losses` races.
struct Contended {
    memory: MockMemory,
    losses: core::sync::atomic::AtomicU32,
}

impl TableMemory for Contended {
    fn load(&self, address: PhysAddr) -> Result<u64, crate::BadAddress> {
        self.memory.load(address)
    }

    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, crate::BadAddress> {
        use core::sync::atomic::Ordering::Relaxed;
        if self
            .losses
            .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
            .is_ok()
        {
            // An ignored bit, which does not change what the entry means.
            change(&self.memory, address, 0, 0);
            self.memory.store(address, old ^ 1 << 63)?;
        }
        self.memory.compare_exchange(address, old, new)
    }

    fn store(&self, address: PhysAddr, value: u64) -> Result<(), crate::BadAddress> {
        self.memory.store(address, value)
    }

    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), crate::BadAddress> {
        self.memory.store_u32(address, value)
    }
}

#[test]
fn a_lost_race_is_repeated_eight_times_and_no_more() {
    let config = SecondStageConfig {
        accessed_dirty: true,
        ..SecondStageConfig::new(Levels::Three)
    };
    let format = SecondStage::new(config);
    for (losses, succeeds) in [
        (0, true),
        (1, true),
        (8, true),
        (9, false),
        (u32::MAX, false),
    ] {
        let memory = Contended {
            memory: chain(&config, 0, 1),
            losses: losses.into(),
        };
        let outcome = format.walk(&memory, ROOT, Iova(0), Access::WRITE);
        assert_eq!(outcome.is_ok(), succeeds, "{losses}");
        if let Err(fault) = outcome {
            assert_eq!((fault.level, fault.reason), (3, Reason::Contended));
            assert_eq!(
                SecondStage::legacy_fault(fault.reason, Access::WRITE),
                FaultReason::Contended
            );
        }
    }
}

#[test]
fn walks_from_cached_positions_answer_like_walks_from_the_root() {
    for (config, leaf) in shapes() {
        let format = SecondStage::new(config);
        let iova = Iova(0x1234_5678);
        let memory = chain(&config, iova.0, leaf);
        let whole = format.walk(&memory, ROOT, iova, Access::READ).unwrap();
        let root = format.root(ROOT);
        let positions: Vec<_> = format.positions(root, iova, &whole.visited).collect();
        assert_eq!(positions.len() + 1, whole.visited.len());
        for position in positions {
            let walk = format
                .walk_from(&memory, position, ROOT, iova, Access::READ)
                .unwrap();
            assert_eq!(walk.output, whole.output);
            assert_eq!(walk.permissions, whole.permissions);
            assert_eq!(walk.visited.len(), usize::from(position.level() - leaf + 1));
        }
    }
}

#[test]
fn a_fault_never_rests_on_a_cached_position() {
    let config = SecondStageConfig::new(Levels::Four);
    let format = SecondStage::new(config);
    let memory = chain(&config, 0, 1);
    change(&memory, place(&config, 0, 4), Entry::WRITE, 0);
    let read = format.walk(&memory, ROOT, Iova(0), Access::READ).unwrap();
    let cached = format
        .positions(format.root(ROOT), Iova(0), &read.visited)
        .last()
        .unwrap();
    let fault = format
        .walk_from(&memory, cached, ROOT, Iova(0), Access::WRITE)
        .unwrap_err();
    assert_eq!((fault.level, fault.reason), (4, Reason::WriteDenied));
    change(&memory, place(&config, 0, 4), 0, Entry::WRITE);
    assert!(
        format
            .walk_from(&memory, cached, ROOT, Iova(0), Access::WRITE)
            .is_ok()
    );
}

#[test]
fn attributes_come_from_the_page_entry() {
    let config = SecondStageConfig {
        transient_mapping: true,
        ..SecondStageConfig::new(Levels::Three)
    };
    let format = SecondStage::new(config);
    let memory = chain(&config, 0, 1);
    let set = Entry::SNOOP | Entry::TRANSIENT | 1 << 6 | 5 << 3;
    change(&memory, place(&config, 0, 1), 0, set);
    let walk = format.walk(&memory, ROOT, Iova(0), Access::READ).unwrap();
    let flags = AttributeFlags::SNOOP | AttributeFlags::TRANSIENT | AttributeFlags::IGNORE_PAT;
    assert_eq!(
        walk.attributes,
        Attributes {
            flags,
            memory_type: 5
        }
    );
}

#[test]
fn legacy_fault_reasons() {
    use vtd::FaultReason as Code;
    let read = Access::READ;
    let write = Access::WRITE;
    for (reason, access, code) in [
        (Reason::BeyondWidth, read, Code::AddressBeyondMgaw),
        (Reason::NotPresent, write, Code::WriteDenied),
        (Reason::NotPresent, Access::ATOMIC_OP, Code::WriteDenied),
        (Reason::NotPresent, read, Code::ReadDenied),
        (Reason::WriteDenied, write, Code::WriteDenied),
        (Reason::ReadDenied, Access::ATOMIC_OP, Code::ReadDenied),
        (Reason::TableAccess, read, Code::PagingEntryAccess),
        (
            Reason::Reserved { bit: 11 },
            write,
            Code::PagingEntryReserved,
        ),
    ] {
        assert_eq!(
            SecondStage::legacy_fault(reason, access),
            FaultReason::Vtd(code)
        );
    }
}

#[test]
fn agaw_encodings() {
    for field in 0..8 {
        let levels = Levels::from_agaw(field);
        assert_eq!(levels.is_some(), (1..=3).contains(&field));
        if let Some(levels) = levels {
            assert_eq!(levels.agaw(), field);
            assert_eq!(levels.address_width(), 30 + 9 * field);
        }
    }
}
