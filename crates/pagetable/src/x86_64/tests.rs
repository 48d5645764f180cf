use vm_iommu_spec::{Iova, PhysAddr};

use super::*;
use crate::testing::MockMemory;
use crate::{TableMemory, Walker};

const ROOT: PhysAddr = PhysAddr(0x1000);
const PAGE: u64 = 0x40_0000_0000;
const GRANT: u64 = Entry::PRESENT | Entry::WRITABLE | Entry::USER;

/// Tables at 0x1000, 0x2000, … from the top, that map a page at [`PAGE`] by an entry of
/// `leaf_level`.
fn chain(config: &X86_64Config, iova: u64, leaf_level: u8) -> MockMemory {
    let memory = MockMemory::new(PhysAddr(0), 0x7000);
    let mut table = ROOT.0;
    for level in (leaf_level..=config.levels.count()).rev() {
        let entry = match level {
            level if level > leaf_level => (table + 0x1000) | GRANT,
            1 => PAGE | GRANT,
            _ => PAGE | GRANT | Entry::PAGE_SIZE,
        };
        memory.store(place(config, iova, level), entry).unwrap();
        table += 0x1000;
    }
    memory
}

fn place(config: &X86_64Config, iova: u64, level: u8) -> PhysAddr {
    let table = ROOT.0 + u64::from(config.levels.count() - level) * 0x1000;
    PhysAddr(table + (iova >> (3 + 9 * level) & 0x1ff) * 8)
}

fn change(memory: &MockMemory, place: PhysAddr, clear: u64, set: u64) {
    memory
        .store(place, memory.load(place).unwrap() & !clear | set)
        .unwrap();
}

fn shapes() -> impl Iterator<Item = (X86_64Config, u8)> {
    [Levels::Four, Levels::Five]
        .into_iter()
        .flat_map(|levels| (1..=3).map(move |leaf| (X86_64Config::new(levels), leaf)))
}

#[test]
fn each_page_size_translates_in_each_depth() {
    for (config, leaf) in shapes() {
        let iova = Iova(0x55_5555_5555);
        let memory = chain(&config, iova.0, leaf);
        let walk = X86_64::new(config)
            .walk(&memory, ROOT, iova, Access::ATOMIC_OP)
            .unwrap();
        let size = 1 << (3 + 9 * leaf);
        assert_eq!(walk.page_size(), size);
        assert_eq!(walk.output, PhysAddr(PAGE + iova.offset_in(size)));
        assert_eq!(
            walk.permissions,
            Access::READ | Access::WRITE | Access::EXECUTE
        );
        assert_eq!(
            walk.visited.len(),
            usize::from(config.levels.count() - leaf + 1)
        );
    }
}

#[test]
fn addresses_have_to_be_canonical() {
    for levels in [Levels::Four, Levels::Five] {
        let config = X86_64Config::new(levels);
        let format = X86_64::new(config);
        let half = 1u64 << (levels.address_width() - 1);
        for (address, canonical) in [
            (0, true),
            (half - 1, true),
            (half, false),
            (2 * half - 1, false),
            (2 * half, false),
            (1 << 63, false),
            (!half, false),
            (half.wrapping_neg() - 1, false),
            (half.wrapping_neg(), true),
            (u64::MAX, true),
        ] {
            let memory = chain(&config, address, 1);
            let outcome = format.walk(&memory, ROOT, Iova(address), Access::READ);
            if canonical {
                assert_eq!(
                    outcome.unwrap().output.0,
                    PAGE + (address & 0xfff),
                    "{address:#x}"
                );
            } else {
                let fault = outcome.unwrap_err();
                assert_eq!((fault.level, fault.reason), (0, Reason::NotCanonical));
            }
        }
    }
}

/// The bits that the specification's tables reserve, independently of the masks under test.
fn reserved_bits(config: &X86_64Config, level: u8, is_page: bool) -> Vec<u32> {
    let mut bits: Vec<u32> = (u32::from(config.host_address_width)..52).collect();
    bits.extend((!config.no_execute).then_some(63));
    match (is_page, level) {
        (true, 2) => bits.extend(13..21),
        (true, 3) => bits.extend(13..30),
        (true, _) => {}
        (false, 2) => {}
        (false, 3) => bits.extend((!config.one_gib_pages).then_some(7)),
        (false, _) => bits.push(7),
    }
    bits
}

#[test]
fn each_reserved_bit_of_each_level_faults_and_no_other_bit_does() {
    for (mut config, leaf) in shapes() {
        for variant in 0..8 {
            config.host_address_width = if variant & 1 != 0 { 39 } else { 52 };
            config.no_execute = variant & 2 != 0;
            config.one_gib_pages = variant & 4 != 0 || leaf == 3;
            let format = X86_64::new(config);
            for level in leaf..=config.levels.count() {
                let memory = chain(&config, 0, leaf);
                let entry = place(&config, 0, level);
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
                    } else if level == leaf {
                        assert!(outcome.is_ok(), "{context:?}");
                    } else if let Err(fault) = outcome {
                        assert!((12..52).contains(&bit) || bit == 7, "{context:?}");
                        assert!(fault.level < level || bit == 7, "{context:?}");
                    }
                    memory.store(entry, good).unwrap();
                }
            }
        }
    }
}

