use crate::vtd::{FaultReason, InterruptRequest, Irte, RemappableAddress};
use crate::{DeliveryMode, MsiMessage, RequesterId};

#[test]
fn every_reserved_bit_of_an_entry_is_refused_and_no_other() {
    for extended in [false, true] {
        for bit in 1..128_u32 {
            let entry = Irte::from_bits(1 | 1 << bit);
            let reserved = (12..16).contains(&bit)
                || (24..32).contains(&bit)
                || bit >= 84
                || !extended && ((32..40).contains(&bit) || (48..64).contains(&bit));
            let expected = reserved.then_some(FaultReason::IrEntryReserved);
            assert_eq!(entry.check(extended).err(), expected, "{bit}");
            let absent = Irte::from_bits(1 << bit);
            assert_eq!(absent.check(extended), Err(FaultReason::IrEntryNotPresent));
        }
    }
}

#[test]
fn destinations_are_8_or_32_bits() {
    for extended in [false, true] {
        let entry = Irte::new()
            .with_present(true)
            .with_delivery_mode(4)
            .with_destination_for(0x1234_5678, extended);
        let interrupt = entry.check(extended).unwrap();
        let expected = if extended { 0x1234_5678 } else { 0x78 };
        assert_eq!(interrupt.destination, expected);
        assert_eq!(interrupt.delivery_mode, DeliveryMode::Nmi);
    }
}

#[test]
fn verification_of_all_requesters_follows_svt_and_sq() {
    let requester = |id| RequesterId::from_source_id(0, id);
    let source = 0x3a15;
    for id in 0..=u16::MAX {
        for (qualifier, ignored) in [(0, 0), (1, 4), (2, 6), (3, 7)] {
            let entry = Irte::new()
                .with_source_validation(1)
                .with_source_qualifier(qualifier)
                .with_source(source);
            let valid = id & !ignored == source & !ignored;
            assert_eq!(entry.verify(requester(id)).is_ok(), valid);
        }
        // SID holds the first and the last bus.
        let buses = Irte::new().with_source_validation(2).with_source(0x10_20);
        let valid = (0x10..=0x20).contains(&(id >> 8));
        assert_eq!(buses.verify(requester(id)).is_ok(), valid);
        assert!(Irte::new().verify(requester(id)).is_ok());
        let reserved = Irte::new().with_source_validation(3).with_source(id);
        assert!(reserved.verify(requester(id)).is_err());
    }
}

#[test]
fn a_handle_survives_the_address() {
    for handle in [0, 1, 0x7fff, 0x8000, 0xffff] {
        let address = RemappableAddress::new()
            .with_prefix(0xfee)
            .with_remappable(true)
            .with_handle(handle);
        let message = MsiMessage {
            address: u64::from(address.into_bits()),
            data: 0xffff,
        };
        let index = u32::from(handle);
        let request = InterruptRequest::decode(message);
        assert_eq!(request, Ok(InterruptRequest::Remappable { index }));
        let shifted = MsiMessage {
            address: message.address | 1 << 3,
            ..message
        };
        let index = index + 0xffff;
        let request = InterruptRequest::decode(shifted);
        assert_eq!(request, Ok(InterruptRequest::Remappable { index }));
    }
}

#[test]
fn the_format_bit_tells_compatibility_from_remappable() {
    let message = |address| MsiMessage {
        address,
        data: 1 << 16,
    };
    assert_eq!(
        InterruptRequest::decode(message(0xfee0_0000)),
        Ok(InterruptRequest::Compatibility)
    );
    assert_eq!(
        InterruptRequest::decode(message(0xfee0_0010)),
        Err(FaultReason::IrRequestReserved)
    );
}
