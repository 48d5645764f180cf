use vm_iommu_spec::vtd::registers::offset;

use super::machine::Machine;
use crate::{AddressWidths, ConfigError, Feature, VtdConfig};

#[test]
fn contradictions_are_refused() {
    let base = VtdConfig::default();
    let needs = |feature, needs| ConfigError::Needs { feature, needs };
    let cases = [
        (
            VtdConfig {
                address_widths: AddressWidths::empty(),
                ..base
            },
            ConfigError::NoAddressWidth,
        ),
        (
            VtdConfig {
                maximum_address_width: Some(49),
                ..base
            },
            ConfigError::MaximumAddressWidth {
                bits: 49,
                widest: 48,
            },
        ),
        (
            VtdConfig {
                maximum_address_width: Some(0),
                ..base
            },
            ConfigError::MaximumAddressWidth {
                bits: 0,
                widest: 48,
            },
        ),
        (
            VtdConfig {
                host_address_width: 53,
                ..base
            },
            ConfigError::HostAddressWidth { bits: 53 },
        ),
        (
            VtdConfig {
                domain_id_bits: 5,
                ..base
            },
            ConfigError::DomainIdBits { bits: 5 },
        ),
        (
            VtdConfig {
                domain_id_bits: 18,
                ..base
            },
            ConfigError::DomainIdBits { bits: 18 },
        ),
        (
            VtdConfig {
                maximum_address_mask: Some(9),
                ..base
            },
            ConfigError::AddressMask { mask: 9, least: 18 },
        ),
        (
            VtdConfig {
                fault_records: 0,
                ..base
            },
            ConfigError::FaultRecords { count: 0 },
        ),
        (
            VtdConfig {
                fault_records: 257,
                ..base
            },
            ConfigError::FaultRecords { count: 257 },
        ),
        (
            VtdConfig {
                queued_invalidation: false,
                ..base
            },
            needs(Feature::InterruptRemapping, Feature::QueuedInvalidation),
        ),
        (
            VtdConfig {
                interrupt_remapping: false,
                ..base
            },
            needs(Feature::ExtendedInterruptMode, Feature::InterruptRemapping),
        ),
        (
            VtdConfig {
                queued_invalidation: false,
                interrupt_remapping: false,
                extended_interrupt_mode: false,
                device_tlb: true,
                ..base
            },
            needs(Feature::DeviceTlb, Feature::QueuedInvalidation),
        ),
    ];
    for (config, error) in cases {
        assert_eq!(config.validate(), Err(error), "{error}");
    }
    assert_eq!(
        VtdConfig::with_address_width(40),
        Err(ConfigError::MaximumAddressWidth {
            bits: 40,
            widest: 57
        })
    );
}

#[test]
fn every_combination_of_features_makes_a_unit_that_reports_it() {
    for bits in 0..1_u32 << 12 {
        let on = |bit: u32| bits >> bit & 1 != 0;
        let config = VtdConfig {
            caching_mode: on(0),
            write_buffer_flush: on(1),
            enhanced_set_root_table: on(2),
            enhanced_set_interrupt_table: on(3),
            coherent: on(4),
            device_tlb: on(5),
            interrupt_remapping: on(6),
            extended_interrupt_mode: on(6) && on(7),
            pass_through: on(8),
            two_mib_pages: on(9),
            one_gib_pages: on(10),
            zero_length_read: on(11),
            ..VtdConfig::default()
        };
        config.validate().unwrap();
        let capability = config.capability();
        let extended = config.extended_capability();
        assert_eq!(capability.caching_mode(), on(0));
        assert_eq!(capability.write_buffer_flush(), on(1));
        assert_eq!(capability.enhanced_set_root_table(), on(2));
        assert_eq!(capability.enhanced_set_interrupt_table(), on(3));
        assert_eq!(
            capability.second_stage_large_pages(),
            u8::from(on(9)) | u8::from(on(10)) << 1
        );
        assert_eq!(capability.zero_length_read(), on(11));
        assert_eq!(extended.coherent(), on(4));
        assert_eq!(extended.device_tlb(), on(5));
        assert_eq!(extended.interrupt_remapping(), on(6));
        assert_eq!(extended.extended_interrupt_mode(), on(6) && on(7));
        assert_eq!(extended.pass_through(), on(8));
    }
}

#[test]
fn what_is_reported_is_where_it_is() {
    for fault_records in [1, 8, 14, 15, 256] {
        let config = VtdConfig {
            fault_records,
            ..VtdConfig::default()
        };
        let machine = Machine::new(config);
        assert_eq!(machine.read64(offset::CAP), config.capability().into_bits());
        assert_eq!(
            machine.read64(offset::ECAP),
            config.extended_capability().into_bits()
        );
        let capability = config.capability();
        assert_eq!(capability.fault_record_count(), fault_records);
        let end = u64::from(capability.fault_recording_offset()) + u64::from(fault_records) * 16;
        assert!(end <= config.register_window());
        assert!(config.register_window().is_power_of_two());
        assert_eq!(config.extended_capability().iotlb_offset(), 0xf0);
    }
    assert_eq!(VtdConfig::default().register_window(), 4096);
}

#[test]
fn address_widths_are_cumulative() {
    for (bits, sagaw, mgaw) in [(39, 0b0010, 38), (48, 0b0110, 47), (57, 0b1110, 56)] {
        let config = VtdConfig::with_address_width(bits).unwrap();
        assert_eq!(config.capability().adjusted_widths(), sagaw);
        assert_eq!(config.capability().maximum_width(), mgaw);
    }
}

#[test]
fn ignored_accesses_read_as_zero_and_write_nothing() {
    let machine = Machine::new(VtdConfig::default());
    for (offset, len) in [
        (0x8, 1),
        (0x9, 4),
        (0xc, 8),
        (0x18, 8),
        (0x60, 4),
        (u64::MAX, 4),
    ] {
        let mut data = vec![0xff; len];
        machine.unit.mmio_read(offset, &mut data);
        assert!(data.iter().all(|byte| *byte == 0), "{offset:#x}");
        machine.unit.mmio_write(offset, &vec![0xff; len]);
    }
    machine.unit.mmio_read(0, &mut []);
    machine.unit.mmio_write(0, &[]);
    assert_eq!(machine.read32(offset::GSTS), 0);
}
