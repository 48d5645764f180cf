//! Interrupt remapping: formats, checks, reasons, the cache.

use vm_iommu_dma::InterruptRemapper;
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::descriptor::raw;
use vm_iommu_spec::vtd::registers::{InterruptTableAddress, offset};
use vm_iommu_spec::vtd::{FaultReason, Irte, RemappableAddress};
use vm_iommu_spec::{
    DeliveryMode, DestinationMode, FaultReason as Reason, Interrupt, MsiMessage, PhysAddr,
    RequesterId, TriggerMode,
};

use super::machine::*;
use crate::VtdConfig;

/// A table of 256 entries.
fn machine(extended: bool) -> Machine {
    let machine = Machine::new(VtdConfig::default());
    let table = InterruptTableAddress::new()
        .with_size(7)
        .with_extended_mode(extended)
        .with_address(PhysAddr(IRT));
    machine.write64(offset::IRTA, table.into_bits());
    machine.command(SIRTP);
    machine.enable(IRE);
    machine.start_queue(0);
    machine
}

fn entry() -> Irte {
    Irte::new()
        .with_present(true)
        .with_vector(0x51)
        .with_source(SOURCE)
        .with_source_validation(1)
}

fn message(handle: u16, subhandle: Option<u32>) -> MsiMessage {
    let address = RemappableAddress::new()
        .with_prefix(0xfee)
        .with_remappable(true)
        .with_handle(handle)
        .with_subhandle_valid(subhandle.is_some());
    MsiMessage {
        address: u64::from(address.into_bits()),
        data: subhandle.unwrap_or(0),
    }
}

fn set(machine: &Machine, index: u16, entry: Irte) {
    machine.store128(IRT + u64::from(index) * 16, entry.words());
}

const COMPATIBILITY: MsiMessage = MsiMessage {
    address: 0xfee0_300c,
    data: 0x4341,
};

/// The interrupt is refused, and recorded with this index.
#[track_caller]
fn refused(machine: &Machine, message: MsiMessage, expected: FaultReason, index: u16) {
    assert_eq!(reason(machine.unit.resolve(requester(), message)), expected);
    assert!(machine.records().is_empty(), "resolving records nothing");
    assert_eq!(reason(machine.unit.remap(requester(), message)), expected);
    let records = machine.records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].fault_reason(), Some(expected));
    assert_eq!(records[0].source(), SOURCE);
    assert_eq!(records[0].interrupt_index(), index);
}

#[test]
fn messages_pass_as_they_are_while_remapping_is_disabled() {
    let machine = Machine::new(VtdConfig::default());
    for message in [COMPATIBILITY, message(5, None)] {
        let interrupt = machine.unit.remap(requester(), message).unwrap();
        assert_eq!(interrupt, Interrupt::from_compatibility(message));
    }
}

#[test]
fn a_message_outside_of_the_interrupt_range_is_no_interrupt() {
    for machine in [Machine::new(VtdConfig::default()), machine(true)] {
        for address in [0, 0xfed0_0000, 0xfef0_0000, 0x1_fee0_0000] {
            let message = MsiMessage { address, data: 0 };
            let fault = machine.unit.remap(requester(), message).unwrap_err();
            assert_eq!(fault.reason, Reason::NotMemory);
            assert!(machine.unit.resolve(requester(), message).is_err());
            assert!(machine.records().is_empty());
        }
    }
}

#[test]
fn every_field_of_an_entry_arrives() {
    let machine = machine(true);
    let all = entry()
        .with_destination(0x8765_4321)
        .with_logical(true)
        .with_redirection_hint(true)
        .with_level(true)
        .with_delivery_mode(1)
        .with_available(0xf)
        .with_vector(0xfe);
    set(&machine, 9, all);
    let interrupt = machine.unit.remap(requester(), message(9, None)).unwrap();
    let expected = Interrupt {
        destination: 0x8765_4321,
        destination_mode: DestinationMode::Logical,
        redirection_hint: true,
        delivery_mode: DeliveryMode::LowestPriority,
        vector: 0xfe,
        trigger_mode: TriggerMode::Level,
    };
    assert_eq!(interrupt, expected);
}

