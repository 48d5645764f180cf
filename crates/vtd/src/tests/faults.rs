//! Every fault reason of legacy mode, by its name, and how faults are recorded.

use vm_iommu_dma::DmaRemapper;
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::registers::offset;
use vm_iommu_spec::vtd::{FaultReason, RootEntry, SecondStageEntry, TranslationType};
use vm_iommu_spec::{
    Access, AddressType, DmaRequest, FaultReason as Reason, Iova, Pasid, PhysAddr, RequesterId,
};

use super::machine::*;
use crate::{Vtd, VtdConfig};

fn default() -> Machine {
    Machine::translating(VtdConfig::default(), 4)
}

/// The fault, which must also be recorded.
#[track_caller]
fn recorded(machine: &Machine, expected: FaultReason) {
    assert_eq!(reason(machine.write_at(0x5000, 0)), expected);
    let records = machine.records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].fault_reason(), Some(expected));
    assert!(!records[0].read());
}

#[test]
fn root_entry_not_present() {
    let machine = default();
    machine.set_root(0, RootEntry::new());
    recorded(&machine, FaultReason::RootEntryNotPresent);
}

#[test]
fn context_entry_not_present() {
    let machine = default();
    machine.set_context(SOURCE, context(4, TABLES).with_present(false));
    recorded(&machine, FaultReason::ContextEntryNotPresent);
}

#[test]
fn context_entry_invalid() {
    let narrow = context(4, TABLES).with_address_width(3);
    let cases = [
        narrow,
        context(4, TABLES).with_address_width(0),
        context(4, TABLES).with_address_width(7),
        context(4, TABLES).with_translation_type(TranslationType::Reserved),
        // Device-TLBs are not on offer.
        context(4, TABLES).with_translation_type(TranslationType::DeviceTlb),
        // Pass-through demands the widest.
        context(3, TABLES).with_translation_type(TranslationType::PassThrough),
        // The topmost table is not in memory.
        context(4, 1 << 40),
    ];
    for entry in cases {
        let machine = default();
        machine.set_context(SOURCE, entry);
        recorded(&machine, FaultReason::ContextEntryInvalid);
    }
}

