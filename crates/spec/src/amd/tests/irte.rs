use crate::amd::{FaultReason, GuestInterrupt, GuestIrte, Irte32, Irte128, Remapped, index_of};
use crate::{DeliveryMode, DestinationMode, Interrupt, PhysAddr, TriggerMode};

#[test]
fn every_reserved_bit_of_a_32_bit_entry_is_refused_and_no_other() {
    let valid = Irte32::new().with_remap_enable(true);
    for bit in 1..32_u32 {
        let entry = Irte32::from_bits(valid.into_bits() | 1 << bit);
        let expected = match bit {
            7 | 24..32 => Some(FaultReason::InterruptEntryReserved),
            3 | 4 => Some(FaultReason::InterruptType),
            _ => None,
        };
        assert_eq!(entry.check().err(), expected, "{bit}");
        let disabled = Irte32::from_bits(entry.into_bits() & !1);
        assert_eq!(disabled.check(), Err(FaultReason::InterruptNotRemapped));
    }
}

#[test]
fn every_reserved_bit_of_a_128_bit_entry_is_refused_and_no_other() {
    let valid = Irte128::new().with_remap_enable(true);
    for bit in 1..128_u32 {
        let entry = Irte128::from_bits(valid.into_bits() | 1 << bit);
        for x2apic in [false, true] {
            let destination = (16..32).contains(&bit) || bit >= 120;
            let reserved = (32..64).contains(&bit)
                || (72..120).contains(&bit)
                || bit == 7
                || destination && !x2apic;
            let expected = match bit {
                3 | 4 => Some(FaultReason::InterruptType),
                _ if reserved => Some(FaultReason::InterruptEntryReserved),
                _ => None,
            };
            assert_eq!(entry.check(x2apic, false).err(), expected, "{bit}");
        }
        let disabled = Irte128::from_bits(entry.into_bits() & !1);
        assert_eq!(
            disabled.check(true, true),
            Err(FaultReason::InterruptNotRemapped)
        );
    }
}

#[test]
fn every_reserved_bit_of_a_guest_entry_is_refused_and_no_other() {
    let valid = GuestIrte::new().with_remap_enable(true);
    assert_eq!(valid.into_bits(), 0x81);
    for bit in 1..128_u32 {
        let entry = Irte128::from_bits(valid.into_bits() | 1 << bit);
        let reserved =
            (3..6).contains(&bit) || (72..76).contains(&bit) || (116..120).contains(&bit);
        assert_eq!(entry.check(true, true).is_err(), reserved, "{bit}");
        assert_eq!(
            entry.check(true, false),
            Err(FaultReason::InterruptEntryReserved),
            "GAMEn is clear"
        );
    }
}

#[test]
fn fields_are_where_drivers_put_them() {
    let short = Irte32::from_bits(0x0042_0341 | 1 << 2);
    let expected = Interrupt {
        destination: 3,
        destination_mode: DestinationMode::Logical,
        redirection_hint: true,
        delivery_mode: DeliveryMode::LowestPriority,
        vector: 0x42,
        trigger_mode: TriggerMode::Edge,
    };
    assert_eq!(short.check(), Ok(expected));
    let long = Irte128::from_words(0x00ab_cd01 << 8 | 1 << 5 | 1, 0x12 << 56 | 0x42);
    assert_eq!(long.destination(), 0x12ab_cd01);
    assert_eq!(
        long.check(true, false),
        Ok(Remapped::Interrupt(Interrupt {
            destination: 0x12ab_cd01,
            vector: 0x42,
            trigger_mode: TriggerMode::Level,
            ..Interrupt::default()
        }))
    );
    assert_eq!(
        Irte128::new().with_destination(0x12ab_cd01).destination(),
        0x12ab_cd01
    );
    assert_eq!(index_of(0xffff_ffff), 0x7ff);
}

#[test]
fn a_guest_entry_tells_a_running_guest_from_one_that_waits() {
    let entry = GuestIrte::new()
        .with_remap_enable(true)
        .with_ga_log(true)
        .with_destination(0x0102_0304)
        .with_tag(0xdead_beef)
        .with_vector(0x31)
        .with_backing_page(PhysAddr(0x12_3456_7000));
    let check = |entry: GuestIrte| Irte128::from_bits(entry.into_bits()).check(true, true);
    let waits = GuestInterrupt {
        backing_page: PhysAddr(0x12_3456_7000),
        vector: 0x31,
        doorbell: None,
        tag: Some(0xdead_beef),
    };
    assert_eq!(check(entry), Ok(Remapped::Guest(waits)));
    let runs = GuestInterrupt {
        doorbell: Some(0x0102_0304),
        tag: None,
        ..waits
    };
    assert_eq!(
        check(entry.with_is_running(true)),
        Ok(Remapped::Guest(runs))
    );
    assert_eq!(entry.into_bits() >> 64, 0x12_3456_7000 | 0x31 | 1 << 56);
}