#[test]
fn without_extended_mode_the_destination_is_8_bits() {
    let machine = machine(false);
    set(&machine, 9, entry().with_destination_for(0xab, false));
    let interrupt = machine.unit.remap(requester(), message(9, None)).unwrap();
    assert_eq!(interrupt.destination, 0xab);
}

#[test]
fn handle_and_subhandle_add_up() {
    let machine = machine(true);
    set(&machine, 12, entry());
    machine.unit.remap(requester(), message(12, None)).unwrap();
    machine
        .unit
        .remap(requester(), message(12, Some(0)))
        .unwrap();
    machine
        .unit
        .remap(requester(), message(9, Some(3)))
        .unwrap();
    // Without SHV the data's lower half does not matter.
    let vague = MsiMessage {
        data: 0xffff,
        ..message(12, None)
    };
    machine.unit.remap(requester(), vague).unwrap();
}

#[test]
fn compatibility_format_passes_only_with_cfi_and_without_extended_mode() {
    for extended in [false, true] {
        let machine = machine(extended);
        refused(
            &machine,
            COMPATIBILITY,
            FaultReason::IrCompatibilityBlocked,
            0,
        );
        machine.enable(CFI);
        let answer = machine.unit.remap(requester(), COMPATIBILITY);
        if extended {
            assert_eq!(reason(answer), FaultReason::IrCompatibilityBlocked);
        } else {
            assert_eq!(
                answer.unwrap(),
                Interrupt::from_compatibility(COMPATIBILITY)
            );
        }
        machine.disable(CFI);
        machine.unit.remap(requester(), COMPATIBILITY).unwrap_err();
    }
}

#[test]
fn ir_request_reserved() {
    for bit in 16..32 {
        for subhandle in [None, Some(0)] {
            let machine = machine(true);
            set(&machine, 1, entry());
            let mut bad = message(1, subhandle);
            bad.data |= 1 << bit;
            refused(&machine, bad, FaultReason::IrRequestReserved, 0);
        }
    }
}

#[test]
fn ir_index_beyond_table() {
    let machine = machine(true);
    refused(
        &machine,
        message(256, None),
        FaultReason::IrIndexBeyondTable,
        256,
    );
    let beyond = machine.unit.remap(requester(), message(255, Some(1)));
    assert_eq!(reason(beyond), FaultReason::IrIndexBeyondTable);
    // The sum does not wrap at 16 bits.
    let beyond = machine.unit.remap(requester(), message(0xffff, Some(2)));
    assert_eq!(reason(beyond), FaultReason::IrIndexBeyondTable);
}

#[test]
fn ir_entry_not_present() {
    let machine = machine(true);
    set(&machine, 3, entry().with_present(false));
    refused(
        &machine,
        message(3, None),
        FaultReason::IrEntryNotPresent,
        3,
    );
}

#[test]
fn ir_table_access() {
    let machine = machine(true);
    for base in [RAM, 0xffff_ffff_ffff_f000] {
        machine.write64(offset::IRTA, base | 0xf);
        machine.command(SIRTP);
        let refused = machine.unit.remap(requester(), message(0xfff, None));
        assert_eq!(reason(refused), FaultReason::IrTableAccess);
    }
}

#[test]
fn ir_entry_reserved() {
    for extended in [false, true] {
        let mut bits: Vec<u32> = (12..16).chain(24..32).chain(84..128).collect();
        if !extended {
            bits.extend((32..40).chain(48..64));
        }
        for bit in bits {
            let machine = machine(extended);
            let bad = Irte::from_bits(entry().into_bits() | 1 << bit);
            set(&machine, 3, bad);
            refused(&machine, message(3, None), FaultReason::IrEntryReserved, 3);
        }
    }
}

#[test]
fn ir_source_invalid() {
    let bus = |first: u8, last: u8| {
        entry()
            .with_source_validation(2)
            .with_source(u16::from_be_bytes([first, last]))
    };
    let masked =
        |source: u16, qualifier| entry().with_source(source).with_source_qualifier(qualifier);
    let good = [
        entry(),
        entry().with_source_validation(0).with_source(0x1234),
        masked(SOURCE + 4, 1),
        masked(SOURCE + 6, 2),
        masked(SOURCE + 7, 3),
        bus(0, 0),
        bus(0, 0xff),
    ];
    for valid in good {
        let machine = machine(true);
        set(&machine, 3, valid);
        machine.unit.remap(requester(), message(3, None)).unwrap();
    }
    let bad = [
        entry().with_source(SOURCE + 1),
        masked(SOURCE + 2, 1),
        masked(SOURCE + 1, 2),
        masked(SOURCE + 8, 3),
        masked(SOURCE | 0x100, 3),
        bus(1, 0xff),
        entry().with_source_validation(3),
    ];
    for invalid in bad {
        let machine = machine(true);
        set(&machine, 3, invalid);
        refused(&machine, message(3, None), FaultReason::IrSourceInvalid, 3);
    }
}

