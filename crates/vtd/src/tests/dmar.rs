use vm_iommu_spec::{PhysAddr, RequesterId};

use crate::dmar::{Atsr, Dmar, Drhd, Rmrr, Scope};

fn sample() -> Dmar {
    let requester = |bus, device, function| RequesterId::new(0, bus, device, function).unwrap();
    Dmar {
        host_address_width: 46,
        interrupt_remapping: true,
        x2apic_opt_out: false,
        dma_control_opt_in: false,
        units: vec![Drhd {
            registers: PhysAddr(0xfed9_0000),
            register_window: 0x2000,
            segment: 0,
            include_all: true,
            scopes: vec![Scope::IoApic {
                id: 2,
                requester: requester(0xff, 0, 0),
            }],
        }],
        reserved_memory: vec![Rmrr {
            segment: 0,
            base: PhysAddr(0x10_0000),
            limit: PhysAddr(0x10_ffff),
            scopes: vec![Scope::Endpoint(requester(0, 3, 1))],
        }],
        root_port_ats: vec![Atsr {
            segment: 0,
            all_ports: false,
            scopes: vec![Scope::Bridge(requester(0, 4, 0))],
        }],
        ..Dmar::default()
    }
}

#[test]
fn checksum_and_length_are_right() {
    let table = sample().to_bytes();
    assert_eq!(&table[..4], b"DMAR");
    assert_eq!(
        u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize,
        table.len()
    );
    assert_eq!(
        table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)),
        0
    );
    assert_eq!((table[36], table[37]), (45, 1));
}

#[test]
fn structures_follow_each_other_and_name_their_scopes() {
    let table = sample().to_bytes();
    let mut structures = Vec::new();
    let mut rest = &table[48..];
    while !rest.is_empty() {
        let kind = u16::from_le_bytes([rest[0], rest[1]]);
        let length = usize::from(u16::from_le_bytes([rest[2], rest[3]]));
        structures.push((kind, &rest[4..length]));
        rest = &rest[length..];
    }
    let [drhd, rmrr, atsr] = structures[..] else {
        panic!("{structures:?}")
    };
    let registers = 0xfed9_0000_u64.to_le_bytes();
    let ioapic = [3, 8, 0, 0, 2, 0xff, 0, 0];
    assert_eq!(
        drhd,
        (0, &[&[1, 1, 0, 0][..], &registers, &ioapic].concat()[..])
    );
    let base = 0x10_0000_u64.to_le_bytes();
    let limit = 0x10_ffff_u64.to_le_bytes();
    let endpoint = [1, 8, 0, 0, 0, 0, 3, 1];
    assert_eq!(
        rmrr,
        (1, &[&[0; 4][..], &base, &limit, &endpoint].concat()[..])
    );
    assert_eq!(atsr, (2, &[0, 0, 0, 0, 2, 8, 0, 0, 0, 0, 4, 0][..]));
}

#[test]
fn flags_say_what_is_offered() {
    for bits in 0..8_u8 {
        let table = Dmar {
            interrupt_remapping: bits & 1 != 0,
            x2apic_opt_out: bits & 2 != 0,
            dma_control_opt_in: bits & 4 != 0,
            ..sample()
        };
        assert_eq!(table.to_bytes()[37], bits);
    }
}
