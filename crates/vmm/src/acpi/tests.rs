use std::collections::BTreeMap;

use super::*;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap()
}

fn read(memory: &GuestMemoryMmap, address: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    memory
        .read_slice(&mut bytes, GuestAddress(address))
        .unwrap();
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

fn table_at(memory: &GuestMemoryMmap, address: u64) -> Vec<u8> {
    assert_eq!(address % ALIGNMENT, 0);
    let header = read(memory, address, HEADER);
    let table = read(memory, address, word(&header, 4) as usize);
    assert_eq!(sum(&table), 0, "{:?}", &table[..4]);
    table
}

/// Follows the pointers as a guest does: RSDP, XSDT, tables, and the FADT's DSDT.
fn tables(config: &AcpiConfig) -> BTreeMap<String, Vec<u8>> {
    let memory = memory();
    let rsdp = write_tables(&memory, config).unwrap();
    assert_eq!(rsdp, RSDP);
    let bytes = read(&memory, rsdp.0, 36);
    assert_eq!(&bytes[..8], b"RSD PTR ");
    assert_eq!((sum(&bytes[..20]), sum(&bytes)), (0, 0));
    assert_eq!(bytes[15], 2);

    let xsdt = table_at(&memory, long(&bytes, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let mut tables = BTreeMap::new();
    let mut insert = |table: Vec<u8>| {
        let signature = String::from_utf8(table[..4].to_vec()).unwrap();
        assert!(tables.insert(signature, table).is_none());
    };
    for entry in xsdt[HEADER..].chunks_exact(8) {
        let table = table_at(&memory, long(entry, 0));
        if &table[..4] == b"FACP" {
            insert(table_at(&memory, long(&table, 140)));
        }
        insert(table);
    }
    tables
}

fn machine(cpus: u16) -> BTreeMap<String, Vec<u8>> {
    tables(&AcpiConfig {
        cpus,
        extra: Vec::new(),
    })
}

/// A table with a right header around `body`.
fn foreign(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = vec![0; HEADER];
    table[..4].copy_from_slice(signature);
    table.extend(body);
    let length = table.len() as u32;
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0u8.wrapping_sub(sum(&table));
    table
}

#[test]
fn a_guest_finds_every_table_with_its_checksum_right() {
    let found = machine(4);
    let names: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["APIC", "DSDT", "FACP", "MCFG"]);
}

#[test]
fn foreign_tables_are_listed_as_they_are() {
    let dmar = foreign(b"DMAR", &[47, 1, 2, 3]);
    let found = tables(&AcpiConfig {
        cpus: 1,
        extra: vec![dmar.clone(), foreign(b"VIOT", &[])],
    });
    assert_eq!(found["DMAR"], dmar);
    assert!(found.contains_key("VIOT"));
}

#[test]
fn malformed_foreign_tables_are_refused() {
    let write = |table: Vec<u8>| {
        write_tables(
            &memory(),
            &AcpiConfig {
                cpus: 1,
                extra: vec![table],
            },
        )
    };
    assert!(matches!(
        write(vec![0; 35]),
        Err(AcpiError::TableTooShort { given: 35 })
    ));
    let mut wrong = foreign(b"DMAR", &[1]);
    wrong.push(0);
    assert!(matches!(write(wrong), Err(AcpiError::TableLength { .. })));
    let mut wrong = foreign(b"DMAR", &[1]);
    wrong[36] ^= 1;
    assert!(matches!(write(wrong), Err(AcpiError::TableChecksum { .. })));
    assert!(matches!(
        write(foreign(b"DMAR", &[0; 0x2_0000])),
        Err(AcpiError::NoRoom { .. })
    ));
}

#[test]
fn the_fadt_is_hardware_reduced_with_sleep_and_reset_registers() {
    let fadt = &machine(1)["FACP"];
    assert_eq!(fadt.len(), 276);
    let flags = word(fadt, 112);
    assert_eq!(flags >> 20 & 1, 1, "HW_REDUCED_ACPI");
    assert_eq!(flags >> 10 & 1, 1, "RESET_REG_SUP");
    // Generic addresses: I/O space, 8 bits wide, byte access.
    for (at, port) in [(116, 0x602), (244, 0x600), (256, 0x601)] {
        assert_eq!(fadt[at..at + 4], [1, 8, 0, 1], "register at {at}");
        assert_eq!(long(fadt, at + 4), port);
    }
    assert_eq!(fadt[128], layout::ACPI_RESET_VALUE);
}

#[test]
fn the_madt_names_every_cpu_once_and_the_io_apic() {
    for cpus in [1, 4, 255, 256, 1024] {
        let madt = &machine(cpus)["APIC"];
        assert_eq!(u64::from(word(madt, 36)), layout::LAPIC);
        assert_eq!(word(madt, 40) & 1, 0, "no 8259");
        let (mut ids, mut io_apics) = (Vec::new(), 0);
        let mut rest = &madt[44..];
        while let [kind, length, ..] = *rest {
            let (entry, after) = rest.split_at(length.into());
            match kind {
                0 => {
                    assert_eq!(entry[2], entry[3]);
                    assert_eq!(word(entry, 4), 1);
                    ids.push(u32::from(entry[3]));
                }
                9 => {
                    assert_eq!(word(entry, 4), word(entry, 12));
                    assert_eq!(word(entry, 8), 1);
                    ids.push(word(entry, 4));
                }
                1 => {
                    assert_eq!(entry[2], layout::IOAPIC_ID);
                    assert_eq!(u64::from(word(entry, 4)), layout::IOAPIC);
                    assert_eq!(word(entry, 8), 0);
                    io_apics += 1;
                }
                _ => panic!("structure {kind}"),
            }
            rest = after;
        }
        assert_eq!(ids, (0..cpus.into()).collect::<Vec<u32>>());
        assert_eq!(io_apics, 1);
        // Id 255 in the 8-bit form would mean "all".
        let long_form = madt[44..].len() - 12 - 8 * usize::from(cpus.min(255));
        assert_eq!(long_form, 16 * usize::from(cpus.saturating_sub(255)));
    }
}

#[test]
fn mcfg_and_dsdt_agree_on_the_ecam_window() {
    let tables = machine(1);
    let mcfg = &tables["MCFG"];
    assert_eq!(long(mcfg, 44), 0xe000_0000);
    assert_eq!((mcfg[54], mcfg[55]), (0, 255));
    // A Memory32Fixed descriptor, read-write.
    let mut reserved = vec![0x86, 9, 0, 1];
    reserved.extend(0xe000_0000u32.to_le_bytes());
    reserved.extend(0x1000_0000u32.to_le_bytes());
    assert_eq!(count(&tables["DSDT"], &reserved), 1);
}

#[test]
fn the_dsdt_names_every_device_but_not_the_unit() {
    let dsdt = &machine(3)["DSDT"];
    for (name, times) in [
        (&b"PCI0"[..], 1),
        (b"COM1", 1),
        (b"MBRD", 1),
        (b"_OSC", 1),
        (b"_S5_", 1),
        (b"ACPI0007", 3),
        (b"C002", 1),
        (b"C003", 0),
        // PNP0A08, PNP0C02, PNP0501 in their compressed form.
        (b"\x41\xd0\x0a\x08", 1),
        (b"\x41\xd0\x0c\x02", 1),
        (b"\x41\xd0\x05\x01", 1),
    ] {
        assert_eq!(count(dsdt, name), times, "{name:?}");
    }
    assert_eq!(count(dsdt, &(layout::VTD as u32).to_le_bytes()), 0);
}

#[test]
fn wired_interrupts_rotate_with_the_device_number() {
    let dsdt = &machine(1)["DSDT"];
    // A package of four: the address of all functions, the pin, no source, the input.
    for (route, times) in [
        (&b"\x0c\xff\xff\x01\x00\x00\x00\x0a\x11"[..], 1),
        (b"\x0c\xff\xff\x01\x00\x01\x00\x0a\x12", 1),
        (b"\x0c\xff\xff\x03\x00\x01\x00\x0a\x10", 1),
        (b"\x0c\xff\xff\x1f\x00\x0a\x03\x00\x0a\x12", 1),
    ] {
        assert_eq!(count(dsdt, route), times, "{route:x?}");
    }
}

#[test]
fn every_cpu_the_configuration_allows_fits() {
    let most = crate::config::MachineConfig::MAX_CPUS;
    let found = count(&machine(most)["DSDT"], b"ACPI0007");
    assert_eq!(found, usize::from(most));
}

#[test]
fn only_s5_with_the_enable_bit_is_a_power_off() {
    assert!(is_power_off(5 << 2 | 1 << 5));
    for value in [0, 5 << 2, 1 << 5, 4 << 2 | 1 << 5, 0xff] {
        assert!(!is_power_off(value), "{value:#x}");
    }
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .filter(|window| window == &needle)
        .count()
}
