//! Configurations: contradictions are errors, and what is offered is what the registers say.

use vm_iommu_spec::amd::registers::offset;

use super::machine::*;
use crate::{AmdViConfig, ConfigError, Feature};

fn base() -> AmdViConfig {
    AmdViConfig::default()
}

#[test]
fn contradictions_are_errors() {
    let needs = |feature, needs| ConfigError::Needs { feature, needs };
    let cases = [
        (
            AmdViConfig {
                physical_address_width: 53,
                ..base()
            },
            ConfigError::PhysicalAddressWidth { bits: 53 },
        ),
        (
            AmdViConfig {
                physical_address_width: 31,
                ..base()
            },
            ConfigError::PhysicalAddressWidth { bits: 31 },
        ),
        (
            AmdViConfig {
                host_levels: Some(3),
                ..base()
            },
            ConfigError::HostLevels { levels: 3 },
        ),
        (
            AmdViConfig {
                host_levels: None,
                guest_io: false,
                ..base()
            },
            ConfigError::NoTranslation,
        ),
        (
            AmdViConfig {
                guest_levels: 6,
                ..base()
            },
            ConfigError::GuestLevels { levels: 6 },
        ),
        (
            AmdViConfig {
                guest_cr3_levels: 0,
                ..base()
            },
            ConfigError::GuestCr3Levels { levels: 0 },
        ),
        (
            AmdViConfig {
                pasid_bits: 21,
                ..base()
            },
            ConfigError::PasidBits { bits: 21 },
        ),
        (
            AmdViConfig {
                smi_filters: 3,
                ..base()
            },
            ConfigError::SmiFilters { count: 3 },
        ),
        (
            AmdViConfig {
                device_table_segments: 4,
                ..base()
            },
            ConfigError::DeviceTableSegments { segments: 4 },
        ),
        (
            AmdViConfig {
                host_levels: None,
                host_dirty: false,
                ..base()
            },
            needs(Feature::HostAccessed, Feature::HostTables),
        ),
        (
            AmdViConfig {
                host_accessed: false,
                ..base()
            },
            needs(Feature::HostDirty, Feature::HostAccessed),
        ),
        (
            AmdViConfig {
                guest_translation: false,
                ..base()
            },
            needs(Feature::GuestIo, Feature::GuestTranslation),
        ),
        (
            AmdViConfig {
                guest_translation: false,
                guest_io: false,
                ..base()
            },
            needs(Feature::GuestCr3Mode, Feature::GuestTranslation),
        ),
        (
            AmdViConfig {
                ppr: true,
                ..base()
            },
            needs(Feature::Ppr, Feature::Iotlb),
        ),
        (
            AmdViConfig {
                enhanced_ppr: true,
                ..base()
            },
            needs(Feature::EnhancedPpr, Feature::Ppr),
        ),
        (
            AmdViConfig {
                ppr_auto_response: true,
                ..base()
            },
            needs(Feature::PprAutoResponse, Feature::Ppr),
        ),
        (
            AmdViConfig {
                ppr_overflow_early: true,
                ..base()
            },
            needs(Feature::PprOverflowEarly, Feature::Ppr),
        ),
        (
            AmdViConfig {
                guest_apic: false,
                x2apic: false,
                guest_apic_mode: true,
                ..base()
            },
            needs(Feature::GuestApicMode, Feature::GuestApic),
        ),
        (
            AmdViConfig {
                guest_apic: false,
                ..base()
            },
            needs(Feature::X2Apic, Feature::GuestApic),
        ),
    ];
    for (config, expected) in cases {
        assert_eq!(config.validate(), Err(expected), "{expected}");
    }
    assert_eq!(base().validate(), Ok(()));
    assert_eq!(everything().validate(), Ok(()));
}

#[test]
fn the_feature_registers_say_what_is_offered() {
    let machine = Machine::new(everything());
    let feature = everything().extended_feature();
    assert_eq!(
        machine.read64(offset::EXTENDED_FEATURE),
        feature.into_bits()
    );
    assert_eq!(
        machine.read64(offset::EXTENDED_FEATURE_2),
        1 << 3 | 1 << 8 | 1 << 11
    );
    assert!(feature.ppr() && feature.enhanced_ppr() && feature.ppr_auto_response());
    assert_eq!(feature.smi_filter_registers(), 2);
    assert_eq!(feature.pasid_width(), 15);
    assert_eq!(feature.guest_apic_modes(), 1);
    // What the unit does not do.
    assert!(!feature.performance_counters() && !feature.secure_nested_paging());
    assert!(!feature.attribute_forward() && !feature.guest_update_disable());
    assert_eq!((feature.marc(), feature.dual_event_log()), (0, 0));
    let guest_only = AmdViConfig {
        host_levels: None,
        host_accessed: false,
        host_dirty: false,
        ..base()
    };
    assert_eq!(guest_only.validate(), Ok(()));
    assert_eq!(guest_only.extended_feature().host_levels(), 3);
}
