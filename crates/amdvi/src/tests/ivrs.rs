//! The IVRS table (chapter 5).

use vm_iommu_spec::{Iova, PhysAddr, RequesterId};

use super::machine::*;
use crate::AmdViConfig;
use crate::ivrs::{BlockKind, DeviceEntry, DteSetting, Ivhd, Ivmd, IvmdDevices, IvmdKind, Ivrs};

fn u16_at(bytes: &[u8], place: usize) -> u16 {
    u16::from_le_bytes(bytes[place..place + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    u32::from_le_bytes(bytes[place..place + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], place: usize) -> u64 {
    u64::from_le_bytes(bytes[place..place + 8].try_into().unwrap())
}

/// The blocks of a table: type and bytes.
fn blocks(table: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut blocks = Vec::new();
    let mut place = 48;
    while place < table.len() {
        let length = usize::from(u16_at(table, place + 2));
        assert!(length >= 24 && place + length <= table.len());
        blocks.push((table[place], table[place..place + length].to_vec()));
        place += length;
    }
    blocks
}

fn unit(config: &AmdViConfig) -> Ivhd {
    let function = RequesterId::new(0, 0, 2, 0).unwrap();
    Ivhd::new(config, function, 0x40, PhysAddr(0xfed8_0000))
}

#[test]
fn a_unit_is_described_in_each_kind_of_block() {
    let config = everything();
    let mut ivhd = unit(&config);
    ivhd.entries = vec![
        DeviceEntry::All(DteSetting::default()),
        DeviceEntry::IoApic {
            id: 2,
            source: 0xa0,
            setting: DteSetting::ALL_PASS,
        },
    ];
    let table = Ivrs {
        units: vec![ivhd],
        physical_address_width: 48,
        dma_remap_opt_in: true,
        ..Ivrs::default()
    }
    .to_bytes();
    assert_eq!(&table[..4], b"IVRS");
    assert_eq!(u32_at(&table, 4) as usize, table.len());
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!(sum, 0);
    // EFRSup, opt-in, GVASize, PASize, VASize.
    assert_eq!(u32_at(&table, 36), 3 | 2 << 5 | 48 << 8 | 64 << 15);
    let blocks = blocks(&table);
    let kinds: Vec<u8> = blocks.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [0x10, 0x11, 0x40]);
    for (kind, block) in &blocks {
        assert_eq!(u16_at(block, 4), 0x10, "the function");
        assert_eq!(u16_at(block, 6), 0x40, "the capability block");
        assert_eq!(u64_at(block, 8), 0xfed8_0000);
        assert_eq!(u16_at(block, 16), 0, "the segment");
        let entries = if *kind == 0x10 {
            // IotlbSup, Coherent, PreFSup, PPRSup.
            assert_eq!(block[1], 0xf0);
            let feature = u32_at(block, 20);
            assert_eq!(feature & 0x67, 0x67, "XT, NX, GT, IA, GA");
            assert_eq!(feature >> 30, 2, "HATS");
            assert_eq!(feature >> 8 & 0x1f, 15, "PASmax");
            24
        } else {
            assert_eq!(block[1], 0x30);
            assert_eq!(u64_at(block, 24), config.extended_feature().into_bits());
            assert_eq!(u64_at(block, 32), config.extended_feature_2().into_bits());
            assert_eq!(u32_at(block, 20), 0);
            40
        };
        assert_eq!(
            block[entries..],
            [1, 0, 0, 0, 0x48, 0, 0, 0xc7, 2, 0xa0, 0, 1]
        );
    }
}

#[test]
fn every_kind_of_device_entry_has_its_bytes() {
    let setting = DteSetting {
        nmi_pass: true,
        system_management: 2,
        ..DteSetting::default()
    };
    let cases = [
        (
            DeviceEntry::Select(0x1234, setting),
            vec![2, 0x34, 0x12, 0x24],
        ),
        (
            DeviceEntry::Range(0x10, 0x1f, setting),
            vec![3, 0x10, 0, 0x24, 4, 0x1f, 0, 0],
        ),
        (
            DeviceEntry::Alias {
                device: 0x100,
                source: 0x1208,
                setting,
            },
            vec![0x42, 0, 1, 0x24, 0, 8, 0x12, 0],
        ),
        (
            DeviceEntry::AliasRange {
                first: 0x100,
                last: 0x1ff,
                source: 0x1208,
                setting,
            },
            vec![0x43, 0, 1, 0x24, 0, 8, 0x12, 0, 4, 0xff, 1, 0],
        ),
        (
            DeviceEntry::Hpet {
                id: 1,
                source: 0xa0,
                setting,
            },
            vec![0x48, 0, 0, 0x24, 1, 0xa0, 0, 2],
        ),
    ];
    for (entry, expected) in cases {
        let mut ivhd = unit(&AmdViConfig::default());
        ivhd.entries = vec![entry];
        let table = Ivrs {
            units: vec![ivhd],
            blocks: vec![BlockKind::Extended],
            ..Ivrs::default()
        };
        let blocks = blocks(&table.to_bytes());
        assert_eq!(blocks[0].1[40..], expected);
    }
}

#[test]
fn devices_that_acpi_names_are_in_blocks_of_kind_40h_only() {
    let mut ivhd = unit(&AmdViConfig::default());
    ivhd.entries = vec![DeviceEntry::AcpiHid {
        source: 0xa5,
        hid: *b"AMDI0020",
        cid: [0; 8],
        uid: "ID00".into(),
        setting: DteSetting::default(),
    }];
    let table = Ivrs {
        units: vec![ivhd],
        ..Ivrs::default()
    };
    let blocks = blocks(&table.to_bytes());
    assert_eq!(blocks[0].1.len(), 24);
    assert_eq!(blocks[1].1.len(), 40);
    let entry = &blocks[2].1[40..];
    assert_eq!(entry[..4], [0xf0, 0xa5, 0, 0]);
    assert_eq!(&entry[4..12], b"AMDI0020");
    assert_eq!(entry[20..22], [2, 4]);
    assert_eq!(&entry[22..], b"ID00");
}

#[test]
fn memory_blocks_say_who_uses_what() {
    let memory = |devices, kind| Ivmd {
        segment: 3,
        devices,
        start: Iova(0xdf00_0000),
        length: 0x2000,
        kind,
    };
    let unity = IvmdKind::Unity {
        read: true,
        write: true,
    };
    let table = Ivrs {
        memory: vec![
            memory(IvmdDevices::All, unity),
            memory(IvmdDevices::One(0x18), IvmdKind::Exclusion),
            memory(IvmdDevices::Range(0x10, 0x20), unity),
        ],
        ..Ivrs::default()
    };
    let blocks = blocks(&table.to_bytes());
    for ((kind, block), expected) in
        blocks
            .iter()
            .zip([(0x20, 7, 0, 0), (0x21, 8, 0x18, 0), (0x22, 7, 0x10, 0x20)])
    {
        let found = (*kind, block[1], u16_at(block, 4), u16_at(block, 6));
        assert_eq!(found, expected);
        assert_eq!((block.len(), u16_at(block, 8)), (32, 3));
        assert_eq!(
            (u64_at(block, 16), u64_at(block, 24)),
            (0xdf00_0000, 0x2000)
        );
    }
    assert_eq!(blocks.len(), 3);
}

#[test]
fn a_unit_without_host_tables_says_so() {
    let config = AmdViConfig {
        host_levels: None,
        host_accessed: false,
        host_dirty: false,
        ..AmdViConfig::default()
    };
    let table = Ivrs {
        units: vec![unit(&config)],
        ..Ivrs::default()
    };
    let blocks = blocks(&table.to_bytes());
    assert_eq!(u32_at(&blocks[1].1, 20) & 1, 1, "HATDis");
}
