//! Config space by itself: what is there, and what writes change.

use super::*;

fn build(builder: ConfigBuilder) -> Result<ConfigSpace, BuildError> {
    builder.build(&DmaPort::new(upstream(&Log::default())))
}

/// What software can make of every byte: the bits that stay under writes of zeros and of ones.
fn writable(config: &ConfigSpace) -> Vec<u8> {
    let mut bits = Vec::new();
    for offset in 0..CONFIG_SPACE_SIZE {
        // Initiate FLR and Secondary Bus Reset are left to the fabric, which is not here.
        config.write(offset, &[0]);
        let zeros = config.read_u8(offset);
        config.write(offset, &[0xff]);
        bits.push(zeros ^ config.read_u8(offset));
    }
    bits
}

#[test]
fn only_the_registers_meant_for_software_are_writable() {
    let config = build(endpoint()).unwrap();
    let bits = writable(&config);
    let mut expected = vec![0; bits.len()];
    let mut put = |offset: u16, mask: &[u8]| {
        expected[usize::from(offset)..][..mask.len()].copy_from_slice(mask);
    };
    put(COMMAND, &[0x47, 0x05]);
    put(CACHE_LINE_SIZE, &[0xff]);
    put(BAR0, &[0, 0, 0xff, 0xff]);
    put(BAR0 + 8, &[0, 0, 0xf0, 0xff, 0xff, 0xff, 0xff, 0xff]);
    put(BAR0 + 16, &[0xf0, 0xff, 0xff, 0xff]);
    put(INTERRUPT_LINE, &[0xff]);
    let pcie = config.pcie_capability().unwrap();
    put(pcie + 8, &[0xff, 0x78]);
    put(pcie + 0x10, &[0xd8]);
    let msi = config.msi_capability().unwrap();
    put(msi + 2, &[0x71]);
    put(msi + 4, &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    put(msi + 0xc, &[0xff, 0xff]);
    put(msi + 0x10, &[0x0f]);
    put(config.msix_capability().unwrap() + 3, &[0xc0]);
    for (offset, (bits, expected)) in bits.iter().zip(&expected).enumerate() {
        assert_eq!(bits, expected, "at {offset:#x}");
    }
}

#[test]
fn a_bridge_has_its_windows_and_numbers_to_write() {
    let config = build(ConfigBuilder::bridge(identity()).pcie(PortKind::RootPort)).unwrap();
    let bits = writable(&config);
    assert_eq!(bits[0x04..0x06], [0x47, 0x05]);
    assert_eq!(bits[0x10..0x18], [0; 8]);
    assert_eq!(bits[0x18..0x1c], [0xff, 0xff, 0xff, 0]);
    assert_eq!(bits[0x1c..0x20], [0xf0, 0xf0, 0, 0]);
    assert_eq!(
        bits[0x20..0x28],
        [0xf0, 0xff, 0xf0, 0xff, 0xf0, 0xff, 0xf0, 0xff]
    );
    assert_eq!(bits[0x28..0x30], [0xff; 8]);
    assert_eq!(bits[0x30..0x3c], [0; 12]);
    assert_eq!(bits[0x3c..0x40], [0xff, 0, 0x43, 0]);
    assert_eq!(config.read_u8(PREFETCHABLE_BASE) & 0xf, 1);
}

#[test]
fn all_ones_in_a_bar_read_back_as_its_size_and_type() {
    let config = build(endpoint()).unwrap();
    let cases = [
        (0, 0xffff_0000_u32),
        (4, 0),
        (8, 0xfff0_000c),
        (12, 0xffff_ffff),
        (16, 0xffff_fff1),
        (20, 0),
    ];
    for (register, expected) in cases {
        config.write(BAR0 + register, &[0xff; 4]);
        assert_eq!(config.read_u32(BAR0 + register), expected, "{register}");
    }
}

#[test]
fn capabilities_form_a_list_in_the_order_of_declaration() {
    let config = build(endpoint().vendor(&[8, 1, 2, 3, 4, 5], &[0, 0, 0xff])).unwrap();
    assert_ne!(config.read_u16(STATUS) & 1 << 4, 0);
    let mut at = config.read_u8(CAPABILITIES);
    let mut ids = Vec::new();
    while at != 0 {
        ids.push(config.read_u8(at.into()));
        at = config.read_u8(u16::from(at) + 1);
    }
    assert_eq!(ids, [CAP_PCIE, CAP_MSI, CAP_MSIX, CAP_VENDOR]);
}

#[test]
fn extended_capabilities_form_a_list() {
    let builder = endpoint()
        .acs(AcsFlags::ISOLATION)
        .extended_capability(0x000b, 1, &[0; 8], &[]);
    let config = build(builder).unwrap();
    assert_eq!(config.read_u32(0x100), 0x1080_0000 | 1 << 16 | 0x000d);
    assert_eq!(config.read_u32(0x108), 1 << 16 | 0x000b);
    assert_eq!(config.acs(), Some((AcsFlags::ISOLATION, AcsFlags::empty())));
    config.write(0x106, &[0xff, 0xff]);
    assert_eq!(
        config.acs(),
        Some((AcsFlags::ISOLATION, AcsFlags::ISOLATION))
    );
}

#[test]
fn accesses_past_the_end_read_ones_and_write_nothing() {
    let config = build(endpoint()).unwrap();
    let mut data = [0; 8];
    config.read(CONFIG_SPACE_SIZE - 4, &mut data);
    assert_eq!(data, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    config.write(u16::MAX, &[0xff; 8]);
    config.read(u16::MAX, &mut data);
    assert_eq!(data, [0xff; 8]);
}

#[test]
fn what_cannot_be_laid_out_is_refused() {
    let plain = || ConfigBuilder::endpoint(identity());
    let memory = |size| Bar::Memory32 {
        size,
        prefetchable: false,
    };
    let wide = Bar::Memory64 {
        size: 1 << 20,
        prefetchable: true,
    };
    for builder in [
        plain().bar(0, memory(0x3000)),
        plain().bar(0, memory(8)),
        plain().bar(6, memory(16)),
        plain().bar(5, wide),
        plain().bar(0, wide).bar(1, memory(16)),
        plain().bar(1, memory(16)).bar(0, wide),
        plain().bar(0, Bar::Io { size: 512 }),
        ConfigBuilder::bridge(identity()).bar(2, memory(16)),
    ] {
        assert!(matches!(build(builder), Err(BuildError::Bar { .. })));
    }
    for layout in [
        MsixLayout::in_bar(0, 0),
        MsixLayout::in_bar(0, 2049),
        MsixLayout::in_bar(1, 1),
        MsixLayout {
            pba_offset: 0xfffc,
            ..MsixLayout::in_bar(0, 1)
        },
        MsixLayout {
            pba_offset: 8,
            ..MsixLayout::in_bar(0, 1)
        },
        MsixLayout {
            table_offset: 0xfff8,
            ..MsixLayout::in_bar(0, 1)
        },
    ] {
        let builder = plain().bar(0, memory(0x1_0000)).msix(layout);
        assert_eq!(build(builder).err(), Some(BuildError::Msix { layout }));
    }
    for vectors in [0, 3, 64] {
        assert_eq!(
            build(plain().msi(vectors)).err(),
            Some(BuildError::Msi { vectors })
        );
    }
    assert!(matches!(
        build(plain().pcie(PortKind::RootPort)),
        Err(BuildError::Port { .. })
    ));
    assert!(matches!(
        build(plain().vendor(&[0; 0xc0], &[])),
        Err(BuildError::Capability { .. })
    ));
}
