//! What the driver recorded, performed on the unit in this process.

use vm_iommu_amdvi::AmdViConfig;
use vm_iommu_driver::vtd::{self, Feature};
use vm_iommu_spec::FaultReason;
use vm_iommu_vtd::{Outcome, VtdConfig};

use super::stage::Stage;
use crate::demo::engine::Operation;
use crate::demo::story::{Step, StoryError};
use crate::layout;
use crate::machine::Unit;

#[test]
fn the_story_comes_true_on_units_that_differ() {
    let base = VtdConfig::default();
    for config in [
        base,
        VtdConfig {
            caching_mode: true,
            ..base
        },
        VtdConfig {
            write_buffer_flush: true,
            enhanced_set_root_table: true,
            enhanced_set_interrupt_table: true,
            ..base
        },
        VtdConfig {
            extended_interrupt_mode: false,
            fault_records: 1,
            ..base
        },
    ] {
        let stage = Stage::new(config, true);
        let story = stage.story().unwrap();
        assert_eq!(stage.perform(&story.program), Ok(()), "{config:?}");
    }
}

#[test]
fn the_story_comes_true_on_amd_vi_units_that_differ() {
    let base = AmdViConfig::default();
    for config in [
        base,
        AmdViConfig {
            invalidate_all: false,
            guest_translation: false,
            guest_io: false,
            guest_cr3_mode: false,
            ..base
        },
        AmdViConfig {
            guest_apic: false,
            x2apic: false,
            interrupt_table_2048: false,
            device_table_segments: 0,
            host_levels: Some(4),
            ..base
        },
    ] {
        let stage = Stage::amdvi(config);
        let story = stage.story().unwrap();
        assert_eq!(stage.perform(&story.program), Ok(()), "{config:?}");
        // The device table entry, then four levels, of which the last maps nothing.
        let request = &story.refused;
        let Unit::AmdVi(unit) = &stage.unit else {
            panic!("another unit");
        };
        let explanation = unit.explain(request.requester, request.pasid, request.address);
        assert_eq!(explanation.steps.len(), 5);
        assert_eq!(explanation.steps[4].low, 0);
    }
}

#[test]
fn the_refused_address_lacks_only_the_last_entry() {
    let stage = Stage::new(VtdConfig::default(), true);
    let story = stage.story().unwrap();
    stage.perform(&story.program).unwrap();
    let request = &story.refused;
    let Unit::Vtd(unit) = &stage.unit else {
        panic!("another unit");
    };
    let explanation = unit.explain(request.requester, request.pasid, request.address);
    // Root and context entry, then four levels.
    assert_eq!(explanation.steps.len(), 6);
    let (last, before) = explanation.steps.split_last().unwrap();
    assert_eq!(last.low, 0);
    assert!(before.iter().all(|step| step.low & 1 != 0));
    let reason = FaultReason::Vtd(vm_iommu_spec::vtd::FaultReason::ReadDenied);
    assert_eq!(explanation.outcome, Outcome::Refused { reason });
}

/// The step that fails if the guest leaves out the operations at which `left_out` points.
fn without(left_out: impl Fn(&Operation) -> bool) -> Option<Step> {
    let stage = Stage::new(VtdConfig::default(), true);
    let mut story = stage.story().unwrap();
    for operation in &mut story.program {
        if left_out(operation) {
            // Comparing nothing does nothing.
            *operation = Operation::Compare {
                address: 0,
                with: 0,
                words: 0,
            };
        }
    }
    let (index, _) = stage.perform(&story.program).unwrap_err();
    story.step_of(index as u64)
}

#[test]
fn a_guest_that_leaves_something_out_fails_at_the_step_that_shows_it() {
    let stores_to = |register: u64| {
        move |operation: &Operation| {
            matches!(operation, Operation::Store { address, .. }
                if *address == layout::VTD + register)
        }
    };
    let step = without(stores_to(0x20));
    assert_eq!(step, Some(Step::Moved), "no root table");
    let step = without(stores_to(0xb8));
    assert_eq!(step, Some(Step::Interrupted), "no interrupt table");
    let step = without(stores_to(0x18));
    assert_eq!(step, Some(Step::Translating), "no commands");
    let step = without(stores_to(0x22c));
    assert_eq!(step, Some(Step::Refused), "the fault record not cleared");
}

#[test]
fn a_machine_that_lacks_something_is_told_so() {
    let config = VtdConfig {
        interrupt_remapping: false,
        extended_interrupt_mode: false,
        ..VtdConfig::default()
    };
    assert!(matches!(
        Stage::new(config, true).story(),
        Err(StoryError::Vtd(vtd::Error::Unsupported(
            Feature::InterruptRemapping
        )))
    ));
    assert!(matches!(
        Stage::new(VtdConfig::default(), false).story(),
        Err(StoryError::NoEdu)
    ));
}
