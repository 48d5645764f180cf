//! The registers that a unit has (section 3.4).

use vm_iommu_dma::unit::Register;
use vm_iommu_spec::amd::registers::{Control, Status, offset};

use crate::AmdViConfig;

/// Bits 51:12 of an address.
const BASE: u64 = ((1 << 40) - 1) << 12;
/// A length in bits 59:56.
const LENGTH: u64 = 0xf << 56;
/// A pointer into a ring of 16-byte entries.
pub(crate) const POINTER: u64 = 0x7_fff0;
/// A pointer into the GA log's ring of 8-byte entries.
pub(crate) const GA_POINTER: u64 = 0x3_fff8;
/// SmiDeviceID, SmiDV and SmiFLock of an SMI Filter Register.
const SMI_FILTER: u64 = 0x3_ffff;
/// The fields of an XT interrupt control register.
const XT_INTERRUPT: u64 = 0xff00_01ff_ffff_ff04;
/// MSI capability: the identifier, and the bits that are read-only: 64-bit address, one message.
pub(crate) const MSI_HEADER: u64 = 1 << 23 | 5;
/// MsiEn.
pub(crate) const MSI_ENABLE: u64 = 1 << 16;

/// The registers of a unit.
pub(crate) fn declare(config: &AmdViConfig) -> Vec<Register> {
    let mut list = vec![
        read_write("Device Table Base", offset::DEVICE_TABLE, BASE | 0x1ff),
        read_write("Command Buffer Base", offset::COMMAND_BUFFER, BASE | LENGTH),
        read_write("Event Log Base", offset::EVENT_LOG, BASE | LENGTH),
        read_write("IOMMU Control", offset::CONTROL, control_bits(config)),
        read_write("Exclusion Base", offset::EXCLUSION_BASE, BASE | 3),
        read_write("Exclusion Range Limit", offset::EXCLUSION_LIMIT, BASE),
        read_only(
            "Extended Feature",
            offset::EXTENDED_FEATURE,
            config.extended_feature().into_bits(),
        ),
        read_only(
            "Extended Feature 2",
            offset::EXTENDED_FEATURE_2,
            config.extended_feature_2().into_bits(),
        ),
        read_write("Command Buffer Head", offset::COMMAND_HEAD, POINTER),
        read_write("Command Buffer Tail", offset::COMMAND_TAIL, POINTER),
        read_write("Event Log Head", offset::EVENT_HEAD, POINTER),
        read_write("Event Log Tail", offset::EVENT_TAIL, POINTER),
        Register {
            write_1_to_clear: status_bits(config).bits(),
            ..read_only("IOMMU Status", offset::STATUS, 0)
        },
    ];
    let miscellaneous = config.miscellaneous().into_bits();
    list.extend([
        read_only_u32("MSI Vector 0", offset::MSI_VECTOR_0, miscellaneous),
        read_only_u32("MSI Vector 1", offset::MSI_VECTOR_1, miscellaneous >> 32),
        Register {
            read_write: MSI_ENABLE,
            ..read_only_u32("MSI Capability Header", offset::MSI_CAPABILITY, MSI_HEADER)
        },
        read_write_u32("MSI Address Low", offset::MSI_ADDRESS_LOW, 0xffff_fffc),
        read_write_u32("MSI Address High", offset::MSI_ADDRESS_HIGH, 0xffff_ffff),
        read_write_u32("MSI Data", offset::MSI_DATA, 0xffff),
    ]);
    if config.hardware_error {
        list.extend([
            read_write(
                "Hardware Event Upper",
                offset::HARDWARE_EVENT_UPPER,
                u64::MAX,
            ),
            read_write(
                "Hardware Event Lower",
                offset::HARDWARE_EVENT_LOWER,
                u64::MAX,
            ),
            read_write("Hardware Event Status", offset::HARDWARE_EVENT_STATUS, 3),
        ]);
    }
    for index in 0..u16::from(config.smi_filters) {
        let place = offset::SMI_FILTER + index * 8;
        list.push(read_write("SMI Filter", place, SMI_FILTER));
    }
    if config.ppr {
        list.extend([
            read_write("PPR Log Base", offset::PPR_LOG, BASE | LENGTH),
            read_write("PPR Log Head", offset::PPR_HEAD, POINTER),
            read_write("PPR Log Tail", offset::PPR_TAIL, POINTER),
        ]);
    }
    if config.ppr_auto_response {
        list.push(read_write(
            "PPR Log Auto Response",
            offset::PPR_AUTO_RESPONSE,
            0x1f,
        ));
    }
    if config.ppr_overflow_early {
        list.push(read_write(
            "PPR Log Overflow Early Indicator",
            offset::PPR_OVERFLOW_EARLY,
            0xc000_7fff,
        ));
    }
    if config.guest_apic_mode {
        list.extend([
            read_write("GA Log Base", offset::GA_LOG, BASE | LENGTH),
            read_write(
                "GA Log Tail Address",
                offset::GA_LOG_TAIL_ADDRESS,
                ((1 << 49) - 1) << 3,
            ),
            read_write("GA Log Head", offset::GA_HEAD, GA_POINTER),
            read_write("GA Log Tail", offset::GA_TAIL, GA_POINTER),
        ]);
    }
    for segment in 1..1_u16 << config.device_table_segments {
        let place = offset::DEVICE_TABLE_SEGMENT + (segment - 1) * 8;
        list.push(read_write("Device Table Segment Base", place, BASE | 0xff));
    }
    if config.x2apic {
        let mut list_of = vec![(
            "XT IOMMU General Interrupt Control",
            offset::XT_GENERAL_INTERRUPT,
        )];
        if config.ppr {
            list_of.push(("XT IOMMU PPR Interrupt Control", offset::XT_PPR_INTERRUPT));
        }
        if config.guest_apic_mode {
            list_of.push(("XT IOMMU GA Log Interrupt Control", offset::XT_GA_INTERRUPT));
        }
        let declared = list_of.into_iter();
        list.extend(declared.map(|(name, place)| read_write(name, place, XT_INTERRUPT)));
    }
    list
}

