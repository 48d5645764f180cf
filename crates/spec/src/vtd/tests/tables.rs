use crate::vtd::{ContextEntry, FaultReason, RootEntry, TableRules, TranslationType};
use crate::{DomainId, PhysAddr};

const RULES: TableRules = TableRules {
    host_address_width: 46,
    adjusted_widths: 0b0110,
    pass_through: true,
    device_tlb: true,
};

#[test]
fn every_reserved_bit_of_a_root_entry_is_refused_and_no_other() {
    let valid = RootEntry::new()
        .with_present(true)
        .with_context_table(PhysAddr(0x1234_5000));
    assert_eq!(valid.check(&RULES), Ok(PhysAddr(0x1234_5000)));
    for bit in 1..128_u32 {
        let entry = RootEntry::from_bits(valid.into_bits() | 1 << bit);
        let reserved = !(12..46).contains(&bit);
        let expected = if reserved {
            Err(FaultReason::RootEntryReserved)
        } else {
            Ok(entry.context_table())
        };
        assert_eq!(entry.check(&RULES), expected, "{bit}");
        let absent = RootEntry::from_bits(entry.into_bits() & !1);
        assert_eq!(absent.check(&RULES), Err(FaultReason::RootEntryNotPresent));
    }
}

#[test]
fn every_reserved_bit_of_a_context_entry_is_refused_and_no_other() {
    let valid = ContextEntry::new()
        .with_present(true)
        .with_tables(PhysAddr(0x1234_5000))
        .with_address_width(2)
        .with_domain(0x55);
    assert!(valid.check(&RULES).is_ok());
    let reserved =
        |bit: u32| (4..12).contains(&bit) || (46..64).contains(&bit) || bit == 71 || bit >= 88;
    for bit in 1..128_u32 {
        let entry = ContextEntry::from_bits(valid.into_bits() | 1 << bit);
        let is_reserved = entry.check(&RULES) == Err(FaultReason::ContextEntryReserved);
        assert_eq!(is_reserved, reserved(bit), "{bit}");
        let absent = ContextEntry::from_bits(entry.into_bits() & !1);
        assert_eq!(
            absent.check(&RULES),
            Err(FaultReason::ContextEntryNotPresent)
        );
    }
}

#[test]
fn a_context_entry_is_valid_for_supported_widths_and_types_only() {
    for sagaw in 0..16_u8 {
        for bits in 0..4_u8 {
            let rules = TableRules {
                adjusted_widths: sagaw & 0b1110,
                pass_through: bits & 1 != 0,
                device_tlb: bits & 2 != 0,
                ..RULES
            };
            for width in 0..8_u8 {
                for translation_type in [
                    TranslationType::Untranslated,
                    TranslationType::DeviceTlb,
                    TranslationType::PassThrough,
                    TranslationType::Reserved,
                ] {
                    let entry = ContextEntry::new()
                        .with_present(true)
                        .with_address_width(width)
                        .with_translation_type(translation_type);
                    let supported = (1..=3).contains(&width) && sagaw >> width & 1 != 0;
                    let widest = (width + 1..4).all(|wider| sagaw >> wider & 1 == 0);
                    let valid = supported
                        && match translation_type {
                            TranslationType::Untranslated => true,
                            TranslationType::DeviceTlb => rules.device_tlb,
                            TranslationType::PassThrough => rules.pass_through && widest,
                            TranslationType::Reserved => false,
                        };
                    match entry.check(&rules) {
                        Ok(context) => {
                            assert!(valid, "{entry:?}");
                            assert_eq!(context.levels, width + 2);
                        }
                        Err(reason) => {
                            assert!(!valid, "{entry:?}");
                            assert_eq!(reason, FaultReason::ContextEntryInvalid);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_context_carries_the_fields_of_its_entry() {
    let entry = ContextEntry::from_words(0xabcd_e003, 0x1234 << 8 | 0x78 | 2);
    let context = entry.check(&RULES).unwrap();
    assert_eq!(context.tables, PhysAddr(0xabcd_e000));
    assert_eq!(context.domain, DomainId(0x1234));
    assert_eq!(context.levels, 4);
    assert!(context.fault_processing_disable);
    assert_eq!(entry.words(), [0xabcd_e003, 0x1234 << 8 | 0x78 | 2]);
}

#[test]
fn host_address_widths_at_the_edges_do_not_overflow() {
    let entry = RootEntry::from_words(1 << 63 | 1, 0);
    for host_address_width in [0, 63, 64, 255] {
        let rules = TableRules {
            host_address_width,
            ..RULES
        };
        assert_eq!(entry.check(&rules).is_ok(), host_address_width >= 64);
    }
}
