use std::vec::Vec;

use crate::vtd::descriptor::{
    ContextScope, Descriptor, DescriptorRules, IndexRange, IotlbScope, Wait, raw,
};
use crate::vtd::registers::{Granularity, InvalidateAddress, QueueError};
use crate::{DomainId, Iova, PhysAddr};

const RULES: DescriptorRules = DescriptorRules {
    device_tlb: true,
    interrupt_remapping: true,
    maximum_address_mask: Some(18),
    maximum_handle_mask: 15,
    page_request_drain: false,
};

/// What each type accepts: the descriptor, and the bits that may be set in it without making it
/// invalid.
fn valid() -> Vec<([u64; 2], [u64; 2])> {
    std::vec![
        ([0x11, 0], [0x0003_ffff_ffff_0030, 0]),
        ([0x12, 0], [0xffff_00f0, !0xfff | 0x7f]),
        ([3, 0], [0xfff0_ffff_001f_f000, !0xfff | 1]),
        ([4, 0], [0x0000_ffff_f800_0010, 0]),
        ([0x25, 0], [0xffff_ffff_0000_0070, !3]),
    ]
}

#[test]
fn every_reserved_bit_of_every_descriptor_is_refused_and_no_other() {
    for ([low, high], [low_free, high_free]) in valid() {
        for bit in 0..128_u32 {
            // The type itself is for another test.
            if bit < 4 || (9..12).contains(&bit) {
                continue;
            }
            let (low_bit, high_bit) = if bit < 64 {
                (1 << bit, 0)
            } else {
                (0, 1 << (bit - 64))
            };
            let decoded = Descriptor::decode(low | low_bit, high | high_bit, &RULES);
            if low_free & low_bit | high_free & high_bit != 0 {
                assert!(decoded.is_ok(), "type {low:#x}, bit {bit}: {decoded:?}");
            } else {
                assert_eq!(
                    decoded,
                    Err(QueueError::Reserved),
                    "type {low:#x}, bit {bit}"
                );
            }
        }
    }
}

#[test]
fn types_that_the_unit_does_not_have_are_refused() {
    for kind in 0..128_u64 {
        let low = kind & 0xf | (kind & 0x70) << 5;
        assert_eq!(u64::from(raw::kind(low)), kind);
        if !(1..=5).contains(&kind) {
            assert_eq!(
                Descriptor::decode(low, 0, &RULES),
                Err(QueueError::InvalidType)
            );
        }
    }
    let none = DescriptorRules {
        device_tlb: false,
        interrupt_remapping: false,
        ..RULES
    };
    for kind in [3, 4] {
        assert_eq!(
            Descriptor::decode(kind, 0, &none),
            Err(QueueError::InvalidType)
        );
    }
}

#[test]
fn fields_arrive_where_they_belong() {
    let context = raw::ContextInvalidate::new()
        .with_granularity(Granularity::Selective)
        .with_domain(0x1234)
        .with_source(0x5678)
        .with_function_mask(2);
    let scope = ContextScope::Device {
        domain: DomainId(0x1234),
        source: 0x5678,
        ignored: 0b110,
    };
    let decoded = Descriptor::decode(context.into_bits(), 0, &RULES);
    assert_eq!(decoded, Ok(Descriptor::Context(scope)));

    let entries = raw::InterruptEntryInvalidate::new()
        .with_selective(true)
        .with_index(0x1234)
        .with_index_mask(4);
    let range = IndexRange {
        index: 0x1234,
        ignored: 0xf,
    };
    let decoded = Descriptor::decode(entries.into_bits(), 0, &RULES);
    assert_eq!(decoded, Ok(Descriptor::InterruptEntry(Some(range))));
    assert!(range.contains(0x123f) && !range.contains(0x1240));

    let wait = raw::Wait::new()
        .with_status_write(true)
        .with_interrupt(true)
        .with_fence(true)
        .with_status_data(0x8765_4321);
    let expected = Wait {
        status: Some((PhysAddr(0x1004), 0x8765_4321)),
        interrupt: true,
        fence: true,
        page_request_drain: false,
    };
    let decoded = Descriptor::decode(wait.into_bits(), 0x1004, &RULES);
    assert_eq!(decoded, Ok(Descriptor::Wait(expected)));
}

#[test]
fn page_masks_align_and_end_on_the_last_byte() {
    let pages = |address: u64, mask: u8| {
        let address = InvalidateAddress::new()
            .with_address(Iova(address))
            .with_address_mask(mask);
        match IotlbScope::pages(DomainId(1), address, 63) {
            Some(IotlbScope::Pages { range, .. }) => (range.start().0, range.end().0),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pages(0x5000, 0), (0x5000, 0x5fff));
    assert_eq!(pages(0x7000, 2), (0x4000, 0x7fff));
    assert_eq!(
        pages(0xffff_ffff_ffff_f000, 0),
        (0xffff_ffff_ffff_f000, u64::MAX)
    );
    assert_eq!(pages(0x5000, 51), (0, (1 << 63) - 1));
    for mask in 52..64 {
        assert_eq!(pages(0x5000, mask), (0, u64::MAX));
    }
    let address = InvalidateAddress::new().with_address_mask(19);
    assert_eq!(IotlbScope::pages(DomainId(1), address, 18), None);
}

#[test]
fn device_tlb_ranges_are_read_from_the_trailing_ones_of_the_address() {
    let range = |address, size| {
        let range = raw::device_tlb_range(address, size);
        (range.start().0, range.end().0)
    };
    assert_eq!(range(0x5000, false), (0x5000, 0x5fff));
    assert_eq!(range(0x4000, true), (0x4000, 0x5fff));
    assert_eq!(range(0x5000, true), (0x4000, 0x7fff));
    assert_eq!(range(0x7fff_f000, true), (0, 0xffff_ffff));
    assert_eq!(range(!0xfff, true), (0, u64::MAX));
    assert_eq!(range(!0xfff & !(1 << 63), true), (0, u64::MAX));
    assert_eq!(range(!0xfff & !(1 << 62), true), (1 << 63, u64::MAX));
}
