use std::vec;

use crate::amd::{
    DeviceTableEntry, DmaWord, DomainWord, DteRules, FaultReason, GuestCr3Entry, HostTables,
    InterruptControl, InterruptWord, IoControl, SystemManagement,
};
use crate::{DomainId, PhysAddr};

const RULES: DteRules = DteRules {
    host_levels: 6,
    guest_translation: true,
    guest_levels: 5,
    guest_cr3_levels: 3,
    guest_io: true,
    host_accessed: true,
    host_dirty: true,
    enhanced_ppr: true,
    interrupt_table_length: 11,
};

/// A unit that offers nothing that is optional.
const PLAIN: DteRules = DteRules {
    guest_translation: false,
    guest_levels: 4,
    guest_cr3_levels: 1,
    guest_io: false,
    host_accessed: false,
    host_dirty: false,
    enhanced_ppr: false,
    interrupt_table_length: 9,
    ..RULES
};

fn valid() -> DeviceTableEntry {
    DeviceTableEntry {
        dma: DmaWord::new().with_valid(true).with_translation_valid(true),
        ..DeviceTableEntry::default()
    }
}

fn with_bit(entry: DeviceTableEntry, bit: usize) -> DeviceTableEntry {
    let mut words = entry.words();
    words[bit / 64] |= 1 << (bit % 64);
    DeviceTableEntry::from_words(words)
}

#[test]
fn every_reserved_bit_of_the_memory_half_is_refused_and_no_other() {
    for (rules, optional) in [
        (RULES, vec![]),
        (PLAIN, {
            let mut optional = vec![7, 8];
            optional.extend(52..=60);
            optional.extend(80..=95);
            optional.extend(107..=127);
            optional
        }),
    ] {
        for bit in (1..128).chain(192..256) {
            let reserved = (2..=6).contains(&bit)
                || matches!(bit, 63 | 106)
                || (192..246).contains(&bit)
                || optional.contains(&bit);
            let outcome = with_bit(valid(), bit).check_dma(&rules);
            let refused = outcome == Err(FaultReason::DteReserved);
            assert_eq!(refused, reserved, "{bit}");
        }
    }
}

#[test]
fn nothing_in_the_memory_half_counts_without_v() {
    let entry = DeviceTableEntry::from_words([!1, !0, 0, !0]);
    assert_eq!(entry.check_dma(&RULES), Ok(None));
}

#[test]
fn every_reserved_bit_of_the_interrupt_half_is_refused_and_no_other() {
    let valid = DeviceTableEntry {
        interrupt: InterruptWord::new().with_valid(true),
        ..DeviceTableEntry::default()
    };
    for bit in 129..192 {
        let outcome = with_bit(valid, bit).check_interrupts(&RULES);
        let reserved = matches!(bit, 180 | 181 | 187);
        assert_eq!(outcome == Err(FaultReason::DteReserved), reserved, "{bit}");
        let absent = with_bit(DeviceTableEntry::default(), bit);
        assert_eq!(absent.check_interrupts(&RULES), Ok(None));
    }
}

#[test]
fn modes_that_the_unit_has_are_valid() {
    for most in [0, 4, 5, 6] {
        let rules = DteRules {
            host_levels: most,
            ..RULES
        };
        for mode in 0..8 {
            let mut entry = valid();
            entry.dma = entry.dma.with_mode(mode).with_host_tables(PhysAddr(0x5000));
            let host = entry.check_dma(&rules).map(|device| device.unwrap().host);
            let expected = match mode {
                0 => Ok(None),
                levels if levels <= most => Ok(Some(HostTables {
                    levels,
                    root: PhysAddr(0x5000),
                    accessed: false,
                    dirty: false,
                })),
                _ => Err(FaultReason::HostMode),
            };
            assert_eq!(host, expected, "{mode}");
        }
    }
}

#[test]
fn reserved_encodings_are_refused_where_they_matter() {
    let mut entry = valid();
    entry.dma = entry.dma.with_host_flags(2);
    assert_eq!(entry.check_dma(&RULES), Err(FaultReason::DteHostFlags));

    let mut entry = valid();
    entry.domain = entry.domain.with_io_control(3);
    assert_eq!(entry.check_dma(&RULES), Err(FaultReason::DteIoControl));

    for (levels, most) in [(0, 1), (1, 1), (2, 2), (2, 3), (3, 3)] {
        let rules = DteRules {
            guest_cr3_levels: most,
            ..RULES
        };
        let mut entry = valid();
        entry.dma = entry.dma.with_guest_cr3_levels(levels);
        assert!(entry.check_dma(&rules).is_ok(), "ignored without GV");
        entry.dma = entry.dma.with_guest_valid(true);
        let guest = entry.check_dma(&rules).map(|device| device.unwrap().guest);
        match guest {
            Ok(guest) => assert_eq!(guest.unwrap().cr3_levels, levels + 1),
            Err(reason) => {
                assert!(levels >= most);
                assert_eq!(reason, FaultReason::DteGuestCr3Levels);
            }
        }
    }
    for (encoding, most) in [(0, 4), (1, 4), (1, 5), (2, 5), (3, 5)] {
        let rules = DteRules {
            guest_levels: most,
            ..RULES
        };
        let mut entry = valid();
        entry.dma = entry.dma.with_guest_valid(true);
        entry.interrupt = entry.interrupt.with_guest_paging_mode(encoding);
        let levels = entry
            .check_dma(&rules)
            .map(|device| device.unwrap().guest.unwrap().levels);
        let expected = if encoding + 4 <= most {
            Ok(encoding + 4)
        } else {
            Err(FaultReason::DteGuestLevels)
        };
        assert_eq!(levels, expected);
    }
    for control in 0..4 {
        for length in 0..16 {
            for rules in [RULES, PLAIN] {
                let entry = DeviceTableEntry {
                    interrupt: InterruptWord::new()
                        .with_valid(true)
                        .with_control(control)
                        .with_table_length(length),
                    ..DeviceTableEntry::default()
                };
                let outcome = entry.check_interrupts(&rules).map(|source| source.unwrap());
                match control {
                    3 => assert_eq!(outcome, Err(FaultReason::DteInterruptControl)),
                    2 if length > rules.interrupt_table_length => {
                        assert_eq!(outcome, Err(FaultReason::DteInterruptTableLength));
                    }
                    _ => assert_eq!(outcome.unwrap().entries, 1 << length),
                }
            }
        }
    }
}

