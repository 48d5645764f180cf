//! The registers of a unit with a given configuration (section 11.4).

use vm_iommu_spec::vtd::registers::offset;

use super::Register;
use crate::VtdConfig;
use crate::config::IOTLB_OFFSET;

/// Declares the registers of `config`. Those of features that are not on offer are absent: they
/// read as 0 and ignore writes.
pub(crate) fn declare(config: &VtdConfig) -> Vec<Register> {
    let mut list = vec![
        read_only(
            "VER_REG",
            offset::VER,
            4,
            u64::from(config.version().into_bits()),
        ),
        read_only("CAP_REG", offset::CAP, 8, config.capability().into_bits()),
        read_only(
            "ECAP_REG",
            offset::ECAP,
            8,
            config.extended_capability().into_bits(),
        ),
        Register {
            command: 0xff80_0000,
            ..read_only("GCMD_REG", offset::GCMD, 4, 0)
        },
        read_only("GSTS_REG", offset::GSTS, 4, 0),
        read_write("RTADDR_REG", offset::RTADDR, 8, !0x3ff),
        // DID, SID, FM, CIRG and ICC; CAIG is the unit's.
        read_write("CCMD_REG", offset::CCMD, 8, 0xe000_0003_ffff_ffff),
        Register {
            // PFO, IQE, ICE and ITE; PPF and FRI are the unit's.
            write_1_to_clear: 0x71,
            ..read_only("FSTS_REG", offset::FSTS, 4, 0)
        },
        // AM, IH and ADDR.
        read_write("IVA_REG", IOTLB_OFFSET, 8, !0xf80),
        // DID, DW, DR, IIRG and IVT; IAIG is the unit's.
        read_write("IOTLB_REG", IOTLB_OFFSET + 8, 8, 0xb003_ffff_0000_0000),
    ];
    list.extend(event(
        ["FECTL_REG", "FEDATA_REG", "FEADDR_REG", "FEUADDR_REG"],
        offset::FECTL,
        config.extended_interrupt_mode,
    ));
    if config.queued_invalidation {
        list.extend([
            read_only("IQH_REG", offset::IQH, 8, 0),
            read_write("IQT_REG", offset::IQT, 8, 0x7_fff0),
            read_write("IQA_REG", offset::IQA, 8, !0x7f8),
            Register {
                write_1_to_clear: 1,
                ..read_only("ICS_REG", offset::ICS, 4, 0)
            },
            read_only("IQERCD_REG", offset::IQERCD, 8, 0),
        ]);
        list.extend(event(
            ["IECTL_REG", "IEDATA_REG", "IEADDR_REG", "IEUADDR_REG"],
            offset::IECTL,
            config.extended_interrupt_mode,
        ));
    }
    if config.interrupt_remapping {
        // S and IRTA, and EIME where ECAP.EIM is set.
        let extended = u64::from(config.extended_interrupt_mode) << 11;
        list.push(read_write("IRTA_REG", offset::IRTA, 8, !0xff0 | extended));
    }
    for index in 0..config.fault_records {
        let place = config.fault_records_offset() + index * 16;
        list.push(read_only("FRCD_REG [63:0]", place, 8, 0));
        list.push(Register {
            write_1_to_clear: 1 << 63,
            ..read_only("FRCD_REG [127:64]", place + 8, 8, 0)
        });
    }
    list
}

fn read_only(name: &'static str, offset: u16, size: u8, reset: u64) -> Register {
    Register {
        name,
        offset,
        size,
        reset,
        read_write: 0,
        write_1_to_clear: 0,
        command: 0,
    }
}

fn read_write(name: &'static str, offset: u16, size: u8, mask: u64) -> Register {
    Register {
        read_write: mask,
        ..read_only(name, offset, size, 0)
    }
}

/// The control, data, address and upper address registers of an event. IM is set after reset;
/// IP is the unit's. The upper address exists for 32-bit destinations only.
fn event(names: [&'static str; 4], offset: u16, upper_address: bool) -> [Register; 4] {
    let [control, data, address, upper] = names;
    let im = 1 << 31;
    [
        Register {
            read_write: im,
            ..read_only(control, offset, 4, im)
        },
        read_write(data, offset + 4, 4, 0xffff),
        read_write(address, offset + 8, 4, 0xffff_fffc),
        read_write(
            upper,
            offset + 12,
            4,
            if upper_address { 0xffff_ffff } else { 0 },
        ),
    ]
}
