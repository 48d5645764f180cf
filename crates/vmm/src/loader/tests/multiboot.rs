use super::images::*;
use crate::boot::{Entry, Protocol};
use vm_memory::GuestAddress;

const PAGE_ALIGN: u32 = 1;
const MEMORY_INFO: u32 = 2;
const VIDEO: u32 = 4;
const HAS_ADDRESSES: u32 = 1 << 16;

#[test]
fn the_kernel_is_loaded_and_the_information_lies_behind_it() {
    let memory = memory(16);
    let entry = Files::new(&multiboot()).load(&memory).unwrap();
    assert_eq!(
        entry,
        Entry {
            protocol: Protocol::Multiboot,
            start: GuestAddress(0x40_000c),
            info: GuestAddress(0x40_5000),
        }
    );
    assert_eq!(read(&memory, 0x40_0000, 0x2d)[0x2b..], [0x90, 0]);
}

#[test]
fn the_information_leads_to_command_line_memory_and_modules() {
    let memory = memory(16);
    let files = Files::new(&multiboot())
        .cmdline("one two")
        .module(&[7; 0x1001], "args")
        .module(b"", "")
        .module(b"tail", "");
    let info = files.load(&memory).unwrap().info.0;
    assert_eq!(word(&memory, info), 0b10_0100_1101);
    assert_eq!(word(&memory, info + 4), 639);
    assert_eq!(word(&memory, info + 8), 15 * 1024);
    let string = |at| text(&memory, word(&memory, at).into());
    let kernel = files.config.path.display();
    assert_eq!(string(info + 16), format!("{kernel} one two"));
    assert_eq!(string(info + 64), "vm-iommu");

    assert_eq!(word(&memory, info + 20), 3);
    let list = u64::from(word(&memory, info + 24));
    let module = |i: u64| {
        let at = list + 16 * i;
        let (start, end) = (word(&memory, at), word(&memory, at + 4));
        assert_eq!(start % 0x1000, 0);
        let content = read(&memory, start.into(), (end - start) as usize);
        (start, content, string(at + 8))
    };
    let path = |i| files.path(&format!("module{i}")).display().to_string();
    let (first, empty, last) = (module(0), module(1), module(2));
    assert_eq!((first.1, first.2), (vec![7; 0x1001], path(0) + " args"));
    assert_eq!((empty.1, empty.2), (vec![], path(1)));
    assert_eq!((last.1, last.2), (b"tail".to_vec(), path(2)));
    assert!(u64::from(first.0) > info && empty.0 > first.0 + 0x1000 && last.0 > empty.0);

    let (length, map) = (word(&memory, info + 44), word(&memory, info + 48));
    let entries: Vec<_> = (0..length / 24)
        .map(|i| u64::from(map + 24 * i))
        .map(|at| {
            assert_eq!(word(&memory, at), 20);
            (
                long(&memory, at + 4),
                long(&memory, at + 12),
                word(&memory, at + 20),
            )
        })
        .collect();
    assert_eq!(
        entries[..3],
        [
            (0, 0x9_fc00, 1),
            (0x9_fc00, 0x6_0400, 2),
            (MIB, 15 * MIB, 1)
        ]
    );
}

#[test]
fn an_entry_in_virtual_addresses_is_found_through_its_segment() {
    let mut content = multiboot_header(PAGE_ALIGN | MEMORY_INFO, &[]);
    content.resize(0x100, 0x90);
    let image = elf32(
        0xc010_0020,
        &[(1, 0x1000, 0xc010_0000, 0x10_0000, 0x100, 0x100)],
        &content,
    );
    let entry = Files::new(&image).load(&memory(16)).unwrap();
    assert_eq!(entry.start, GuestAddress(0x10_0020));
}

#[test]
fn a_kernel_may_be_in_conventional_memory() {
    let mut content = multiboot_header(0, &[]);
    content.resize(0x100, 0x90);
    let image = elf32(
        0x4020,
        &[(1, 0x1000, 0x4000, 0x4000, 0x100, 0x2000)],
        &content,
    );
    let entry = Files::new(&image).load(&memory(16)).unwrap();
    assert_eq!(entry.start, GuestAddress(0x4020));
    assert_eq!(entry.info, GuestAddress(MIB));
}

