use vm_iommu_spec::{Iova, PhysAddr};

use super::*;
use crate::testing::MockMemory;
use crate::{TableMemory, Walker};

const GRANT: u64 = Entry::PRESENT | Entry::READ | Entry::WRITE;

fn memory() -> MockMemory {
    MockMemory::new(PhysAddr(0), 0x8000)
}

/// The table of a level is at this address.
fn table(level: u8) -> u64 {
    u64::from(level) << 12
}

fn place(iova: u64, level: u8) -> PhysAddr {
    PhysAddr(table(level) + (iova >> (3 + 9 * level) & 0x1ff) * 8)
}

fn pointer(below: u8) -> u64 {
    table(below) | u64::from(below) << 9 | GRANT
}

/// A chain of tables from `mode` down to `leaf`, and there `entry`.
fn chain(iova: u64, mode: u8, leaf: u8, entry: u64) -> MockMemory {
    let memory = memory();
    for level in leaf + 1..=mode {
        memory
            .store(place(iova, level), pointer(level - 1))
            .unwrap();
    }
    memory.store(place(iova, leaf), entry).unwrap();
    memory
}

fn root(mode: u8) -> PhysAddr {
    PhysAddr(table(mode))
}

#[test]
fn pages_have_the_default_size_of_their_level() {
    for mode in 1..=6 {
        for leaf in 1..=mode.min(5) {
            let shift = 3 + 9 * leaf;
            let output = 1u64 << 51;
            let iova = 0x0155_5555_5555_5555 & (u64::MAX >> 52u8.saturating_sub(9 * mode));
            let memory = chain(iova, mode, leaf, output | GRANT);
            let format = AmdV1::new(AmdV1Config::new(mode));
            let walk = format
                .walk(&memory, root(mode), Iova(iova), Access::ATOMIC_OP)
                .unwrap();
            assert_eq!(walk.page_shift, shift);
            assert_eq!(walk.output.0, output | iova & ((1 << shift) - 1));
            assert_eq!(walk.visited.len(), usize::from(mode - leaf + 1));
        }
    }
}

#[test]
fn encoded_page_sizes_lie_between_those_of_the_level_and_the_next() {
    for leaf in 1..=5u8 {
        for shift in 13..=53u8 {
            let size = ((1u64 << (shift - 1)) - 1) & Entry::FRAME;
            let memory = chain(0, 6, leaf, size | 7 << 9 | GRANT);
            let format = AmdV1::new(AmdV1Config::new(6));
            let iova = Iova((1 << (3 + 9 * leaf)) - 1);
            let outcome = format.walk(&memory, root(6), iova, Access::READ);
            if shift > 3 + 9 * leaf && shift < 12 + 9 * leaf {
                let walk = outcome.unwrap();
                assert_eq!((walk.page_shift, walk.output), (shift, PhysAddr(iova.0)));
                assert_eq!(walk.page_size(), 1 << shift);
            } else {
                let fault = outcome.unwrap_err();
                assert_eq!(
                    (fault.level, fault.reason),
                    (leaf, Reason::PageSize { shift })
                );
            }
        }
    }
}

#[test]
fn the_top_level_maps_no_pages() {
    for next_level in [0, 7] {
        let memory = memory();
        memory.store(place(0, 6), next_level << 9 | GRANT).unwrap();
        let format = AmdV1::new(AmdV1Config::new(6));
        let fault = format
            .walk(&memory, root(6), Iova(0), Access::READ)
            .unwrap_err();
        let next_level = next_level as u8;
        assert_eq!(
            (fault.level, fault.reason),
            (6, Reason::NextLevel { next_level })
        );
    }
}

#[test]
fn the_next_level_is_below_and_skipped_address_bits_are_zero() {
    for mode in 1..=6u8 {
        for next_level in 1..=6u8 {
            let memory = memory();
            memory.store(place(0, mode), pointer(next_level)).unwrap();
            for entry in 0..512 {
                let place = PhysAddr(table(next_level) + entry * 8);
                if next_level != mode {
                    memory.store(place, 1 << 50 | GRANT).unwrap();
                }
            }
            let format = AmdV1::new(AmdV1Config::new(mode));
            let walk = |iova| format.walk(&memory, root(mode), Iova(iova), Access::READ);
            if next_level >= mode {
                let fault = walk(0).unwrap_err();
                assert_eq!(
                    (fault.level, fault.reason),
                    (mode, Reason::NextLevel { next_level })
                );
                continue;
            }
            assert_eq!(walk(0x123).unwrap().output, PhysAddr(1 << 50 | 0x123));
            for bit in 12 + 9 * next_level..3 + 9 * mode {
                let fault = walk(1 << bit).unwrap_err();
                assert_eq!((fault.level, fault.reason), (mode, Reason::SkippedBits));
            }
            // Bits of the level below are not skipped.
            let highest = 11 + 9 * next_level;
            assert!(walk(1 << highest).is_ok());
        }
    }
}

