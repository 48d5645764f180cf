//! The event log (section 2.5).

use vm_iommu_spec::amd::EventCode;
use vm_iommu_spec::amd::registers::{Status, XtInterruptControl, offset};

use super::machine::*;
use crate::AmdViConfig;

fn faulting() -> Machine {
    let machine = Machine::translating(AmdViConfig::default(), 3);
    machine.write32(offset::MSI_ADDRESS_LOW, 0xfee0_0000);
    machine.write32(offset::MSI_DATA, 0x51);
    machine.write32(offset::MSI_CAPABILITY, 1 << 16);
    machine
}

#[test]
fn an_event_sets_its_status_and_raises_one_interrupt_until_software_took_note() {
    let machine = faulting();
    machine.enable(|control| control.with_event_interrupt(true));
    for page in 1..4 {
        assert!(machine.read_at(page << 12).is_err());
    }
    assert!(machine.status().contains(Status::EVENT_INTERRUPT));
    assert_eq!(machine.interrupts().len(), 1);
    machine.write64(offset::STATUS, Status::EVENT_INTERRUPT.bits());
    assert!(!machine.status().contains(Status::EVENT_INTERRUPT));
    let addresses: Vec<u64> = machine
        .events()
        .iter()
        .map(|event| event.address())
        .collect();
    assert_eq!(addresses, [0x1000, 0x2000, 0x3000]);
    assert!(machine.write_at(0x4000, 1).is_err());
    assert_eq!(machine.interrupts().len(), 1);
    let event = machine.event();
    assert!(event.write());
    assert_eq!(event.event_code(), Some(EventCode::IoPageFault));
    assert_eq!((event.device(), event.domain_or_pasid()), (DEVICE, DOMAIN));
}

#[test]
fn an_event_names_bus_device_and_function() {
    let machine = faulting();
    let requester = vm_iommu_spec::RequesterId::new(0, 5, 3, 2).unwrap();
    let mut entry = device(3, machine.table());
    entry.domain.set_domain(0xabcd);
    machine.set_device(requester.source_id(), entry);
    machine.port.set_requester(requester);
    assert!(machine.read_at(0x1_2345_6000).is_err());
    let event = machine.event();
    assert_eq!((event.device(), event.domain_or_pasid()), (0x051a, 0xabcd));
    assert_eq!(event.address(), 0x1_2345_6000);
    assert!(event.to_string().contains("device 05:03.2"));
}

#[test]
fn an_interrupt_that_is_enabled_late_is_not_lost() {
    let machine = faulting();
    assert!(machine.read_at(0x1000).is_err());
    assert_eq!(machine.interrupts(), []);
    machine.enable(|control| control.with_event_interrupt(true));
    assert_eq!(machine.interrupts().len(), 1);
    machine.enable(|control| control.with_event_interrupt(false));
    machine.enable(|control| control.with_event_interrupt(true));
    assert_eq!(machine.interrupts().len(), 1);
}

#[test]
fn without_msi_en_or_an_interrupt_address_nothing_is_raised() {
    let machine = faulting();
    machine.enable(|control| control.with_event_interrupt(true));
    machine.write32(offset::MSI_CAPABILITY, 0);
    assert!(machine.read_at(0x1000).is_err());
    machine.write64(offset::STATUS, Status::EVENT_INTERRUPT.bits());
    machine.write32(offset::MSI_CAPABILITY, 1 << 16);
    machine.write32(offset::MSI_ADDRESS_LOW, 0x1000);
    assert!(machine.read_at(0x1000).is_err());
    assert_eq!(machine.interrupts(), []);
    assert_eq!(machine.events().len(), 2);
    // It is due still, and sent as soon as there is a way.
    machine.write32(offset::MSI_ADDRESS_LOW, 0xfee0_0000);
    assert_eq!(machine.interrupts().len(), 1);
    machine.write32(offset::MSI_ADDRESS_LOW, 0xfee0_0000);
    assert_eq!(machine.interrupts(), [], "and once only");
}

#[test]
fn an_interrupt_waits_for_the_register_that_says_where_it_goes() {
    let machine = faulting();
    machine.enable(|control| {
        let control = control.with_event_interrupt(true);
        control.with_x2apic(true).with_x2apic_interrupts(true)
    });
    assert!(machine.read_at(0x1000).is_err());
    assert_eq!(machine.interrupts(), [], "no vector");
    let destination = XtInterruptControl::new().with_vector(0x30);
    machine.write64(offset::XT_GENERAL_INTERRUPT, destination.into_bits());
    let sent = machine.interrupts();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].vector, 0x30);
}

#[test]
fn a_full_log_overflows_stops_and_can_be_restarted() {
    let machine = faulting();
    machine.enable(|control| control.with_event_interrupt(true));
    for _ in 0..255 {
        assert!(machine.read_at(0x1000).is_err());
    }
    assert!(machine.status().contains(Status::EVENT_RUN));
    assert!(!machine.status().contains(Status::EVENT_OVERFLOW));
    let _ = machine.interrupts();
    assert!(machine.read_at(0x1000).is_err());
    let status = machine.status();
    assert!(status.contains(Status::EVENT_OVERFLOW));
    assert!(!status.contains(Status::EVENT_RUN));
    assert_eq!(machine.interrupts().len(), 1);
    assert_eq!(machine.events().len(), 255);
    // Not even with room.
    assert!(machine.read_at(0x1000).is_err());
    assert_eq!(machine.events(), []);
    // As Linux restarts it.
    machine.enable(|control| control.with_event_log(false).with_event_interrupt(false));
    machine.write32(offset::STATUS, 1);
    assert!(!machine.status().contains(Status::EVENT_OVERFLOW));
    machine.enable(|control| control.with_event_interrupt(true).with_event_log(true));
    assert!(machine.status().contains(Status::EVENT_RUN));
    assert!(machine.read_at(0x9000).is_err());
    assert_eq!(machine.event().address(), 0x9000);
}

#[test]
fn a_log_that_is_off_reserved_or_outside_of_memory_takes_nothing() {
    let machine = faulting();
    machine.enable(|control| control.with_event_log(false));
    assert!(machine.read_at(0x1000).is_err());
    assert_eq!(machine.events(), []);
    machine.enable(|control| control.with_event_log(true));
    machine.write64(offset::EVENT_LOG, ring(EVENTS).with_length(3).into_bits());
    assert!(machine.read_at(0x1000).is_err());
    assert!(!machine.status().contains(Status::EVENT_RUN));
    machine.enable(|control| control.with_event_log(false));
    machine.write64(offset::EVENT_LOG, ring(RAM).into_bits());
    machine.enable(|control| control.with_event_log(true));
    assert!(machine.read_at(0x1000).is_err());
    assert_eq!(machine.read64(offset::EVENT_TAIL), 0);
    machine.write64(offset::EVENT_LOG, ring(EVENTS).into_bits());
    machine.write64(offset::EVENT_TAIL, 0x7_fff0);
    assert!(machine.read_at(0x1000).is_err());
    assert!(!machine.status().contains(Status::EVENT_RUN));
}

#[test]
fn writing_the_base_rewinds_the_log() {
    let machine = faulting();
    assert!(machine.read_at(0x1000).is_err());
    assert_eq!(machine.read64(offset::EVENT_TAIL), 16);
    machine.write64(offset::EVENT_LOG, ring(EVENTS).into_bits());
    assert_eq!(machine.read64(offset::EVENT_TAIL), 0);
}