#[test]
fn a_flat_file_is_loaded_by_the_addresses_of_its_header() {
    let memory = memory(16);
    let flat = |addresses: [u32; 5]| {
        let mut image = vec![0xee; 0x40];
        image.extend(multiboot_header(HAS_ADDRESSES, &addresses));
        image.extend([0x90; 0x40]);
        image
    };
    // The header is at 0x40 in the file; loading starts 0x20 before it.
    let image = flat([0x20_0020, 0x20_0000, 0x20_0060, 0x20_1000, 0x20_0050]);
    let entry = Files::new(&image).load(&memory).unwrap();
    assert_eq!(entry.start, GuestAddress(0x20_0050));
    assert_eq!(entry.info, GuestAddress(0x20_1000));
    assert_eq!(read(&memory, 0x20_0000, 1), [0xee]);
    assert_eq!(read(&memory, 0x20_0020, 4), [0x02, 0xb0, 0xad, 0x1b]);
    assert_eq!(read(&memory, 0x20_005f, 2), [0x90, 0]);

    // Without ends, all of the file is loaded and nothing lies behind it.
    let image = flat([0x30_0040, 0x30_0000, 0, 0, 0x30_0070]);
    Files::new(&image).load(&memory).unwrap();
    assert_eq!(read(&memory, 0x30_009f, 2), [0x90, 0]);

    for (addresses, complaint) in [
        (
            [0x20_0000, 0x20_0001, 0, 0, 0],
            "its load_addr is 0x200001, which cannot be; the file is damaged",
        ),
        (
            [0x20_0041, 0x20_0000, 0, 0, 0],
            "its header_addr is 0x200041, which cannot be; the file is damaged",
        ),
        (
            [0x20_0000, 0x20_0000, 0x1f_ffff, 0, 0],
            "its load_end_addr is 0x1fffff, which cannot be; the file is damaged",
        ),
        (
            [0x20_0000, 0x20_0000, 0x20_0061, 0, 0],
            "the kernel lies past the end of the file; the file is cut short or damaged",
        ),
        (
            [0x20_0000, 0x20_0000, 0x20_0060, 0x20_005f, 0],
            "its bss_end_addr is 0x20005f, which cannot be; the file is damaged",
        ),
        (
            [0x20_0000, 0x20_0000, 0, 0, 0x20_0060],
            "its entry point is 0x200060, which cannot be; the file is damaged",
        ),
        (
            [0x20, 0, 0, 0, 0],
            "it wants to be at 0x0 to 0x80, outside of usable RAM (0x100000 to 0x1000000); give more memory",
        ),
    ] {
        assert_eq!(Files::new(&flat(addresses)).complaint(&memory), complaint);
    }
}

#[test]
fn demands_that_cannot_be_met_are_refused() {
    let image = |flags| {
        let mut content = multiboot_header(flags, &[]);
        content.resize(0x40, 0x90);
        elf32(
            0x10_0020,
            &[(1, 0x1000, 0x10_0000, 0x10_0000, 0x40, 0x40)],
            &content,
        )
    };
    assert_eq!(
        Files::new(&image(VIDEO | PAGE_ALIGN)).complaint(&memory(16)),
        "its multiboot header demands flags 0x5, and only 0x3 are known"
    );
    // Upper flags are for loaders that know them.
    Files::new(&image(1 << 20)).load(&memory(16)).unwrap();
}

#[test]
fn information_and_modules_need_room_behind_the_kernel() {
    let mut content = multiboot_header(0, &[]);
    content.resize(0x40, 0x90);
    let image = |size: u64| {
        elf32(
            0x10_0020,
            &[(1, 0x1000, 0x10_0000, 0x10_0000, 0x40, size)],
            &content,
        )
    };
    let all = 15 * MIB;
    let message = Files::new(&image(all)).complaint(&memory(16));
    assert!(
        message.starts_with("no room for the boot information"),
        "{message}"
    );
    Files::new(&image(all - 0x1000)).load(&memory(16)).unwrap();
    let error = Files::new(&image(all - 0x1000))
        .module(b"x", "")
        .load(&memory(16))
        .unwrap_err();
    assert!(
        error.to_string().contains("no room for its 1 bytes"),
        "{error}"
    );
}
