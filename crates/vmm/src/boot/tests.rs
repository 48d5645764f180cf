use kvm_bindings::{kvm_dtable, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

const MIB: usize = 1 << 20;

fn memory(ranges: &[(u64, usize)]) -> GuestMemoryMmap {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|&(start, size)| (GuestAddress(start), size))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

fn state(protocol: Protocol) -> (GuestMemoryMmap, CpuState) {
    let memory = memory(&[(0, 16 * MIB)]);
    let entry = Entry {
        protocol,
        start: GuestAddress(0x12_3400),
        info: GuestAddress(0x5678),
    };
    let state = initial_state(&memory, &entry).unwrap();
    (memory, state)
}

fn after_reset() -> kvm_sregs {
    kvm_sregs {
        apic_base: 0xfee0_0900,
        cr0: 0x6000_0010,
        idt: kvm_dtable {
            limit: 0xffff,
            ..kvm_dtable::default()
        },
        ..kvm_sregs::default()
    }
}

/// Walks the boot CPU's page tables as the processor would.
fn translate(memory: &GuestMemoryMmap, cr3: u64, virt: u64) -> Option<u64> {
    let mut table = cr3;
    for level in [39, 30, 21] {
        let entry: u64 = memory
            .read_obj(GuestAddress(table + (virt >> level & 0x1ff) * 8))
            .unwrap();
        if entry & 1 == 0 {
            return None;
        }
        if entry & 0x80 != 0 {
            return Some((entry & !0x1f_ffff) | (virt & 0x1f_ffff));
        }
        table = entry & !0xfff;
    }
    None
}

#[test]
fn linux_is_entered_in_long_mode_with_the_low_four_gigabytes_mapped_to_themselves() {
    let (memory, state) = state(Protocol::Linux64);
    let regs = state.regs();
    assert_eq!((regs.rip, regs.rsi, regs.rflags), (0x12_3400, 0x5678, 2));
    let sregs = state.sregs(after_reset());
    assert_eq!(sregs.cr0, 0x8000_0011);
    assert_eq!(sregs.cr4, 0x20);
    assert_eq!(sregs.efer, 0x500);
    assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
    assert_eq!((sregs.ds.selector, sregs.ss.selector), (0x18, 0x18));
    assert_eq!((sregs.tr.type_, sregs.tr.present, sregs.tr.s), (11, 1, 0));
    assert_eq!(sregs.apic_base, 0xfee0_0900);
    assert_eq!(sregs.idt.limit, 0xffff);
    for address in [0, 0xfff, 0x10_0000, 0x1fff_ffff, 0xfed9_0000, 0xffff_ffff] {
        assert_eq!(translate(&memory, sregs.cr3, address), Some(address));
    }
    assert_eq!(translate(&memory, sregs.cr3, 1 << 32), None);
    assert_eq!(translate(&memory, sregs.cr3, 1 << 39), None);
}

#[test]
fn pvh_and_multiboot_are_entered_in_flat_protected_mode() {
    for (protocol, eax) in [(Protocol::Pvh, 0), (Protocol::Multiboot, 0x2bad_b002)] {
        let (_memory, state) = state(protocol);
        let regs = state.regs();
        assert_eq!((regs.rip, regs.rbx, regs.rax), (0x12_3400, 0x5678, eax));
        let sregs = state.sregs(after_reset());
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
        assert_eq!((sregs.cs.base, sregs.cs.limit), (0, 0xffff_ffff));
        assert_eq!((sregs.cs.db, sregs.cs.l, sregs.cs.type_), (1, 0, 11));
        assert_eq!((sregs.ds.limit, sregs.ds.type_), (0xffff_ffff, 3));
    }
}

#[test]
fn the_descriptor_table_in_memory_is_what_the_segment_registers_hold() {
    let (memory, state) = state(Protocol::Pvh);
    let sregs = state.sregs(after_reset());
    assert_eq!(sregs.gdt.base, GDT.0);
    assert!(GDT.0 + u64::from(sregs.gdt.limit) < GDT_END.0);
    let descriptor = |selector: u16| -> u64 {
        memory
            .read_obj(GuestAddress(sregs.gdt.base + u64::from(selector)))
            .unwrap()
    };
    assert_eq!(descriptor(0), 0);
    assert_eq!(descriptor(sregs.cs.selector), 0x00cf_9b00_0000_ffff);
    assert_eq!(descriptor(sregs.ds.selector), 0x00cf_9300_0000_ffff);
}

#[test]
fn too_little_memory_is_an_error() {
    let memory = memory(&[(0, 0x1000)]);
    let entry = Entry {
        protocol: Protocol::Linux64,
        start: GuestAddress(0),
        info: GuestAddress(0),
    };
    assert!(matches!(
        initial_state(&memory, &entry),
        Err(BootError::NoMemory { .. })
    ));
}

#[test]
fn the_map_gives_ram_but_for_the_legacy_hole_and_reserves_ecam() {
    let memory = memory(&[(0, 64 * MIB), (1 << 32, 2 * MIB)]);
    let map: Vec<_> = memory_map(&memory)
        .iter()
        .map(|e| (e.start.0, e.size, e.kind))
        .collect();
    assert_eq!(
        map,
        [
            (0, 0x9_fc00, MapKind::Ram),
            (0x9_fc00, 0x6_0400, MapKind::Reserved),
            (0x10_0000, 63 << 20, MapKind::Ram),
            (0xe000_0000, 0x1000_0000, MapKind::Reserved),
            (0xfffb_c000, 0x4000, MapKind::Reserved),
            (1 << 32, 2 << 20, MapKind::Ram),
        ]
    );
    assert_eq!(low_ram_end(&memory), GuestAddress(64 << 20));
}

#[test]
fn no_range_of_the_map_covers_the_unit_or_an_apic() {
    let memory = memory(&[(0, 64 * MIB)]);
    for register in [
        crate::layout::VTD,
        crate::layout::AMDVI,
        crate::layout::IOAPIC,
        crate::layout::LAPIC,
    ] {
        for entry in memory_map(&memory) {
            let range = entry.start.0..entry.start.0 + entry.size;
            assert!(!range.contains(&register), "{register:#x}");
        }
    }
}
