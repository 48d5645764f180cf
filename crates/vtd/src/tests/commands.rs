//! GCMD_REG, CCMD_REG and IOTLB_REG.

use vm_iommu_spec::Iova;
use vm_iommu_spec::vtd::TranslationType;
use vm_iommu_spec::vtd::registers::{
    ContextCommand, Granularity, InvalidateAddress, IotlbInvalidate, offset,
};

use super::machine::*;
use crate::VtdConfig;

fn by_registers() -> VtdConfig {
    VtdConfig {
        queued_invalidation: false,
        interrupt_remapping: false,
        extended_interrupt_mode: false,
        ..VtdConfig::default()
    }
}

#[test]
fn enables_are_levels_and_one_shot_commands_do_not_stick() {
    let machine = Machine::new(VtdConfig::default());
    machine.write32(offset::GCMD, QIE | IRE);
    assert_eq!(machine.read32(offset::GSTS), QIE | IRE);
    machine.write32(offset::GCMD, QIE | SIRTP);
    assert_eq!(machine.read32(offset::GSTS), QIE | SIRTP);
    machine.write32(offset::GCMD, SRTP);
    assert_eq!(machine.read32(offset::GSTS), SRTP | SIRTP);
    machine.write32(offset::GCMD, TE | CFI);
    assert_eq!(machine.read32(offset::GSTS), TE | CFI | SRTP | SIRTP);
    machine.write32(offset::GCMD, 0);
    assert_eq!(machine.read32(offset::GSTS), SRTP | SIRTP);
    assert_eq!(machine.read32(offset::GCMD), 0);
}

#[test]
fn commands_of_absent_features_do_nothing() {
    let machine = Machine::new(by_registers());
    machine.write32(offset::GCMD, u32::MAX);
    assert_eq!(machine.read32(offset::GSTS), TE | SRTP);
    // Write-buffer flush and the fault log leave no status behind.
    let machine = Machine::new(VtdConfig::default());
    machine.write32(offset::GCMD, 1 << 27 | 1 << 28 | 1 << 29);
    assert_eq!(machine.read32(offset::GSTS), 0);
}

#[test]
fn the_root_table_takes_effect_when_it_is_set_not_when_it_is_written() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    machine.write64(offset::RTADDR, 0x8000);
    machine.write_at(0x5000, 1).unwrap();
    machine.invalidate(&[context_global(), iotlb_global()]);
    machine.write_at(0x5000, 1).unwrap();
    machine.command(SRTP);
    machine.write_at(0x5000, 1).unwrap_err();
}

#[test]
fn translation_can_be_switched_while_a_handle_is_bound() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    let handle = machine.port.handle();
    for _ in 0..3 {
        handle.write(Iova(0x5000), &[1]).unwrap();
        handle.write(Iova(0x6000), &[1]).unwrap_err();
        machine.disable(TE);
        handle.write(Iova(0x6000), &[1]).unwrap();
        machine.enable(TE);
    }
}

#[test]
fn pass_through_reaches_memory_untranslated() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    let entry = context(4, 0).with_translation_type(TranslationType::PassThrough);
    machine.set_context(SOURCE, entry);
    machine.write_at(0x5000, 0x77).unwrap();
    machine.disable(TE);
    assert_eq!(machine.read_at(0x5000).unwrap(), 0x77);
}

fn context_command(machine: &Machine, command: ContextCommand) -> ContextCommand {
    machine.write64(offset::CCMD, command.with_invalidate(true).into_bits());
    ContextCommand::from_bits(machine.read64(offset::CCMD))
}

