//! Saving and restoring.

use std::sync::Arc;

use vm_iommu_dma::InterruptRemapper;
use vm_iommu_spec::MsiMessage;
use vm_iommu_spec::amd::registers::{Status, offset};
use vm_iommu_spec::amd::{EventCode, Irte128};
use vm_memory::{Bytes, GuestAddress};

use super::commands::{Tlb, attach, invalidate_tlb};
use super::machine::*;
use crate::{AmdViConfig, AmdViState, StateError};

/// Copies what the guest has in memory.
fn copy_memory(from: &Machine, to: &Machine) {
    let mut bytes = vec![0; RAM as usize];
    from.ram
        .memory()
        .read_slice(&mut bytes, GuestAddress(0))
        .unwrap();
    to.ram
        .memory()
        .write_slice(&bytes, GuestAddress(0))
        .unwrap();
}

fn moved(source: &Machine, config: AmdViConfig) -> Machine {
    let state = serde_json::to_string(&source.unit.save()).unwrap();
    let target = Machine::new(config);
    copy_memory(source, &target);
    let state: AmdViState = serde_json::from_str(&state).unwrap();
    target.unit.restore(&state).unwrap();
    target
}

#[test]
fn a_restored_unit_goes_on_where_the_saved_one_was() {
    let source = Machine::translating(AmdViConfig::default(), 4);
    source.map(0x5000, 0x50_0000, 12, READ_WRITE);
    source.store(0x50_0000, 7);
    source.enable(|control| control.with_guest_apic(true));
    source.change_device(|entry| {
        entry.interrupt = entry
            .interrupt
            .with_valid(true)
            .with_control(2)
            .with_table_length(4)
            .with_table_address(vm_iommu_spec::PhysAddr(IRT));
    });
    let entry = Irte128::new().with_remap_enable(true).with_vector(0x77);
    source.store(IRT + 16, entry.words()[0]);
    source.store(IRT + 24, entry.words()[1]);
    assert!(source.read_at(0x9000).is_err());
    let target = moved(&source, AmdViConfig::default());
    assert_eq!(target.read_at(0x5000), Ok(7));
    let message = MsiMessage {
        address: 0xfee0_0000,
        data: 1,
    };
    assert_eq!(
        target.unit.remap(requester(), message).unwrap().vector,
        0x77
    );
    assert!(target.invalidate(&[invalidate_all()]));
    assert_eq!(target.event().address(), 0x9000);
    assert!(target.status().contains(Status::EVENT_INTERRUPT));
    assert_eq!(
        target.read64(offset::CONTROL),
        source.read64(offset::CONTROL)
    );
}

#[test]
fn work_that_was_held_up_is_done_after_the_restore() {
    let source = Machine::translating(AmdViConfig::default(), 4);
    let mut handle = source.port.handle();
    let _session = handle.session();
    assert!(!source.invalidate(&[invalidate_all()]));
    let target = moved(&source, AmdViConfig::default());
    assert!(!target.waited());
    target.step_until_idle();
    assert!(target.waited());
}

/// A unit that serves device-TLBs.
const WITH_TLBS: fn() -> AmdViConfig = || AmdViConfig {
    iotlb_support: true,
    ..AmdViConfig::default()
};

#[test]
fn device_tlbs_without_an_answer_are_told_again_after_the_restore() {
    let holding = || {
        Arc::new(Tlb {
            holds: true,
            ..Tlb::default()
        })
    };
    let (before, after) = (holding(), holding());
    let source = Machine::translating(WITH_TLBS(), 4);
    attach(&source, &before);
    assert!(!source.invalidate(&[invalidate_tlb(Some(3), 0x8000, 0xffff)]));
    let state = source.unit.save();
    let target = Machine::new(WITH_TLBS());
    copy_memory(&source, &target);
    attach(&target, &after);
    target.unit.restore(&state).unwrap();
    // Saved before its first turn, a restored unit has forgotten nothing.
    assert_eq!(target.unit.save(), state);
    let _ = target.unit.step();
    assert_eq!(*after.seen.lock().unwrap(), *before.seen.lock().unwrap());
    assert_eq!(target.unit.save(), state);
    assert!(!target.waited());
    after.held.lock().unwrap().clear();
    target.step_until_idle();
    assert!(target.waited());
    assert_eq!(target.events(), []);
}