#[test]
fn addresses_beyond_the_mode_are_refused_not_aliased() {
    for mode in 1..=6u8 {
        let format = AmdV1::new(AmdV1Config::new(mode));
        let width = 12 + 9 * u32::from(mode);
        let last = u64::MAX >> 64u32.saturating_sub(width);
        let memory = chain(last, mode, 1, 0x40_0000_0000 | GRANT);
        let walk = |iova| format.walk(&memory, root(mode), Iova(iova), Access::READ);
        assert_eq!(walk(last).unwrap().output, PhysAddr(0x40_0000_0fff));
        for bit in width..64 {
            let fault = walk(last & !0xfff | 1 << bit).unwrap_err();
            assert_eq!((fault.level, fault.reason), (0, Reason::BeyondWidth));
        }
    }
}

#[test]
fn each_reserved_bit_of_each_level_faults_and_no_other_bit_does() {
    for width in [39, 52u32] {
        let mut config = AmdV1Config::new(6);
        config.host_address_width = width as u8;
        let format = AmdV1::new(config);
        for leaf in 1..=5u8 {
            for level in leaf..=6u8 {
                let memory = chain(0, 6, leaf, GRANT);
                let entry = place(0, level);
                let good = memory.load(entry).unwrap();
                for bit in (0..64u32).filter(|&bit| good >> bit & 1 == 0) {
                    memory.store(entry, good | 1 << bit).unwrap();
                    let outcome = format.walk(&memory, root(6), Iova(0), Access::READ);
                    let upper = if level == leaf { 58 } else { 60 };
                    if (width..=upper).contains(&bit) {
                        let fault = outcome.unwrap_err();
                        let reason = Reason::Reserved { bit: bit as u8 };
                        assert_eq!((fault.level, fault.reason), (level, reason));
                        assert_eq!(fault.entry_address(), Some(entry));
                    } else if !(9..52).contains(&bit) {
                        assert!(outcome.is_ok(), "{leaf} {level} {bit}");
                    }
                    memory.store(entry, good).unwrap();
                }
            }
        }
    }
}

#[test]
fn the_topmost_entry_without_permission_refuses() {
    let format = AmdV1::new(AmdV1Config::new(3));
    for combination in 0..64u64 {
        let at = |level: u8| combination >> (2 * (level - 1)) & 3;
        let memory = chain(0, 3, 1, GRANT);
        for level in 1..=3 {
            let entry = memory.load(place(0, level)).unwrap() & !(3 << 61) | at(level) << 61;
            memory.store(place(0, level), entry).unwrap();
        }
        for access in [
            Access::READ,
            Access::WRITE,
            Access::ATOMIC_OP,
            Access::empty(),
        ] {
            let refusal = |level| match access {
                access if access.writes() && at(level) & 2 == 0 => Some(Reason::WriteDenied),
                access if access.reads() && at(level) & 1 == 0 => Some(Reason::ReadDenied),
                _ => None,
            };
            let expected = (1..=3)
                .rev()
                .find_map(|level| Some((level, refusal(level)?)));
            let outcome = format.walk(&memory, root(3), Iova(0), access);
            let refused = outcome.err().map(|fault| (fault.level, fault.reason));
            assert_eq!(refused, expected, "{combination:#o} {access}");
        }
    }
}

#[test]
fn flags_are_set_as_configured() {
    for (accessed, dirty) in [(false, false), (true, false), (true, true)] {
        let config = AmdV1Config {
            accessed,
            dirty,
            ..AmdV1Config::new(3)
        };
        let format = AmdV1::new(config);
        let memory = chain(0, 3, 1, GRANT);
        let flags = |level| memory.load(place(0, level)).unwrap() >> 5 & 3;
        let read = format
            .walk(&memory, root(3), Iova(0), Access::READ)
            .unwrap();
        assert_eq!(read.cacheable.writes(), !dirty);
        assert!((1..=3).all(|level| flags(level) == u64::from(accessed)));
        format
            .walk(&memory, root(3), Iova(0), Access::WRITE)
            .unwrap();
        assert_eq!(flags(1), u64::from(accessed) | u64::from(dirty) << 1);
        assert!((2..=3).all(|level| flags(level) == u64::from(accessed)));
    }
}

#[test]
fn attributes_come_from_the_page_entry() {
    let memory = chain(
        0,
        3,
        1,
        GRANT | Entry::FORCE_COHERENT | Entry::UNTRANSLATED_ONLY,
    );
    let format = AmdV1::new(AmdV1Config::new(3));
    let walk = format
        .walk(&memory, root(3), Iova(0), Access::READ)
        .unwrap();
    let flags = AttributeFlags::SNOOP | AttributeFlags::UNTRANSLATED_ONLY;
    assert_eq!(
        walk.attributes,
        Attributes {
            flags,
            memory_type: 0
        }
    );
}

#[test]
fn configurations_are_clamped() {
    assert_eq!(AmdV1::new(AmdV1Config::new(0)).config().levels, 1);
    assert_eq!(AmdV1::new(AmdV1Config::new(7)).config().levels, 6);
}

#[test]
fn fetching_goes_with_reading() {
    let format = AmdV1::new(AmdV1Config::new(2));
    let fetch = |entry| {
        let memory = chain(0, 2, 1, entry);
        format.walk(&memory, root(2), Iova(0), Access::EXECUTE)
    };
    let fault = fetch(GRANT & !Entry::READ).unwrap_err();
    assert_eq!((fault.level, fault.reason), (1, Reason::ExecuteDenied));
    assert!(fetch(GRANT & !Entry::WRITE).is_ok());
}
