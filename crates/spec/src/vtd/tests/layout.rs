//! Bit positions, against the numbers that drivers and other units use.

use crate::vtd::registers::{
    Capability, ContextCommand, ExtendedCapability, FaultStatus, GlobalBits, Granularity,
    InterruptTableAddress, IotlbInvalidate, QueueAddress, QueueError, QueueErrorRecord,
    RootTableAddress, TableMode, Version,
};
use crate::vtd::{FaultReason, FaultRecord};
use crate::{Access, AddressType, DmaRequest, Iova, Pasid, PhysAddr, RequesterId};

#[test]
fn capability_fields_are_where_drivers_look_for_them() {
    // A capability register as an emulated unit in the field reports it.
    let capability = Capability::from_bits(0x00d2_008c_2226_0206);
    assert_eq!(capability.domains(), 6);
    assert_eq!(capability.adjusted_widths(), 0b10);
    assert_eq!(capability.maximum_width(), 38);
    assert_eq!(capability.fault_recording_offset(), 0x220);
    assert_eq!(capability.second_stage_large_pages(), 0b11);
    assert!(capability.page_selective_invalidation());
    assert_eq!(capability.fault_record_count(), 1);
    assert_eq!(capability.maximum_address_mask(), 18);
    assert!(capability.write_draining() && capability.read_draining());
    assert_eq!(
        Capability::new()
            .with_fault_records(255)
            .fault_record_count(),
        256
    );
    assert_eq!(
        Capability::new().with_posted_interrupts(true).into_bits(),
        1 << 59
    );
    assert_eq!(
        Capability::new()
            .with_enhanced_set_root_table(true)
            .into_bits(),
        1 << 63
    );
    assert_eq!(
        Capability::new().with_caching_mode(true).into_bits(),
        1 << 7
    );

    let extended = ExtendedCapability::from_bits(0x00f0_0f4a);
    assert!(extended.queued_invalidation());
    assert!(extended.interrupt_remapping());
    assert!(extended.pass_through());
    assert!(!extended.coherent() && !extended.extended_interrupt_mode());
    assert_eq!(extended.iotlb_offset(), 0xf0);
    assert_eq!(extended.maximum_handle_mask(), 15);
    let bit = |extended: ExtendedCapability| extended.into_bits().trailing_zeros();
    let new = ExtendedCapability::new;
    assert_eq!(bit(new().with_page_requests(true)), 29);
    assert_eq!(bit(new().with_nested_translation(true)), 26);
    assert_eq!(bit(new().with_pasid_width(1)), 35);
    assert_eq!(bit(new().with_pasid(true)), 40);
    assert_eq!(bit(new().with_scalable_mode(true)), 43);
    assert_eq!(bit(new().with_second_stage(true)), 46);
    assert_eq!(bit(new().with_first_stage(true)), 47);
    assert_eq!(bit(new().with_scalable_walk_coherency(true)), 48);
    assert_eq!(bit(new().with_abort_dma_mode(true)), 52);
    assert_eq!(Version::from_bits(0x10).major(), 1);
}

#[test]
fn command_fields_are_where_drivers_put_them() {
    assert_eq!(GlobalBits::TRANSLATION.bits(), 1 << 31);
    assert_eq!(GlobalBits::COMPATIBILITY_FORMAT.bits(), 1 << 23);
    let command = ContextCommand::new()
        .with_domain(0x1234)
        .with_source(0x5678)
        .with_function_mask(3)
        .with_requested(Granularity::Selective)
        .with_invalidate(true);
    assert_eq!(command.into_bits(), 0xe000_0003_5678_1234);
    let answer = ContextCommand::new().with_actual(Granularity::Global);
    assert_eq!(answer.into_bits(), 1 << 59);
    let command = IotlbInvalidate::new()
        .with_domain(0x1234)
        .with_drain_reads(true)
        .with_requested(Granularity::Domain)
        .with_invalidate(true);
    assert_eq!(command.into_bits(), 0xa002_1234_0000_0000);
    let answer = IotlbInvalidate::new().with_actual(Granularity::Selective);
    assert_eq!(answer.into_bits(), 3 << 57);
    let root = RootTableAddress::new()
        .with_mode(TableMode::Scalable)
        .with_address(PhysAddr(0x1000));
    assert_eq!(root.into_bits(), 0x1400);
    let table = InterruptTableAddress::from_bits(0x80_080f);
    assert_eq!(table.address(), PhysAddr(0x80_0000));
    assert_eq!(table.entries(), 65536);
    assert!(table.extended_mode());
    let queue = QueueAddress::from_bits(0x17_6801);
    assert_eq!(
        (queue.address(), queue.bytes()),
        (PhysAddr(0x17_6000), 8192)
    );
    assert!(queue.wide());
}

#[test]
fn status_fields_are_where_drivers_look_for_them() {
    let status = FaultStatus::new()
        .with_overflow(true)
        .with_pending(true)
        .with_queue_error(true)
        .with_completion_error(true)
        .with_timeout_error(true)
        .with_record_index(0x12);
    assert_eq!(status.into_bits(), 0x1273);
    let errors = QueueErrorRecord::new()
        .with_error(QueueError::InvalidType)
        .with_timeout_source(0x1234)
        .with_completion_source(0x5678);
    assert_eq!(errors.into_bits(), 0x5678_1234_0000_0003);
}

#[test]
fn fault_records_say_what_was_asked() {
    let requester = RequesterId::from_source_id(0, 0xabcd);
    let read = DmaRequest::new(requester, Iova(0x1234_5678), Access::READ);
    let [low, high] = FaultRecord::of_request(&read, FaultReason::ReadDenied).words();
    assert_eq!(low, 0x1234_5000);
    assert_eq!(high, 0xc000_0006_0000_abcd);
    let write = DmaRequest {
        access: Access::WRITE | Access::PRIVILEGED | Access::EXECUTE,
        pasid: Pasid::new(0xfedcb),
        address_type: AddressType::Translated,
        ..read
    };
    let [_, high] = FaultRecord::of_request(&write, FaultReason::PasidInLegacyMode).words();
    assert_eq!(high, 0xafed_cb31_e000_abcd);
    let atomic = DmaRequest {
        access: Access::ATOMIC_OP,
        ..read
    };
    let record = FaultRecord::of_request(&atomic, FaultReason::WriteDenied);
    assert!(record.read() && record.type2());
    let [low, high] =
        FaultRecord::of_interrupt(requester, 0x8001, FaultReason::IrEntryNotPresent).words();
    assert_eq!(low, 0x8001_0000_0000_0000);
    assert_eq!(high, 0x8000_0022_0000_abcd);
}

#[test]
fn reasons_and_their_codes_are_inverse() {
    for reason in FaultReason::ALL {
        assert_eq!(FaultReason::from_code(reason.code()), Some(*reason));
    }
    let known = (0..=255)
        .filter(|code| FaultReason::from_code(*code).is_some())
        .count();
    assert_eq!(known, FaultReason::ALL.len());
}
