//! The register file (section 3.4).

use vm_iommu_dma::unit::Register;
use vm_iommu_spec::amd::registers::offset;

use super::machine::*;
use crate::AmdViConfig;
use crate::registers::declare;

fn plain() -> AmdViConfig {
    AmdViConfig {
        host_accessed: false,
        host_dirty: false,
        guest_translation: false,
        guest_io: false,
        guest_cr3_mode: false,
        guest_apic: false,
        x2apic: false,
        interrupt_table_2048: false,
        device_table_segments: 0,
        hardware_error: false,
        msi_registers: false,
        ..AmdViConfig::default()
    }
}

#[test]
fn registers_are_aligned_within_the_window_and_do_not_overlap() {
    for config in [AmdViConfig::default(), everything(), plain()] {
        let mut ends = std::collections::BTreeMap::new();
        for register in declare(&config) {
            let end = u64::from(register.offset) + u64::from(register.size);
            assert!(register.offset.is_multiple_of(u16::from(register.size)));
            assert!(end <= config.register_window(), "{}", register.name);
            assert_eq!(ends.insert(u64::from(register.offset), end), None);
        }
        let pairs = ends.iter().zip(ends.keys().skip(1));
        assert!(pairs.into_iter().all(|((_, end), next)| end <= next));
    }
}

#[test]
fn masks_of_one_register_are_disjoint() {
    for register in declare(&everything()) {
        let Register {
            read_write,
            write_1_to_clear,
            ..
        } = register;
        assert_eq!(read_write & write_1_to_clear, 0, "{}", register.name);
    }
}

/// Registers whose writes have further consequences than their masks.
const ACTIVE: [u16; 2] = [offset::CONTROL, offset::STATUS];

#[test]
fn each_bit_of_each_register_does_what_its_mask_says() {
    for config in [everything(), plain()] {
        for register in declare(&config) {
            let hidden = !config.msi_registers && (0x150..0x170).contains(&register.offset);
            if ACTIVE.contains(&register.offset) || hidden {
                continue;
            }
            for bit in (0..u32::from(register.size) * 8).map(|bit| 1_u64 << bit) {
                let machine = Machine::new(config);
                let read = || match register.size {
                    4 => machine.read32(register.offset).into(),
                    _ => machine.read64(register.offset),
                };
                let before = read();
                assert_eq!(before, register.reset, "{}", register.name);
                match register.size {
                    4 => machine.write32(register.offset, bit as u32),
                    _ => machine.write64(register.offset, bit),
                }
                let expected = register.reset & !register.read_write | bit & register.read_write;
                assert_eq!(read(), expected, "{} {bit:#x}", register.name);
            }
        }
    }
}

#[test]
fn control_bits_of_absent_features_stay_clear() {
    let machine = Machine::new(plain());
    machine.write64(offset::CONTROL, !1);
    // HtTunEn to CmdBufEn.
    assert_eq!(machine.read64(offset::CONTROL), 0x1ffe);
    let machine = Machine::new(everything());
    machine.write64(offset::CONTROL, !1);
    let control = machine.read64(offset::CONTROL);
    for bit in [
        13, 14, 15, 16, 17, 22, 24, 25, 28, 29, 34, 35, 39, 42, 43, 45, 50, 51, 58,
    ] {
        assert_eq!(control >> bit & 1, 1, "{bit}");
    }
    // Dual logs, MARC, stop marks, SNP and virtual IOMMUs are not there.
    for bit in [30, 31, 32, 33, 36, 37, 40, 41, 44, 48, 52, 53, 54, 60, 61] {
        assert_eq!(control >> bit & 1, 0, "{bit}");
    }
}

#[test]
fn halves_are_written_apart_and_odd_accesses_ignored() {
    let machine = Machine::new(AmdViConfig::default());
    machine.write32(offset::EXCLUSION_LIMIT + 4, 0x1_2345);
    assert_eq!(machine.read64(offset::EXCLUSION_LIMIT), 0x1_2345 << 32);
    machine.write32(offset::EXCLUSION_LIMIT, 0x1000);
    assert_eq!(machine.read64(offset::EXCLUSION_LIMIT), 0x1_2345_0000_1000);
    for (place, len) in [(0x28, 2), (0x29, 4), (0x2a, 4), (0x24, 8), (0x28, 3)] {
        machine.unit.mmio_write(place, &[0xff; 8][..len]);
    }
    assert_eq!(machine.read64(offset::EXCLUSION_LIMIT), 0x1_2345_0000_1000);
    for place in [0x2ff8, 0x4000, 1 << 40, u64::MAX - 7] {
        let mut data = [0xff; 8];
        machine.unit.mmio_read(place, &mut data);
        assert_eq!(data, [0; 8]);
        machine.unit.mmio_write(place, &[0xff; 8]);
    }
}

#[test]
fn msi_registers_are_in_the_window_only_where_the_unit_says_so() {
    let machine = Machine::new(plain());
    machine.write32(offset::MSI_DATA, 0x42);
    assert_eq!(machine.read32(offset::MSI_DATA), 0);
    let machine = Machine::new(AmdViConfig::default());
    machine.write32(offset::MSI_DATA, 0x42);
    assert_eq!(machine.read32(offset::MSI_DATA), 0x42);
}
