use crate::amd::command::raw::{self, PageSelector};
use crate::amd::command::{Command, CommandRules, CompletionWait, IllegalCommand};
use crate::{DomainId, Iova, Pasid, PhysAddr};

const RULES: CommandRules = CommandRules {
    iotlb: true,
    prefetch: true,
    ppr: true,
    invalidate_all: true,
    guest_translation: true,
    invalidate_iotlb_type: false,
};

fn decode(low: u64, high: u64) -> Result<Command, IllegalCommand> {
    Command::decode(low, high, &RULES)
}

/// The first and last defined bit of each field, in the lower and the upper half.
type Fields = &'static [(u32, u32)];

const COMMANDS: &[(u8, Fields, Fields)] = &[
    (raw::COMPLETION_WAIT, &[(0, 51)], &[(0, 63)]),
    (raw::INVALIDATE_DEVTAB_ENTRY, &[(0, 15)], &[]),
    (
        raw::INVALIDATE_IOMMU_PAGES,
        &[(0, 19), (32, 47)],
        &[(0, 2), (12, 63)],
    ),
    (
        raw::INVALIDATE_IOTLB_PAGES,
        &[(0, 59)],
        &[(0, 0), (2, 2), (12, 63)],
    ),
    (raw::INVALIDATE_INTERRUPT_TABLE, &[(0, 15)], &[]),
    (
        raw::PREFETCH_IOMMU_PAGES,
        &[(0, 15), (24, 51)],
        &[(0, 0), (2, 2), (4, 4), (12, 63)],
    ),
    (
        raw::COMPLETE_PPR_REQUEST,
        &[(0, 15), (32, 51)],
        &[(2, 2), (32, 47)],
    ),
    (raw::INVALIDATE_IOMMU_ALL, &[], &[]),
];

#[test]
fn every_reserved_bit_of_a_command_is_refused_and_no_other() {
    for &(opcode, low_fields, high_fields) in COMMANDS {
        let command = u64::from(opcode) << 60;
        assert!(decode(command, 0).is_ok());
        let defined = |fields: Fields, bit| {
            fields
                .iter()
                .any(|&(first, last)| (first..=last).contains(&bit))
        };
        for bit in 0..60 {
            let outcome = decode(command | 1 << bit, 0);
            assert_eq!(outcome.is_ok(), defined(low_fields, bit), "{opcode} {bit}");
        }
        for bit in 0..64 {
            let outcome = decode(command, 1 << bit);
            assert_eq!(outcome.is_ok(), defined(high_fields, bit), "{opcode} {bit}");
        }
    }
}

#[test]
fn opcodes_that_a_unit_does_not_have_are_illegal() {
    let without = CommandRules {
        iotlb: false,
        prefetch: false,
        ppr: false,
        invalidate_all: false,
        guest_translation: false,
        invalidate_iotlb_type: false,
    };
    for opcode in 0..16 {
        let illegal = Err(IllegalCommand::Opcode { opcode });
        let command = u64::from(opcode) << 60;
        assert_eq!(decode(command, 0) == illegal, !(1..=8).contains(&opcode));
        let outcome = Command::decode(command, 0, &without);
        assert_eq!(outcome == illegal, !matches!(opcode, 1..=3 | 5));
    }
    let guest = u64::from(raw::INVALIDATE_IOMMU_PAGES) << 60;
    assert!(Command::decode(guest, 4, &without).is_err(), "GN");
    assert!(Command::decode(guest | 1, 0, &without).is_err(), "PASID");
}

#[test]
fn commands_are_what_drivers_mean() {
    assert_eq!(
        decode(1 << 60 | 0x1_2345_6788 | 1, 0xdead_beef),
        Ok(Command::CompletionWait(CompletionWait {
            store: Some((PhysAddr(0x1_2345_6788), 0xdead_beef)),
            interrupt: false,
            flush: false,
        }))
    );
    let raw = raw::CompletionWait::new()
        .with_interrupt(true)
        .with_flush(true)
        .with_address(PhysAddr(0x8));
    let wait = Command::CompletionWait(CompletionWait {
        store: None,
        interrupt: true,
        flush: true,
    });
    assert_eq!(decode(raw.into_bits(), 0), Ok(wait));
    assert_eq!(
        decode(3 << 60 | 0x55 << 32 | 0x7, 0x7fff_ffff_ffff_f007),
        Ok(Command::InvalidatePages {
            domain: DomainId(0x55),
            pasid: Pasid::new(7),
            range: Iova(0)..=Iova(u64::MAX),
            directories: true,
        })
    );
    // PASID 0xabcde, queue depth 32.
    let low = 4 << 60 | 0xa << 56 | 0xde << 48 | 0x1234 << 32 | 32 << 24 | 0xbc << 16 | 0x1234;
    assert_eq!(
        decode(low, 0x5004),
        Ok(Command::InvalidateDeviceTlb {
            device: 0x1234,
            queue: 0x1234,
            max_pending: 32,
            pasid: Pasid::new(0xa_bcde),
            range: Iova(0x5000)..=Iova(0x5fff),
        })
    );
    let raw = raw::InvalidateIotlb::new()
        .with_device(0x1234)
        .with_queue(0x1234)
        .with_max_pending(32)
        .with_pasid(0xa_bcde);
    assert_eq!(raw.into_bits(), low);
    assert_eq!(
        decode(7 << 60 | 5 << 32 | 0x1234, 0xf155 << 32 | 4),
        Ok(Command::CompletePpr {
            device: 0x1234,
            pasid: Pasid::new(5),
            tag: 0xf155,
        })
    );
}

#[test]
fn page_selectors_encode_ranges_exactly() {
    let range = |selector: u64| PageSelector::from_bits(selector).range();
    assert_eq!(range(0x5000), Iova(0x5000)..=Iova(0x5fff));
    assert_eq!(range(0x5001), Iova(0x4000)..=Iova(0x7fff));
    assert_eq!(range(0x1), Iova(0)..=Iova(0x1fff));
    assert_eq!(range(0x0f_f001), Iova(0)..=Iova(0x1f_ffff));
    assert_eq!(range(!0), Iova(0)..=Iova(u64::MAX));
    for order in 0..=52 {
        let bytes = 1_u128 << (order + 12);
        for base in [0_u128, 3, 0x1234] {
            let first = base * bytes;
            let Ok(last) = u64::try_from(first + bytes - 1) else {
                continue;
            };
            let wanted = Iova(first as u64)..=Iova(last);
            assert_eq!(PageSelector::of_range(&wanted).range(), wanted, "{order}");
        }
    }
    let crossing = PageSelector::of_range(&(Iova(0x3000)..=Iova(0x4fff)));
    assert_eq!(crossing.range(), Iova(0)..=Iova(0x7fff));
}
