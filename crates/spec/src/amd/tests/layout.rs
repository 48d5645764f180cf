//! Bit positions, against the numbers that drivers use.

use crate::amd::registers::{
    BaseAddressLow, CapabilityHeader, Control, DeviceTableBase, ExclusionBase, ExtendedFeature,
    ExtendedFeature2, Miscellaneous, PprOverflowEarly, RingBase, Status, XtInterruptControl,
};
use crate::amd::{
    Event, EventCode, EventEntry, FaultReason, GaEntry, HardwareError, PageRequest, PprEntry,
};
use crate::{Access, AddressType, DmaRequest, DomainId, Iova, Pasid, PhysAddr, RequesterId};

const REQUESTER: RequesterId = RequesterId::from_source_id(0, 0x1234);

#[test]
fn register_fields_are_where_drivers_put_them() {
    let table = DeviceTableBase::from_bits(0x1f_f000 | 0x1ff);
    assert_eq!(table.address(), PhysAddr(0x1f_f000));
    assert_eq!(table.entries(), 65536);
    assert_eq!(DeviceTableBase::new().entries(), 128);
    let ring = RingBase::new()
        .with_length(9)
        .with_address(PhysAddr(0xabc_d000));
    assert_eq!(ring.into_bits(), 9 << 56 | 0xabc_d000);
    assert_eq!(ring.entries(), Some(512));
    for (length, entries) in [(0, None), (7, None), (8, Some(256)), (15, Some(32768))] {
        assert_eq!(RingBase::new().with_length(length).entries(), entries);
    }
    let exclusion = ExclusionBase::from_bits(0x4003);
    assert!(exclusion.enable() && exclusion.allow());
    assert_eq!(exclusion.range(0x5000), Iova(0x4000)..=Iova(0x5fff));

    let bit = |control: Control| control.into_bits().trailing_zeros();
    let new = Control::new;
    assert_eq!(bit(new().with_enable(true)), 0);
    assert_eq!(bit(new().with_event_log(true)), 2);
    assert_eq!(bit(new().with_event_interrupt(true)), 3);
    assert_eq!(bit(new().with_completion_wait_interrupt(true)), 4);
    assert_eq!(bit(new().with_invalidation_timeout(1)), 5);
    assert_eq!(bit(new().with_coherent(true)), 10);
    assert_eq!(bit(new().with_command_buffer(true)), 12);
    assert_eq!(bit(new().with_ppr_log(true)), 13);
    assert_eq!(bit(new().with_ppr_interrupt(true)), 14);
    assert_eq!(bit(new().with_ppr(true)), 15);
    assert_eq!(bit(new().with_guest_translation(true)), 16);
    assert_eq!(bit(new().with_guest_apic(true)), 17);
    assert_eq!(bit(new().with_guest_apic_mode(1)), 25);
    assert_eq!(bit(new().with_ga_log(true)), 28);
    assert_eq!(bit(new().with_ga_interrupt(true)), 29);
    assert_eq!(bit(new().with_device_table_segments(1)), 34);
    assert_eq!(bit(new().with_ppr_auto_response(true)), 39);
    assert_eq!(bit(new().with_ppr_auto_response_always(true)), 42);
    assert_eq!(bit(new().with_interrupt_table_mode(1)), 43);
    assert_eq!(bit(new().with_enhanced_ppr(true)), 45);
    assert_eq!(bit(new().with_x2apic(true)), 50);
    assert_eq!(bit(new().with_x2apic_interrupts(true)), 51);
    assert_eq!(bit(new().with_guest_cr3_is_guest_physical(true)), 58);
    assert_eq!(bit(new().with_interrupt_cache_disable(true)), 59);

    let bit = |feature: ExtendedFeature| feature.into_bits().trailing_zeros();
    let new = ExtendedFeature::new;
    assert_eq!(bit(new().with_ppr(true)), 1);
    assert_eq!(bit(new().with_x2apic(true)), 2);
    assert_eq!(bit(new().with_guest_translation(true)), 4);
    assert_eq!(bit(new().with_invalidate_all(true)), 6);
    assert_eq!(bit(new().with_guest_apic(true)), 7);
    assert_eq!(bit(new().with_performance_counters(true)), 9);
    assert_eq!(bit(new().with_host_levels(1)), 10);
    assert_eq!(bit(new().with_guest_levels(1)), 12);
    assert_eq!(bit(new().with_guest_cr3_levels(1)), 14);
    assert_eq!(bit(new().with_guest_apic_modes(1)), 21);
    assert_eq!(bit(new().with_pasid_width(1)), 32);
    assert_eq!(bit(new().with_device_table_segments(1)), 38);
    assert_eq!(bit(new().with_msi_registers(true)), 46);
    assert_eq!(bit(new().with_guest_io(true)), 48);
    assert_eq!(bit(new().with_host_accessed(true)), 49);
    assert_eq!(bit(new().with_enhanced_ppr(true)), 50);
    assert_eq!(bit(new().with_host_dirty(true)), 52);
    assert_eq!(bit(new().with_secure_nested_paging(true)), 63);
    let second = ExtendedFeature2::from_bits(1 << 3 | 1 << 8 | 1 << 11);
    assert!(second.guest_cr3_mode() && second.ht_range_ignore());
    assert_eq!(second.interrupt_table(), 1);

    assert_eq!(Status::COMPLETION_WAIT_INTERRUPT.bits(), 1 << 2);
    assert_eq!(Status::GA_RUN.bits(), 1 << 8);
    assert_eq!(Status::PPR_OVERFLOW_EARLY.bits(), 1 << 18);
    let early = PprOverflowEarly::from_bits(1 << 31 | 1 << 30 | 0x100);
    assert!(early.enable() && early.interrupt());
    assert_eq!(early.threshold(), 0x100);
}

