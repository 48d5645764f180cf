//! What a guest's driver does from its first register access on.

use vm_iommu_dma::InterruptRemapper;
use vm_iommu_spec::MsiMessage;
use vm_iommu_spec::amd::Irte128;
use vm_iommu_spec::amd::registers::{ExtendedFeature, Status, XtInterruptControl, offset};

use super::machine::*;
use crate::AmdViConfig;

/// Writes a 64-bit register as two words, as a copy to device memory does.
fn halves(machine: &Machine, register: u16, value: u64) {
    machine.write32(register, value as u32);
    machine.write32(register + 4, (value >> 32) as u32);
}

#[test]
fn a_driver_brings_the_unit_up_in_its_own_order() {
    let machine = Machine::new(AmdViConfig::default());
    let set = |bit: u32| {
        let control = machine.read64(offset::CONTROL);
        machine.write64(offset::CONTROL, control | 1 << bit);
    };
    // Disabled first, bit by bit.
    for bit in [12, 3, 2, 28, 29, 13, 14, 0, 59] {
        let control = machine.read64(offset::CONTROL);
        machine.write64(offset::CONTROL, control & !(1 << bit));
    }
    let tables = machine.table();
    machine.set_device(DEVICE, device(3, tables));
    halves(&machine, offset::DEVICE_TABLE, DEVICES | 15);
    halves(&machine, offset::COMMAND_BUFFER, COMMANDS | 9 << 56);
    machine.write32(offset::COMMAND_HEAD, 0);
    machine.write32(offset::COMMAND_TAIL, 0);
    set(10);
    set(12);
    // Not before IommuEn.
    assert!(!machine.status().contains(Status::COMMAND_RUN));
    set(16);
    set(58);
    set(17);
    set(50);
    set(59);
    assert_eq!(machine.read64(offset::CONTROL) >> 59 & 1, 0, "probed");
    set(43);
    halves(&machine, offset::EVENT_LOG, EVENTS | 8 << 56);
    machine.write32(offset::EVENT_HEAD, 0);
    machine.write32(offset::EVENT_TAIL, 0);
    set(2);
    set(0);
    assert!(
        machine
            .status()
            .contains(Status::COMMAND_RUN | Status::EVENT_RUN)
    );
    assert!(machine.invalidate(&[invalidate_all()]));
    let feature = ExtendedFeature::from_bits(machine.read64(offset::EXTENDED_FEATURE));
    assert!(feature.x2apic() && feature.guest_apic() && feature.invalidate_all());
    assert_eq!(feature.host_levels(), 2);
    let control = XtInterruptControl::new()
        .with_destination(0x1_0002)
        .with_vector(0x31);
    machine.write64(offset::XT_GENERAL_INTERRUPT, control.into_bits());
    set(51);
    set(3);
    // A page, an access, a fault and its interrupt.
    machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    machine.write_at(0x5000, 0xabcd).unwrap();
    assert_eq!(machine.load(0x50_0000), 0xabcd);
    assert!(machine.read_at(0x6000).is_err());
    let interrupts = machine.interrupts();
    assert_eq!(interrupts.len(), 1);
    assert_eq!(
        (interrupts[0].destination, interrupts[0].vector),
        (0x1_0002, 0x31)
    );
    assert_eq!(machine.event().address(), 0x6000);
    // An interrupt of the function by a table of 512 entries.
    machine.change_device(|entry| {
        entry.interrupt = entry
            .interrupt
            .with_valid(true)
            .with_table_length(9)
            .with_control(2)
            .with_table_address(vm_iommu_spec::PhysAddr(IRT));
    });
    let entry = Irte128::new()
        .with_remap_enable(true)
        .with_destination(0x100)
        .with_vector(0x55);
    let [low, high] = entry.words();
    machine.store(IRT + 3 * 16, low);
    machine.store(IRT + 3 * 16 + 8, high);
    let message = MsiMessage {
        address: 0xfee0_0000,
        data: 3,
    };
    let interrupt = machine.unit.remap(requester(), message).unwrap();
    assert_eq!((interrupt.destination, interrupt.vector), (0x100, 0x55));
}

#[test]
fn np_cache_is_off_unless_asked_for() {
    let header = AmdViConfig::default().capability_header();
    assert!(!header.np_cache() && header.extended_feature());
    let asked = AmdViConfig {
        np_cache: true,
        ..AmdViConfig::default()
    };
    assert!(asked.capability_header().np_cache());
}