#[test]
fn address_beyond_mgaw() {
    let machine = Machine::translating(VtdConfig::default(), 3);
    machine.map(0x5000, 0x20_0000, 12, 3);
    machine.write_at(0x5000, 0).unwrap();
    // A domain of 39 bits faults above its width; it does not alias.
    for iova in [1 << 39 | 0x5000, 1 << 48 | 0x5000, 1 << 63 | 0x5000] {
        assert_eq!(
            reason(machine.write_at(iova, 0)),
            FaultReason::AddressBeyondMgaw
        );
    }
    // Nor does the unit's own limit, below the width of the tables.
    let config = VtdConfig {
        maximum_address_width: Some(40),
        ..VtdConfig::default()
    };
    let machine = Machine::translating(config, 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    assert_eq!(
        reason(machine.write_at(1 << 40 | 0x5000, 0)),
        FaultReason::AddressBeyondMgaw
    );
    // Nor does pass-through.
    let machine = default();
    let entry = context(4, 0).with_translation_type(TranslationType::PassThrough);
    machine.set_context(SOURCE, entry);
    machine.write_at(0x5000, 0).unwrap();
    assert_eq!(
        reason(machine.write_at(1 << 48 | 0x5000, 0)),
        FaultReason::AddressBeyondMgaw
    );
}

#[test]
fn write_denied() {
    let machine = default();
    recorded(&machine, FaultReason::WriteDenied);
    let machine = default();
    machine.map(0x5000, 0x20_0000, 12, SecondStageEntry::READ);
    machine.read_at(0x5000).unwrap();
    recorded(&machine, FaultReason::WriteDenied);
}

#[test]
fn read_denied() {
    let machine = default();
    assert_eq!(reason(machine.read_at(0x5000)), FaultReason::ReadDenied);
    assert!(machine.records()[0].read());
    machine.map(0x5000, 0x20_0000, 12, SecondStageEntry::WRITE);
    machine.write_at(0x5000, 1).unwrap();
    assert_eq!(reason(machine.read_at(0x5000)), FaultReason::ReadDenied);
}

#[test]
fn paging_entry_access() {
    let machine = default();
    machine.map(0x5000, 0x20_0000, 12, 3);
    let leaf_table = machine.leaf(0x5000) & !0xfff;
    for word in (TABLES..RAM).step_by(8) {
        if machine.ram.load(PhysAddr(word)).unwrap() == leaf_table | 3 {
            machine.ram.store(PhysAddr(word), 1 << 40 | 3).unwrap();
            break;
        }
    }
    recorded(&machine, FaultReason::PagingEntryAccess);
}

#[test]
fn root_table_access() {
    let machine = default();
    machine.write64(offset::RTADDR, 1 << 40);
    machine.command(SRTP);
    recorded(&machine, FaultReason::RootTableAccess);
}

#[test]
fn context_table_access() {
    let machine = default();
    let entry = RootEntry::new()
        .with_present(true)
        .with_context_table(PhysAddr(1 << 40));
    machine.set_root(0, entry);
    recorded(&machine, FaultReason::ContextTableAccess);
}

#[test]
fn root_entry_reserved() {
    let machine = default();
    machine.store128(ROOT, [CONTEXTS | 3, 0]);
    recorded(&machine, FaultReason::RootEntryReserved);
}

#[test]
fn context_entry_reserved() {
    let machine = default();
    let [low, high] = context(4, TABLES).words();
    machine.store128(CONTEXTS + u64::from(SOURCE) * 16, [low, high | 1 << 24]);
    recorded(&machine, FaultReason::ContextEntryReserved);
}

#[test]
fn paging_entry_reserved() {
    // A table's PS bit at a level without large pages, and address bits above the host's width.
    for bits in [
        SecondStageEntry::PAGE_SIZE,
        1 << 46,
        SecondStageEntry::SNOOP,
    ] {
        let machine = default();
        machine.map(0x5000, 0x20_0000, 12, 3);
        let top = TABLES;
        let entry = machine.ram.load(PhysAddr(top)).unwrap();
        machine.ram.store(PhysAddr(top), entry | bits).unwrap();
        recorded(&machine, FaultReason::PagingEntryReserved);
    }
    // A large page whose address is not aligned.
    let machine = default();
    machine.map(0x20_0000, 0x20_1000, 21, 3);
    assert_eq!(
        reason(machine.write_at(0x20_0000, 0)),
        FaultReason::PagingEntryReserved
    );
}

fn request(address_type: AddressType) -> DmaRequest {
    DmaRequest {
        address_type,
        ..DmaRequest::new(requester(), Iova(0x5000), Access::READ)
    }
}

fn translate(unit: &Vtd, request: &DmaRequest) -> Result<u64, vm_iommu_spec::Fault> {
    let space = unit.bind(request)?;
    Ok(unit.translate(&space, request)?.output.0)
}

#[test]
fn translation_type_blocked() {
    let config = VtdConfig {
        device_tlb: true,
        ..VtdConfig::default()
    };
    for address_type in [AddressType::TranslationRequest, AddressType::Translated] {
        for blocking in [TranslationType::Untranslated, TranslationType::PassThrough] {
            let machine = Machine::translating(config, 4);
            machine.map(0x5000, 0x20_0000, 12, 3);
            machine.set_context(SOURCE, context(4, TABLES).with_translation_type(blocking));
            let refused = translate(&machine.unit, &request(address_type));
            assert_eq!(reason(refused), FaultReason::TranslationTypeBlocked);
            let code = if address_type == AddressType::Translated {
                2
            } else {
                1
            };
            assert_eq!(machine.records()[0].address_type(), code);
        }
        let machine = Machine::translating(config, 4);
        machine.map(0x5000, 0x20_0000, 12, 3);
        let serving = context(4, TABLES).with_translation_type(TranslationType::DeviceTlb);
        machine.set_context(SOURCE, serving);
        let output = translate(&machine.unit, &request(address_type)).unwrap();
        let translated = address_type == AddressType::Translated;
        assert_eq!(output, if translated { 0 } else { 0x20_0000 });
        machine.write_at(0x5000, 3).unwrap();
    }
}

#[test]
fn output_interrupt_range() {
    for (iova, output, shift) in [
        (0x5000, 0xfee0_0000, 12),
        (0x5000, 0xfeef_f000, 12),
        (0x4000_0000, 0xc000_0000, 30),
    ] {
        let machine = default();
        machine.map(iova, output, shift, 3);
        let inside = iova + (0xfee0_0000_u64.saturating_sub(output));
        assert_eq!(
            reason(machine.write_at(inside, 0)),
            FaultReason::OutputInterruptRange
        );
        assert_eq!(
            machine.records()[0].fault_reason(),
            Some(FaultReason::OutputInterruptRange)
        );
    }
}

#[test]
fn root_table_address_invalid() {
    for mode in 1..=3_u64 {
        let machine = default();
        machine.write64(offset::RTADDR, ROOT | mode << 10);
        machine.command(SRTP);
        recorded(&machine, FaultReason::RootTableAddressInvalid);
    }
}

#[test]
fn pasid_in_legacy_mode() {
    let machine = default();
    let pasid = Pasid::new(0x12345).unwrap();
    let handle = machine.port.handle_with_pasid(pasid);
    let refused = handle
        .write(Iova(0x5000), &[0; 4])
        .map_err(|partial| partial.fault);
    assert_eq!(reason(refused), FaultReason::PasidInLegacyMode);
    let record = machine.records()[0];
    assert!(record.pasid_present());
    assert_eq!(record.pasid(), 0x12345);
}

#[test]
fn every_reason_of_memory_requests_has_a_test_here() {
    // The names of the tests above and the reasons they provoke; interrupts have their own.
    let tested = [
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x30,
        0x31,
    ];
    let all = FaultReason::ALL
        .iter()
        .filter(|reason| !reason.is_interrupt());
    assert!(all.map(|reason| reason.code()).eq(tested));
}

#[test]
fn fault_processing_disable_suppresses_qualified_faults_only() {
    let machine = default();
    let [low, high] = context(4, TABLES)
        .with_fault_processing_disable(true)
        .words();
    let place = CONTEXTS + u64::from(SOURCE) * 16;
    // Not present, reserved bits, invalid, and a fault of the tables behind it.
    for entry in [
        [low & !1, high],
        [low, high | 1 << 24],
        [low, high | 7],
        [low, high],
    ] {
        machine.store128(place, entry);
        machine.write_at(0x5000, 0).unwrap_err();
        assert!(machine.invalidate(&[context_global()]));
    }
    assert!(machine.records().is_empty());
    assert_eq!(machine.unit.inspect().refused, 4);
    assert!(
        machine
            .unit
            .inspect()
            .last_faults
            .iter()
            .all(|fault| fault.suppressed)
    );
    machine.set_root(0, RootEntry::new());
    machine.write_at(0x5000, 0).unwrap_err();
    assert_eq!(machine.records().len(), 1);
}

#[test]
fn probes_record_nothing() {
    let machine = default();
    let handle = machine.port.handle();
    handle.check(Iova(0x5000), 8, Access::WRITE).unwrap_err();
    machine.set_context(SOURCE, context(4, TABLES).with_present(false));
    assert!(machine.invalidate(&[context_global()]));
    handle.check(Iova(0x5000), 8, Access::READ).unwrap_err();
    assert!(machine.records().is_empty());
    assert_eq!(machine.read32(offset::FSTS), 0);
    assert_eq!(machine.unit.inspect().refused, 0);
}

#[test]
fn requests_of_device_tlbs_and_with_pasid_are_aborted_while_translation_is_disabled() {
    let machine = Machine::new(VtdConfig::default());
    let refused = translate(&machine.unit, &request(AddressType::Translated)).unwrap_err();
    assert_eq!(refused.reason, Reason::NotMemory);
    let handle = machine.port.handle_with_pasid(Pasid::new(1).unwrap());
    let refused = handle.write(Iova(0x5000), &[0; 4]).unwrap_err();
    assert_eq!(refused.fault.reason, Reason::NotMemory);
    assert!(machine.records().is_empty());
}

/// Provokes a fault at each page given.
fn fault_at(machine: &Machine, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        machine.write_at(page << 12, 0).unwrap_err();
    }
}