#[test]
fn context_commands_report_what_they_invalidated() {
    let machine = Machine::translating(by_registers(), 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    let requests = [
        ContextCommand::new().with_requested(Granularity::Global),
        ContextCommand::new()
            .with_requested(Granularity::Domain)
            .with_domain(DOMAIN),
        ContextCommand::new()
            .with_requested(Granularity::Selective)
            .with_domain(DOMAIN)
            .with_source(SOURCE),
    ];
    for request in requests {
        machine.set_context(SOURCE, context(4, TABLES));
        context_command(&machine, requests[0]);
        machine.read_at(0x5000).unwrap();
        machine.set_context(SOURCE, context(4, TABLES).with_present(false));
        machine.read_at(0x5000).unwrap();
        let answer = context_command(&machine, request);
        assert!(!answer.invalidate());
        assert_eq!(answer.actual(), request.requested());
        machine.read_at(0x5000).unwrap_err();
    }
    let answer = context_command(&machine, ContextCommand::new());
    assert_eq!(
        (answer.invalidate(), answer.actual()),
        (false, Granularity::Reserved)
    );
}

fn iotlb_command(machine: &Machine, command: IotlbInvalidate) -> IotlbInvalidate {
    machine.write64(0xf8, command.with_invalidate(true).into_bits());
    IotlbInvalidate::from_bits(machine.read64(0xf8))
}

#[test]
fn iotlb_commands_report_what_they_invalidated() {
    let machine = Machine::translating(by_registers(), 4);
    let requests = [
        IotlbInvalidate::new().with_requested(Granularity::Global),
        IotlbInvalidate::new()
            .with_requested(Granularity::Domain)
            .with_domain(DOMAIN),
        IotlbInvalidate::new()
            .with_requested(Granularity::Selective)
            .with_domain(DOMAIN),
    ];
    let address = InvalidateAddress::new().with_address(Iova(0x5000));
    machine.write64(0xf0, address.into_bits());
    for request in requests {
        machine.map(0x5000, 0x20_0000, 12, 3);
        machine.read_at(0x5000).unwrap();
        machine.map(0x5000, 0, 12, 0);
        machine.read_at(0x5000).unwrap();
        let answer = iotlb_command(&machine, request);
        assert!(!answer.invalidate());
        assert_eq!(answer.actual(), request.requested());
        machine.read_at(0x5000).unwrap_err();
    }
    let answer = iotlb_command(&machine, IotlbInvalidate::new());
    assert_eq!(answer.actual(), Granularity::Reserved);
    machine.write64(0xf0, address.with_address_mask(19).into_bits());
    let answer = iotlb_command(&machine, requests[2]);
    assert_eq!(answer.actual(), Granularity::Reserved);
}

#[test]
fn page_selective_invalidation_falls_back_to_the_domain_where_it_is_not_on_offer() {
    let config = VtdConfig {
        maximum_address_mask: None,
        ..by_registers()
    };
    let machine = Machine::translating(config, 4);
    let request = IotlbInvalidate::new().with_requested(Granularity::Selective);
    let answer = iotlb_command(&machine, request.with_domain(DOMAIN));
    assert_eq!(answer.actual(), Granularity::Domain);
}

#[test]
fn invalidation_by_registers_is_refused_while_the_queue_is_enabled() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    let answer = context_command(
        &machine,
        ContextCommand::new().with_requested(Granularity::Global),
    );
    assert_eq!(
        (answer.invalidate(), answer.actual()),
        (false, Granularity::Reserved)
    );
    let answer = iotlb_command(
        &machine,
        IotlbInvalidate::new().with_requested(Granularity::Global),
    );
    assert_eq!(
        (answer.invalidate(), answer.actual()),
        (false, Granularity::Reserved)
    );
}

#[test]
fn a_command_begins_with_its_upper_half() {
    let machine = Machine::translating(by_registers(), 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    machine.read_at(0x5000).unwrap();
    machine.set_context(SOURCE, context(4, TABLES).with_present(false));
    let command = ContextCommand::new()
        .with_requested(Granularity::Selective)
        .with_source(SOURCE)
        .with_domain(DOMAIN)
        .with_invalidate(true)
        .into_bits();
    machine.write32(offset::CCMD, command as u32);
    machine.read_at(0x5000).unwrap();
    machine.write32(offset::CCMD + 4, (command >> 32) as u32);
    machine.read_at(0x5000).unwrap_err();
}
