use vm_iommu_dma::InterruptRemapper;
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::Irte;
use vm_iommu_spec::vtd::registers::offset;
use vm_iommu_spec::{MsiMessage, PhysAddr};

use super::machine::*;
use crate::{StateError, VtdConfig, VtdState};

/// A machine with the memory of `machine` and the unit's state, through JSON.
fn migrated(machine: &Machine) -> Machine {
    let text = serde_json::to_string(&machine.unit.save()).unwrap();
    let state: VtdState = serde_json::from_str(&text).unwrap();
    let target = Machine::new(*machine.unit.config());
    for word in (0..RAM).step_by(8).map(PhysAddr) {
        let value = machine.ram.load(word).unwrap();
        if value != 0 {
            target.ram.store(word, value).unwrap();
        }
    }
    target.unit.restore(&state).unwrap();
    assert_eq!(target.unit.save(), state);
    target
}

#[test]
fn a_restored_unit_goes_on_where_the_saved_one_was() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    machine.write_at(0x5000, 0x55).unwrap();
    machine.write_at(0x6000, 0).unwrap_err();
    machine.write64(offset::IRTA, IRT | 7 | 1 << 11);
    machine.command(SIRTP);
    machine.enable(IRE);
    let entry = Irte::new().with_present(true).with_vector(0x77);
    machine.store128(IRT, entry.words());
    assert!(machine.invalidate(&[iotlb_global()]));

    let target = migrated(&machine);
    for register in (0..0x300).step_by(4) {
        assert_eq!(
            target.read32(register),
            machine.read32(register),
            "{register:#x}"
        );
    }
    assert_eq!(target.read_at(0x5000).unwrap(), 0x55);
    assert_eq!(reason(target.read_at(0x7000)).code(), 6);
    assert_eq!(target.records().len(), 2);
    let message = MsiMessage {
        address: 0xfee0_0010,
        data: 0,
    };
    assert_eq!(
        target.unit.remap(requester(), message).unwrap().vector,
        0x77
    );
    assert!(target.invalidate(&[iotlb_global()]));
}

#[test]
fn work_that_was_held_up_is_done_after_the_restore() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    let mut handle = machine.port.handle();
    let session = handle.session();
    assert!(!machine.invalidate(&[iotlb_global()]));
    machine.disable(TE);
    assert_ne!(machine.read32(offset::GSTS) & TE, 0);
    let target = migrated(&machine);
    drop(session);
    target.step_until_idle();
    assert!(target.waited());
    assert_eq!(target.read32(offset::GSTS) & TE, 0);
    target.write_at(0x5000, 1).unwrap();
}

#[test]
fn a_state_of_another_unit_or_a_corrupt_one_is_refused() {
    let machine = Machine::new(VtdConfig::default());
    let state = machine.unit.save();
    let other = Machine::new(VtdConfig {
        fault_records: 1,
        ..VtdConfig::default()
    });
    let refused = other.unit.restore(&state);
    assert!(matches!(
        refused,
        Err(StateError::Capability {
            register: "CAP_REG",
            ..
        })
    ));
    let with = |key: &str, value: serde_json::Value| {
        let mut tree = serde_json::to_value(&state).unwrap();
        tree[key] = value;
        machine.unit.restore(&serde_json::from_value(tree).unwrap())
    };
    assert_eq!(
        with("version", 2.into()),
        Err(StateError::Version { version: 2 })
    );
    for corrupt in [
        with("registers", serde_json::json!([[0x1a, 0]])),
        with("registers", serde_json::json!([[0x1c, 1_u64 << 32]])),
        with("next_record", 8.into()),
    ] {
        assert!(
            matches!(corrupt, Err(StateError::Corrupt { .. })),
            "{corrupt:?}"
        );
    }
    assert_eq!(machine.unit.save(), state);
}

#[test]
fn reset_leaves_nothing_behind() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    machine.write_at(0x5000, 1).unwrap();
    machine.write_at(0x6000, 1).unwrap_err();
    machine.unit.reset();
    let fresh = Machine::new(VtdConfig::default());
    assert_eq!(machine.unit.save(), fresh.unit.save());
    assert_eq!(machine.unit.inspect().refused, 0);
    machine.write_at(0x6000, 0x66).unwrap();
    assert_eq!(machine.ram.load(PhysAddr(0x6000)).unwrap(), 0x66);
}