#[test]
fn a_device_tlb_that_is_gone_after_the_restore_is_a_timeout() {
    let tlb = Arc::new(Tlb {
        holds: true,
        ..Tlb::default()
    });
    let source = Machine::translating(WITH_TLBS(), 4);
    attach(&source, &tlb);
    assert!(!source.invalidate(&[invalidate_tlb(None, 0x5000, 0x5fff)]));
    let target = moved(&source, WITH_TLBS());
    target.step_until_idle();
    assert!(target.waited());
    let code = target.event().event_code();
    assert_eq!(code, Some(EventCode::IotlbInvalidationTimeout));
}

#[test]
fn an_interrupt_that_was_sent_is_not_sent_again_and_suppression_is_kept() {
    let source = Machine::translating(AmdViConfig::default(), 4);
    source.write32(offset::MSI_ADDRESS_LOW, 0xfee0_0000);
    source.write32(offset::MSI_CAPABILITY, 1 << 16);
    source.enable(|control| control.with_event_interrupt(true));
    source.change_device(|entry| entry.domain.set_suppress_repeated(true));
    assert!(source.read_at(0x9000).is_err());
    let target = moved(&source, AmdViConfig::default());
    target.write32(offset::MSI_DATA, 1);
    assert_eq!(target.interrupts(), []);
    assert_eq!(target.events().len(), 1);
    assert!(target.read_at(0x9000).is_err());
    assert_eq!(target.events(), []);
}

#[test]
fn a_state_of_another_unit_or_a_corrupt_one_is_refused() {
    let source = Machine::translating(AmdViConfig::default(), 4);
    let state = source.unit.save();
    let other = Machine::new(AmdViConfig {
        invalidate_all: false,
        ..AmdViConfig::default()
    });
    assert!(matches!(
        other.unit.restore(&state),
        Err(StateError::Capability { .. })
    ));
    let corrupt = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut value = serde_json::to_value(&state).unwrap();
        edit(&mut value);
        let state: AmdViState = serde_json::from_value(value).unwrap();
        source.unit.restore(&state).unwrap_err()
    };
    assert_eq!(
        corrupt(&|value| value["version"] = 9.into()),
        StateError::Version { version: 9 }
    );
    let error = corrupt(&|value| value["registers"] = serde_json::json!([[1, 2]]));
    assert!(matches!(error, StateError::Corrupt { .. }));
    let error = corrupt(&|value| value["registers"] = serde_json::json!([[0x164, 1_u64 << 32]]));
    assert!(matches!(error, StateError::Corrupt { .. }));
    let error = corrupt(&|value| value["commands"] = serde_json::Value::Null);
    assert!(matches!(error, StateError::Corrupt { .. }));
    let tlb = serde_json::json!({"device": 8, "command": 0, "pasid": 1, "first": 0, "last": 0});
    let edits = [("pasid", 1 << 20), ("first", 1)];
    for (field, bad) in edits {
        let mut one = tlb.clone();
        one[field] = bad.into();
        let error = corrupt(&|value| value["device_tlbs"] = serde_json::json!([one]));
        assert!(matches!(error, StateError::Corrupt { .. }), "{field}");
    }
    let many = vec![tlb; 33];
    let error = corrupt(&|value| value["device_tlbs"] = serde_json::json!(many));
    assert!(matches!(error, StateError::Corrupt { .. }));
    // Unchanged.
    assert!(source.invalidate(&[]));
}

#[test]
fn reset_leaves_nothing_behind() {
    let machine = Machine::translating(AmdViConfig::default(), 4);
    machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    machine.store(0x5000, 1);
    machine.store(0x50_0000, 2);
    assert_eq!(machine.read_at(0x5000), Ok(2));
    assert!(machine.read_at(0x9000).is_err());
    machine.unit.reset();
    assert_eq!(machine.read_at(0x5000), Ok(1));
    let fresh = Machine::new(AmdViConfig::default());
    assert_eq!(machine.unit.save(), fresh.unit.save());
    assert_eq!(machine.unit.inspect().refused, 0);
}