#[test]
fn an_entry_as_a_driver_writes_it_says_what_was_meant() {
    // Domain 0x29, four levels at 0x1_2345_6000, read and write, ATS, HAD.
    let words = [
        1 << 62 | 1 << 61 | 0x1_2345_6000 | 4 << 9 | 3 << 7 | 3,
        1 << 32 | 0x29,
        2 << 60 | 0x7654_3080 | 9 << 1 | 1,
        0,
    ];
    let entry = DeviceTableEntry::from_words(words);
    assert_eq!(entry.words(), words);
    let device = entry.check_dma(&RULES).unwrap().unwrap();
    assert_eq!(
        device.host,
        Some(HostTables {
            levels: 4,
            root: PhysAddr(0x1_2345_6000),
            accessed: true,
            dirty: true,
        })
    );
    assert!(device.read && device.write && device.iotlb && device.translation_valid);
    assert_eq!(device.domain, DomainId(0x29));
    assert_eq!(device.guest, None);
    let source = entry.check_interrupts(&RULES).unwrap().unwrap();
    assert_eq!(source.control, InterruptControl::Remap);
    assert_eq!((source.table, source.entries), (PhysAddr(0x7654_3080), 512));
}

#[test]
fn the_guest_cr3_table_address_is_spread_over_three_fields() {
    let address = PhysAddr(0xf_edcb_a987_6000);
    let entry = valid().with_guest_cr3_table(address);
    let words = entry.words();
    assert_eq!(words[0] >> 58 & 7, address.0 >> 12 & 7);
    assert_eq!(words[1] >> 16 & 0xffff, address.0 >> 15 & 0xffff);
    assert_eq!(words[1] >> 43, address.0 >> 31);
    assert_eq!(entry.guest_cr3_table(), address);
    for bit in 12..52 {
        let address = PhysAddr(1 << bit);
        assert_eq!(
            valid().with_guest_cr3_table(address).guest_cr3_table(),
            address
        );
    }
}

#[test]
fn the_two_bit_fields_have_their_meanings() {
    let device = |io_control, system_management| {
        let entry = DeviceTableEntry {
            domain: DomainWord::new()
                .with_io_control(io_control)
                .with_system_management(system_management),
            ..valid()
        };
        let device = entry.check_dma(&RULES).unwrap().unwrap();
        (device.io_control, device.system_management)
    };
    assert_eq!(device(0, 0), (IoControl::Abort, SystemManagement::Abort));
    assert_eq!(
        device(1, 1),
        (IoControl::Forward, SystemManagement::Forward)
    );
    let (io_control, system_management) = device(2, 2);
    assert_eq!(io_control, IoControl::Translate);
    assert_eq!(system_management, SystemManagement::ForwardInterrupts);
    assert_eq!(device(0, 3).1, SystemManagement::Translate);
}

#[test]
fn every_reserved_bit_of_a_guest_cr3_entry_is_refused_and_no_other() {
    let valid = GuestCr3Entry::new()
        .with_valid(true)
        .with_address(PhysAddr(0x1234_5000));
    for level in 1..=3 {
        for bit in 1..64 {
            let entry = GuestCr3Entry::from_bits(valid.into_bits() | 1 << bit);
            let cache = matches!(bit, 3 | 4);
            let reserved = !((12..52).contains(&bit) || cache && level == 1);
            let expected = if reserved {
                Err(FaultReason::Reserved)
            } else {
                Ok(entry.address())
            };
            assert_eq!(entry.check(level), expected, "{level} {bit}");
            let absent = GuestCr3Entry::from_bits(entry.into_bits() & !1);
            assert_eq!(absent.check(level), Err(FaultReason::PasidInvalid));
        }
    }
}

#[test]
fn a_pasid_selects_an_entry_at_each_level() {
    let pasid = 0b10_101010101_110011001;
    assert_eq!(GuestCr3Entry::offset(pasid, 1), 0b110011001 * 8);
    assert_eq!(GuestCr3Entry::offset(pasid, 2), 0b101010101 * 8);
    assert_eq!(GuestCr3Entry::offset(pasid, 3), 0b10 * 8);
    assert_eq!([1, 2, 3].map(GuestCr3Entry::pasid_width), [9, 18, 20]);
}