#[test]
fn a_cached_entry_still_verifies_its_requester() {
    let machine = machine(true);
    set(&machine, 3, entry());
    machine.unit.remap(requester(), message(3, None)).unwrap();
    let other = RequesterId::from_source_id(0, SOURCE + 1);
    let refused = machine.unit.remap(other, message(3, None));
    assert_eq!(reason(refused), FaultReason::IrSourceInvalid);
}

#[test]
fn fault_processing_disable_suppresses_qualified_faults() {
    let machine = machine(true);
    let quiet = entry().with_fault_processing_disable(true);
    for entry in [
        quiet.with_present(false),
        quiet.with_posted(true),
        quiet.with_source(0),
    ] {
        set(&machine, 3, entry);
        machine
            .unit
            .remap(requester(), message(3, None))
            .unwrap_err();
        assert!(machine.invalidate(&[[raw::InterruptEntryInvalidate::new().into_bits(), 0]]));
    }
    assert!(machine.records().is_empty());
    machine
        .unit
        .remap(requester(), message(300, None))
        .unwrap_err();
    assert_eq!(machine.records().len(), 1);
}

#[test]
fn entries_are_cached_until_they_are_invalidated_exactly() {
    let machine = machine(true);
    let vectors = || -> Vec<u8> {
        let remap = |index| {
            machine
                .unit
                .remap(requester(), message(index, None))
                .unwrap()
                .vector
        };
        (0..8).map(remap).collect()
    };
    for index in 0..8 {
        set(&machine, index, entry());
    }
    assert_eq!(vectors(), [0x51; 8]);
    for index in 0..8 {
        set(&machine, index, entry().with_vector(0x61));
    }
    assert_eq!(vectors(), [0x51; 8]);
    let selective = |index, mask| {
        let low = raw::InterruptEntryInvalidate::new()
            .with_selective(true)
            .with_index(index)
            .with_index_mask(mask);
        [low.into_bits(), 0]
    };
    assert!(machine.invalidate(&[selective(7, 0)]));
    assert_eq!(vectors(), [0x51, 0x51, 0x51, 0x51, 0x51, 0x51, 0x51, 0x61]);
    assert!(machine.invalidate(&[selective(3, 1)]));
    assert_eq!(vectors(), [0x51, 0x51, 0x61, 0x61, 0x51, 0x51, 0x51, 0x61]);
    assert!(machine.invalidate(&[[raw::InterruptEntryInvalidate::new().into_bits(), 0]]));
    assert_eq!(vectors(), [0x61; 8]);
    let counters = machine.unit.inspect().interrupt_cache;
    assert_eq!(counters.entries, 8);
    assert!(counters.hits > 0 && counters.misses > 0);
}

#[test]
fn setting_the_table_drops_cached_entries() {
    let machine = machine(true);
    set(&machine, 0, entry());
    machine.unit.remap(requester(), message(0, None)).unwrap();
    machine.write64(offset::IRTA, (IRT + 0x1000) | 7 | 1 << 11);
    machine.unit.remap(requester(), message(0, None)).unwrap();
    machine.command(SIRTP);
    machine
        .unit
        .remap(requester(), message(0, None))
        .unwrap_err();
}

#[test]
fn what_was_not_valid_is_not_cached() {
    let machine = machine(true);
    set(&machine, 0, entry().with_present(false));
    machine
        .unit
        .remap(requester(), message(0, None))
        .unwrap_err();
    set(&machine, 0, entry());
    machine.unit.remap(requester(), message(0, None)).unwrap();
    assert_eq!(machine.ram.load(PhysAddr(IRT)).unwrap() & 1, 1);
}