#[test]
fn x2apic_destinations_stand_in_two_parts() {
    let control = XtInterruptControl::new()
        .with_logical(true)
        .with_destination(0xabcd_ef01)
        .with_vector(0x42);
    assert_eq!(control.into_bits(), 0xab00_0042_cdef_0104);
    let interrupt = control.interrupt();
    assert_eq!(
        (interrupt.destination, interrupt.vector),
        (0xabcd_ef01, 0x42)
    );
}

#[test]
fn the_capability_block_says_what_drivers_look_for() {
    let header = CapabilityHeader::new()
        .with_next(0x64)
        .with_iotlb(true)
        .with_extended_feature(true);
    assert_eq!(header.into_bits(), 1 << 27 | 1 << 24 | 0x0b_640f);
    assert_eq!(
        CapabilityHeader::new().with_np_cache(true).into_bits() >> 24,
        4
    );
    let base = BaseAddressLow::from_bits(0xfed8_0001);
    assert_eq!((base.enable(), base.address()), (true, 0xfed8_0000));
    let misc = Miscellaneous::new()
        .with_virtual_size(64)
        .with_physical_size(48)
        .with_guest_virtual_size(2);
    assert_eq!(misc.into_bits(), 64 << 15 | 48 << 8 | 2 << 5);
}

#[test]
fn page_faults_carry_requester_domain_flags_and_address() {
    let mut request = DmaRequest::new(REQUESTER, Iova(0xdead_b123), Access::WRITE);
    let event = |request, reason| Event::Request {
        request,
        domain: Some(DomainId(0x55)),
        reason,
    };
    let [low, high] = event(request, FaultReason::NotPresent).entry().words();
    assert_eq!(high, 0xdead_b123);
    assert_eq!(low, 2 << 60 | 0x20 << 48 | 0x55 << 32 | 0x1234);
    let [low, _] = event(request, FaultReason::WriteDenied).entry().words();
    assert_eq!(low >> 48 & 0xfff, 0x70);
    let [low, _] = event(request, FaultReason::Reserved).entry().words();
    assert_eq!(low >> 48 & 0xfff, 0xb0);
    request.access = Access::READ;
    request.pasid = Pasid::new(0xa_bcde);
    let [low, _] = event(request, FaultReason::ReadDenied).entry().words();
    assert_eq!(
        low,
        2 << 60 | 0x55 << 48 | 0xbcde << 32 | 0xa << 16 | 0x1234
    );
    request.access = Access::READ | Access::PRIVILEGED | Access::EXECUTE;
    request.address_type = AddressType::TranslationRequest;
    let entry = event(request, FaultReason::NotPresent).entry();
    assert_eq!(entry.flags(), 0x103);
    assert_eq!(entry.pasid(), Some(0xa_bcde));
}