/// The bits of the control register that the unit has.
fn control_bits(config: &AmdViConfig) -> u64 {
    let mut bits = Control::new()
        .with_enable(true)
        .with_ht_tunnel(true)
        .with_event_log(true)
        .with_event_interrupt(true)
        .with_completion_wait_interrupt(true)
        .with_invalidation_timeout(7)
        .with_pass_posted_write(true)
        .with_response_pass_posted_write(true)
        .with_coherent(true)
        .with_isochronous(true)
        .with_command_buffer(true);
    if config.ppr {
        bits = bits
            .with_ppr(true)
            .with_ppr_log(true)
            .with_ppr_interrupt(true);
    }
    if config.guest_translation {
        bits.set_guest_translation(true);
    }
    if config.guest_cr3_mode {
        bits.set_guest_cr3_is_guest_physical(true);
    }
    if config.guest_apic {
        bits.set_guest_apic(true);
    }
    if config.guest_apic_mode {
        bits = bits
            .with_guest_apic_mode(1)
            .with_ga_log(true)
            .with_ga_interrupt(true);
    }
    if config.smi_filters > 0 {
        bits = bits.with_smi_filter(true).with_smi_filter_log(true);
    }
    if config.device_table_segments > 0 {
        bits.set_device_table_segments(if config.device_table_segments == 1 {
            1
        } else {
            3
        });
    }
    if config.ppr_auto_response {
        bits = bits
            .with_ppr_auto_response(true)
            .with_ppr_auto_response_always(true);
    }
    if config.interrupt_table_2048 {
        bits.set_interrupt_table_mode(1);
    }
    if config.enhanced_ppr {
        bits.set_enhanced_ppr(true);
    }
    if config.host_accessed {
        bits.set_host_flags_update(3);
    }
    if config.x2apic {
        bits = bits.with_x2apic(true).with_x2apic_interrupts(true);
    }
    bits.into_bits()
}

/// The bits of the status register that are cleared by writing 1.
pub(crate) fn status_bits(config: &AmdViConfig) -> Status {
    let mut bits =
        Status::EVENT_OVERFLOW | Status::EVENT_INTERRUPT | Status::COMPLETION_WAIT_INTERRUPT;
    if config.ppr {
        bits |= Status::PPR_OVERFLOW | Status::PPR_INTERRUPT;
    }
    if config.ppr_overflow_early {
        bits |= Status::PPR_OVERFLOW_EARLY;
    }
    if config.guest_apic_mode {
        bits |= Status::GA_OVERFLOW | Status::GA_INTERRUPT;
    }
    bits
}

fn read_only(name: &'static str, offset: u16, reset: u64) -> Register {
    Register {
        name,
        offset,
        size: 8,
        reset,
        read_write: 0,
        write_1_to_clear: 0,
        command: 0,
    }
}

fn read_write(name: &'static str, offset: u16, mask: u64) -> Register {
    Register {
        read_write: mask,
        ..read_only(name, offset, 0)
    }
}

fn read_only_u32(name: &'static str, offset: u16, reset: u64) -> Register {
    Register {
        size: 4,
        ..read_only(name, offset, reset & 0xffff_ffff)
    }
}

fn read_write_u32(name: &'static str, offset: u16, mask: u64) -> Register {
    Register {
        size: 4,
        ..read_write(name, offset, mask)
    }
}