#[test]
fn records_fill_in_turn_and_overflow() {
    let machine = default();
    fault_at(&machine, 1..=8);
    let pages: Vec<u64> = machine
        .records()
        .iter()
        .map(|record| record.page() >> 12)
        .collect();
    assert_eq!(pages, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(machine.read32(offset::FSTS), 0b10);
    fault_at(&machine, [9]);
    assert_eq!(machine.read32(offset::FSTS), 0b11);
    assert_eq!(machine.records()[0].page() >> 12, 1);
    // Nothing more is recorded until PFO is cleared, even with a register free.
    machine.write32(0x22c, 1 << 31);
    fault_at(&machine, [10]);
    assert_eq!(machine.records().len(), 7);
    machine.write32(offset::FSTS, 1);
    fault_at(&machine, [11]);
    assert_eq!(machine.records()[0].page() >> 12, 11);
}

#[test]
fn equal_faults_are_recorded_once_while_the_record_is_pending() {
    let machine = default();
    fault_at(&machine, [1, 1, 2, 1]);
    assert_eq!(machine.records().len(), 2);
    machine.write32(0x22c, 1 << 31);
    fault_at(&machine, [1]);
    assert_eq!(machine.records().len(), 2);
    assert_eq!(machine.unit.inspect().refused, 5);
}

#[test]
fn fri_names_the_first_pending_record() {
    let machine = default();
    fault_at(&machine, [1, 2]);
    assert_eq!(machine.read32(offset::FSTS), 0x002);
    machine.write32(0x22c, 1 << 31);
    machine.write32(0x23c, 1 << 31);
    assert_eq!(machine.read32(offset::FSTS) & 2, 0);
    fault_at(&machine, [3]);
    assert_eq!(machine.read32(offset::FSTS), 0x202);
}

#[test]
fn the_fault_event_waits_for_unmasking_and_is_void_once_serviced() {
    let machine = default();
    machine.write32(offset::FEDATA, 0x31);
    machine.write32(offset::FEADDR, 0xfee0_1000);
    assert_eq!(machine.read32(offset::FECTL), 1 << 31);
    fault_at(&machine, [1]);
    assert_eq!(machine.read32(offset::FECTL), 3 << 30);
    assert!(machine.events.0.lock().unwrap().is_empty());
    machine.write32(offset::FECTL, 0);
    assert_eq!(machine.read32(offset::FECTL), 0);
    assert_eq!(machine.events.0.lock().unwrap().len(), 1);
    // No second event while the condition stands.
    fault_at(&machine, [2]);
    assert_eq!(machine.events.0.lock().unwrap().len(), 1);
    // Serviced while masked: nothing is left to send.
    machine.write32(offset::FECTL, 1 << 31);
    machine.write32(0x22c, 1 << 31);
    machine.write32(0x23c, 1 << 31);
    fault_at(&machine, [3]);
    assert_eq!(machine.read32(offset::FECTL), 3 << 30);
    machine.write32(0x24c, 1 << 31);
    assert_eq!(machine.read32(offset::FECTL), 1 << 31);
    machine.write32(offset::FECTL, 0);
    assert_eq!(machine.events.0.lock().unwrap().len(), 1);
}

#[test]
fn an_event_to_no_interrupt_address_is_dropped() {
    let machine = default();
    machine.write32(offset::FEADDR, 0x1000);
    machine.write32(offset::FECTL, 0);
    fault_at(&machine, [1]);
    assert!(machine.events.0.lock().unwrap().is_empty());
    assert_eq!(machine.ram.load(PhysAddr(0x1000)).unwrap(), CONTEXTS | 1);
}

#[test]
fn records_of_all_256_registers_can_be_read_and_cleared() {
    let config = VtdConfig {
        fault_records: 256,
        ..VtdConfig::default()
    };
    let machine = Machine::translating(config, 4);
    fault_at(&machine, 1..=256);
    assert_eq!(machine.records().len(), 256);
    assert_eq!(machine.read32(offset::FSTS), 2);
    for index in 0..256 {
        machine.write32(0x1000 + index * 16 + 12, 1 << 31);
    }
    assert_eq!(machine.read32(offset::FSTS), 0);
}

#[test]
fn other_requesters_fault_by_their_own_entries() {
    let machine = default();
    machine.map(0x5000, 0x20_0000, 12, 3);
    machine
        .port
        .set_requester(RequesterId::from_source_id(0, SOURCE + 1));
    assert_eq!(
        reason(machine.read_at(0x5000)),
        FaultReason::ContextEntryNotPresent
    );
    machine
        .port
        .set_requester(RequesterId::from_source_id(0, 0x100 | SOURCE));
    assert_eq!(
        reason(machine.read_at(0x5000)),
        FaultReason::RootEntryNotPresent
    );
    machine.port.set_requester(requester());
    machine.read_at(0x5000).unwrap();
}

#[test]
fn reads_of_no_bytes_succeed_whatever_the_permissions() {
    let config = VtdConfig {
        zero_length_read: true,
        ..VtdConfig::default()
    };
    let machine = Machine::translating(config, 4);
    machine.map(0x5000, 0x20_0000, 12, SecondStageEntry::WRITE);
    machine.port.handle().read(Iova(0x5000), &mut []).unwrap();
    assert!(machine.records().is_empty());
}