#[test]
fn other_events_have_the_fields_of_their_kind() {
    let request = DmaRequest::new(REQUESTER, Iova(0x1000), Access::WRITE);
    let domain = Some(DomainId(7));
    let words = |event: Event| event.entry().words();
    let illegal = Event::Request {
        request,
        domain: None,
        reason: FaultReason::DteReserved,
    };
    assert_eq!(words(illegal), [1 << 60 | 0xa0 << 48 | 0x1234, 0x1000]);
    let table = Event::Table {
        request,
        domain,
        reason: FaultReason::TableAccess,
        address: PhysAddr(0x8008),
    };
    assert_eq!(
        words(table),
        [4 << 60 | 0x220 << 48 | 7 << 32 | 0x1234, 0x8008]
    );
    let device_table = Event::Table {
        request,
        domain: None,
        reason: FaultReason::DeviceTableAccess,
        address: PhysAddr(0x40),
    };
    assert_eq!(words(device_table), [3 << 60 | 0x220 << 48 | 0x1234, 0x40]);
    let interrupt = Event::Interrupt {
        requester: REQUESTER,
        pasid: None,
        domain,
        address: 0xfee0_0000,
        reason: FaultReason::InterruptNotRemapped,
    };
    assert_eq!(
        words(interrupt),
        [2 << 60 | 0x8 << 48 | 7 << 32 | 0x1234, 0xfee0_0000]
    );
    let command = Event::IllegalCommand {
        address: PhysAddr(0x30),
    };
    assert_eq!(words(command), [5 << 60, 0x30]);
    let hardware = Event::CommandHardware {
        address: PhysAddr(0x30),
        error: HardwareError::MasterAbort,
    };
    assert_eq!(words(hardware), [6 << 60 | 0x200 << 48, 0x30]);
    let timeout = Event::InvalidationTimeout {
        device: 0x1234,
        address: PhysAddr(0x50),
    };
    assert_eq!(words(timeout), [7 << 60 | 0x1234, 0x50]);
    let invalid = Event::Request {
        request,
        domain: None,
        reason: FaultReason::SystemManagementDenied,
    };
    assert_eq!(words(invalid), [8 << 60 | 0x600 << 48 | 0x1234, 0x1000]);
    let counter = Event::CounterZero {
        note: 0xa_bcde_1234_5678,
    };
    assert_eq!(words(counter), [10 << 60, 0x1234_5678_000a_bcde]);
}

#[test]
fn page_requests_are_logged_as_drivers_read_them() {
    let request = PageRequest {
        requester: REQUESTER,
        pasid: Pasid::new(0xa_bcde),
        address: Iova(0x1234_5000),
        access: Access::READ | Access::WRITE,
        group: 0x155,
        last: true,
    };
    let (entry, address) = PprEntry::of_request(&request);
    let bits = entry.into_bits();
    assert_eq!(address, 0x1234_5000);
    assert_eq!(bits >> 60, 1);
    assert_eq!(bits >> 48 & 0xfff, 0x100 | 0x40 | 0x20 | 0x4);
    assert_eq!(bits & 0xffff, 0x1234);
    assert_eq!(bits >> 16 & 0xffff, 0xbcde);
    assert_eq!(bits >> 42 & 0xf, 0xa);
    assert_eq!(bits >> 32 & 0x3ff, 0x355);
    assert_eq!(entry.pasid(), 0xa_bcde);
    let invalid = Event::InvalidPpr { request }.entry().words();
    assert_eq!(invalid, [bits & !(0xf << 60) | 9 << 60, 0x1234_5000]);
    let guest = GaEntry::new().with_tag(0xdead_beef).with_device(0x1234);
    assert_eq!(guest.into_bits(), 1 << 60 | 0x1234 << 32 | 0xdead_beef);
}

#[test]
fn codes_and_reasons_are_consistent() {
    for code in EventCode::ALL {
        assert_eq!(EventCode::from_code(*code as u8), Some(*code));
    }
    let known = (0..=255).filter(|code| EventCode::from_code(*code).is_some());
    assert_eq!(known.count(), EventCode::ALL.len());
    for reason in FaultReason::ALL {
        let fault = reason.code();
        assert!(!reason.is_permission() || fault == EventCode::IoPageFault);
        assert!(!reason.is_present() || fault == EventCode::IoPageFault);
    }
}

#[test]
fn events_print_what_they_say() {
    use std::string::ToString;
    let event = Event::Request {
        request: DmaRequest::new(REQUESTER, Iova(0x1000), Access::WRITE),
        domain: Some(DomainId(3)),
        reason: FaultReason::NotPresent,
    };
    assert_eq!(
        event.entry().to_string(),
        "IO_PAGE_FAULT device 12:06.4 domain 0x3 address 0x1000 flags 0x020"
    );
    assert_eq!(
        EventEntry::from_bits(0xf << 60).to_string(),
        "event 0x0000000000000000f000000000000000"
    );
}
