use super::{IgnoredAccess, Register, RegisterFile, declare};
use crate::VtdConfig;

fn every_config() -> Vec<VtdConfig> {
    let base = VtdConfig::default();
    vec![
        base,
        VtdConfig {
            extended_interrupt_mode: false,
            fault_records: 1,
            ..base
        },
        VtdConfig {
            queued_invalidation: false,
            interrupt_remapping: false,
            extended_interrupt_mode: false,
            fault_records: 256,
            ..base
        },
    ]
}

fn file(config: &VtdConfig) -> RegisterFile {
    RegisterFile::new(declare(config), config.register_window())
}

fn read(file: &RegisterFile, register: &Register) -> u64 {
    let mut bytes = [0; 8];
    let len = usize::from(register.size);
    file.read(u64::from(register.offset), &mut bytes[..len])
        .unwrap();
    u64::from_le_bytes(bytes)
}

fn write(file: &mut RegisterFile, register: &Register, value: u64) {
    let len = usize::from(register.size);
    file.write(u64::from(register.offset), &value.to_le_bytes()[..len])
        .unwrap();
}

fn all_ones(register: &Register) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(register.size))
}

#[test]
fn registers_are_aligned_within_the_window_and_do_not_overlap() {
    for config in every_config() {
        let mut ends = std::collections::BTreeMap::new();
        for register in declare(&config) {
            let end = u64::from(register.offset) + u64::from(register.size);
            assert!(
                register.offset.is_multiple_of(u16::from(register.size)),
                "{}",
                register.name
            );
            assert!(end <= config.register_window(), "{}", register.name);
            ends.insert(u64::from(register.offset), end);
        }
        let pairs = ends.iter().zip(ends.keys().skip(1));
        assert!(pairs.into_iter().all(|((_, end), next)| end <= next));
    }
}

#[test]
fn masks_of_one_register_are_disjoint_and_within_its_size() {
    for register in every_config().iter().flat_map(declare) {
        let Register {
            read_write,
            write_1_to_clear,
            command,
            ..
        } = register;
        assert_eq!(read_write & write_1_to_clear, 0, "{}", register.name);
        assert_eq!(
            (read_write | write_1_to_clear) & command,
            0,
            "{}",
            register.name
        );
        assert_eq!(
            (read_write | write_1_to_clear | command) & !all_ones(&register),
            0
        );
    }
}

#[test]
fn each_bit_of_each_register_does_what_its_mask_says() {
    for config in every_config() {
        for register in declare(&config) {
            for bit in (0..u32::from(register.size) * 8).map(|bit| 1_u64 << bit) {
                let mut file = file(&config);
                file.set(register.offset, register.reset | bit);
                let before = read(&file, &register);
                write(&mut file, &register, bit);
                let set = read(&file, &register);
                write(&mut file, &register, 0);
                let cleared = read(&file, &register);
                let name = register.name;
                if register.read_write & bit != 0 {
                    assert_eq!((set & bit, cleared & bit), (bit, 0), "{name} {bit:#x}");
                } else if register.write_1_to_clear & bit != 0 {
                    assert_eq!((before & bit, set & bit), (bit, 0), "{name} {bit:#x}");
                } else if register.command & bit != 0 {
                    assert_eq!((before & bit, set & bit), (0, 0), "{name} {bit:#x}");
                } else {
                    assert_eq!(
                        (before & bit, set & bit, cleared & bit),
                        (bit, bit, bit),
                        "{name}"
                    );
                }
            }
        }
    }
}

#[test]
fn writing_zeros_clears_no_write_1_to_clear_bit() {
    let config = VtdConfig::default();
    for register in declare(&config) {
        let mut file = file(&config);
        file.set(register.offset, all_ones(&register));
        write(&mut file, &register, 0);
        let kept = read(&file, &register);
        assert_eq!(kept & register.write_1_to_clear, register.write_1_to_clear);
    }
}

#[test]
fn a_write_of_one_half_leaves_the_other_half_alone() {
    let config = VtdConfig::default();
    for register in declare(&config)
        .into_iter()
        .filter(|register| register.size == 8)
    {
        for half in [0, 4] {
            for data in [[0; 4], [0xff; 4]] {
                let mut file = file(&config);
                let mixed = 0xa5a5_5a5a_c3c3_3c3c_u64;
                file.set(register.offset, mixed);
                file.write(u64::from(register.offset) + half, &data)
                    .unwrap();
                let other = if half == 0 {
                    u64::MAX << 32
                } else {
                    u64::from(u32::MAX)
                };
                assert_eq!(
                    file.get(register.offset) & other,
                    mixed & other,
                    "{}",
                    register.name
                );
            }
        }
    }
}

#[test]
fn halves_read_as_the_whole_does() {
    let config = VtdConfig::default();
    let mut file = file(&config);
    for register in declare(&config)
        .into_iter()
        .filter(|register| register.size == 8)
    {
        file.set(register.offset, 0x1122_3344_5566_7788);
        let mut halves = [0; 8];
        let (low, high) = halves.split_at_mut(4);
        file.read(u64::from(register.offset), low).unwrap();
        file.read(u64::from(register.offset) + 4, high).unwrap();
        assert_eq!(u64::from_le_bytes(halves), read(&file, &register));
    }
}

#[test]
fn unaligned_straddling_and_odd_accesses_are_refused() {
    let mut file = file(&VtdConfig::default());
    let bytes = [0; 16];
    for len in [0, 1, 2, 3, 5, 7, 9, 16] {
        let refused = file.write(0x20, &bytes[..len]);
        assert!(
            matches!(refused, Err(IgnoredAccess::Misaligned { .. })),
            "{len}"
        );
    }
    for (offset, len) in [(0x22, 4), (0x24, 8), (0x21, 4)] {
        let refused = file.write(offset, &bytes[..len]);
        assert!(
            matches!(refused, Err(IgnoredAccess::Misaligned { .. })),
            "{offset:#x}"
        );
    }
    // GCMD_REG and GSTS_REG, FECTL_REG and FEDATA_REG.
    for offset in [0x18, 0x38] {
        let refused = file.write(offset, &bytes[..8]);
        assert_eq!(refused, Err(IgnoredAccess::Straddling { offset }));
    }
    for offset in [0x60, 0xff8, 0x1000, 1 << 40, u64::MAX - 3] {
        let refused = file.read(offset, &mut [0; 4]);
        assert_eq!(refused, Err(IgnoredAccess::NoRegister { offset }));
    }
}

#[test]
fn registers_of_absent_features_are_absent() {
    let config = VtdConfig {
        queued_invalidation: false,
        interrupt_remapping: false,
        extended_interrupt_mode: false,
        ..VtdConfig::default()
    };
    let file = file(&config);
    for offset in [0x80, 0x88, 0x90, 0x9c, 0xa0, 0xa4, 0xa8, 0xac, 0xb0, 0xb8] {
        let mut data = [0xff; 4];
        assert!(file.read(offset, &mut data).is_err(), "{offset:#x}");
    }
}