#[test]
fn the_topmost_entry_without_permission_refuses() {
    let mut config = X86_64Config::new(Levels::Three);
    config.accessed_dirty = false;
    let accesses = [
        Access::READ,
        Access::WRITE,
        Access::ATOMIC_OP,
        Access::READ | Access::EXECUTE,
        Access::empty(),
    ];
    for (write_protect, privileged) in [(true, true), (true, false), (false, true), (false, false)]
    {
        config.write_protect = write_protect;
        let format = X86_64::new(config);
        for combination in 0..512u64 {
            // For each level: R/W, U/S and XD.
            let at = |level: u8, field: u32| combination >> (3 * (level - 1)) >> field & 1 != 0;
            let memory = chain(&config, 0, 1);
            for level in 1..=3 {
                let entry = place(&config, 0, level);
                let denied = if at(level, 0) { 0 } else { Entry::WRITABLE }
                    | if at(level, 1) { 0 } else { Entry::USER };
                let set = if at(level, 2) {
                    Entry::EXECUTE_DISABLE
                } else {
                    0
                };
                change(&memory, entry, denied, set);
            }
            for mut access in accesses {
                access.set(Access::PRIVILEGED, privileged);
                let refusal = |level: u8| {
                    if !privileged && !at(level, 1) {
                        Some(Reason::PrivilegeDenied)
                    } else if access.writes() && !at(level, 0) && (!privileged || write_protect) {
                        Some(Reason::WriteDenied)
                    } else if access.contains(Access::EXECUTE) && at(level, 2) {
                        Some(Reason::ExecuteDenied)
                    } else {
                        None
                    }
                };
                let expected = (1..=3)
                    .rev()
                    .find_map(|level| Some((level, refusal(level)?)));
                let outcome = format.walk(&memory, ROOT, Iova(0), access);
                let refused = outcome.err().map(|fault| (fault.level, fault.reason));
                assert_eq!(refused, expected, "{combination:#o} {access}");
            }
        }
    }
}

#[test]
fn supervisor_requests_have_to_be_enabled() {
    let mut config = X86_64Config::new(Levels::Four);
    config.supervisor = false;
    let memory = chain(&config, 0, 1);
    let access = Access::READ | Access::PRIVILEGED;
    let fault = X86_64::new(config)
        .walk(&memory, ROOT, Iova(0), access)
        .unwrap_err();
    assert_eq!((fault.level, fault.reason), (0, Reason::SupervisorDisabled));
    assert!(
        X86_64::new(config)
            .walk(&memory, ROOT, Iova(0), Access::READ)
            .is_ok()
    );
}

#[test]
fn flags_are_set_as_the_access_needs() {
    for (mut config, leaf) in shapes() {
        for extended in [false, true] {
            config.extended_accessed = extended;
            let format = X86_64::new(config);
            let memory = chain(&config, 0, leaf);
            let accessed = Entry::ACCESSED
                | if extended {
                    Entry::EXTENDED_ACCESSED
                } else {
                    0
                };
            let flags = |level| {
                let entry = memory.load(place(&config, 0, level)).unwrap();
                entry & (Entry::ACCESSED | Entry::DIRTY | Entry::EXTENDED_ACCESSED)
            };
            let read = format.walk(&memory, ROOT, Iova(0), Access::READ).unwrap();
            assert_eq!(read.cacheable, Access::READ | Access::EXECUTE);
            assert!((leaf..=config.levels.count()).all(|level| flags(level) == accessed));
            let write = format.walk(&memory, ROOT, Iova(0), Access::WRITE).unwrap();
            assert_eq!(write.cacheable, write.permissions);
            assert_eq!(flags(leaf), accessed | Entry::DIRTY);
            assert!((leaf + 1..=config.levels.count()).all(|level| flags(level) == accessed));
        }
    }
}

#[test]
fn the_memory_type_index_takes_pat_from_where_it_is() {
    for (config, leaf) in shapes() {
        let memory = chain(&config, 0, leaf);
        let pat = if leaf == 1 {
            Entry::PAT
        } else {
            Entry::LARGE_PAT
        };
        change(
            &memory,
            place(&config, 0, leaf),
            0,
            pat | 1 << 3 | Entry::GLOBAL,
        );
        let walk = X86_64::new(config)
            .walk(&memory, ROOT, Iova(0), Access::READ)
            .unwrap();
        let flags = AttributeFlags::GLOBAL | AttributeFlags::USER;
        assert_eq!(
            walk.attributes,
            Attributes {
                flags,
                memory_type: 5
            }
        );
        assert_eq!(walk.output, PhysAddr(PAGE));
    }
}
