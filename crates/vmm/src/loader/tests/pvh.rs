use super::images::*;
use crate::boot::{CMDLINE, Entry, PVH_START_INFO, Protocol};
use vm_memory::GuestAddress;

const INFO: u64 = PVH_START_INFO.0;

#[test]
fn segments_go_to_their_physical_addresses_and_the_note_gives_the_entry() {
    let memory = memory(16);
    let entry = Files::new(&pvh()).load(&memory).unwrap();
    assert_eq!(
        entry,
        Entry {
            protocol: Protocol::Pvh,
            start: GuestAddress(0x20_0010),
            info: PVH_START_INFO,
        }
    );
    assert_eq!(read(&memory, 0x20_0000, 0x21)[0x1f..], [0x90, 0]);
}

#[test]
fn the_start_info_leads_to_command_line_tables_map_and_modules() {
    let memory = memory(16);
    Files::new(&pvh())
        .cmdline("one two")
        .module(&[7; 0x1001], "m=1")
        .module(b"tail", "")
        .load(&memory)
        .unwrap();
    let fields: Vec<_> = (0..4).map(|i| word(&memory, INFO + 4 * i)).collect();
    assert_eq!(fields, [0x336e_c578, 1, 0, 2]);
    assert_eq!(text(&memory, long(&memory, INFO + 24)), "one two");
    assert_eq!(long(&memory, INFO + 24), CMDLINE.0);
    assert_eq!(long(&memory, INFO + 32), RSDP.0);
    let map = long(&memory, INFO + 40);
    assert_eq!(word(&memory, INFO + 48), 5);
    assert_eq!((long(&memory, map), long(&memory, map + 8)), (0, 0x9_fc00));
    assert_eq!(word(&memory, map + 16), 1);
    assert_eq!(word(&memory, map + 24 + 16), 2);

    let list = long(&memory, INFO + 16);
    let module = |i: u64| {
        let at = list + 32 * i;
        let (start, size) = (long(&memory, at), long(&memory, at + 8));
        (
            start,
            read(&memory, start, size as usize),
            text(&memory, long(&memory, at + 16)),
        )
    };
    assert_eq!(
        module(0),
        (16 * MIB - 0x2000, vec![7; 0x1001], "m=1".to_owned())
    );
    assert_eq!(
        module(1),
        (16 * MIB - 0x3000, b"tail".to_vec(), String::new())
    );
}

#[test]
fn an_elf_that_cannot_be_loaded_or_entered_is_refused() {
    let memory = memory(16);
    let load = |kind, offset, phys, file, mem| (kind, offset, 0, phys, file, mem);
    let note = |entry| pvh_note(entry);
    let loadable = load(1, 0x1000, 0x20_0000, 20, 0x1000);
    let noted = load(4, 0x1000, 0, 20, 20);
    for (segments, entry, complaint) in [
        (
            vec![loadable],
            0x20_0000,
            "this ELF has no PVH entry note; give the bzImage, or build with CONFIG_PVH=y",
        ),
        (
            vec![loadable, noted],
            0x20_1000,
            "its PVH entry point is 0x201000, which cannot be; the file is damaged",
        ),
        (
            vec![load(1, 0x1000, 0x8000, 20, 20), noted],
            0x8000,
            "it wants to be at 0x8000 to 0x8014, outside of usable RAM (0x100000 to 0x1000000); give more memory",
        ),
        (
            vec![load(1, 0x1000, 0xff_f000, 20, 0x1001), noted],
            0xff_f000,
            "it wants to be at 0xfff000 to 0x1000001, outside of usable RAM (0x100000 to 0x1000000); give more memory",
        ),
        (
            vec![load(1, 0x1000, 0x20_0000, 21, 20), noted],
            0x20_0000,
            "an ELF segment lies past the end of the file; the file is cut short or damaged",
        ),
        (
            vec![load(1, 0x1000, 0x20_0000, 20, 19), noted],
            0x20_0000,
            "its p_memsz is 0x13, which cannot be; the file is damaged",
        ),
        (
            vec![load(1, 0x1000, u64::MAX - 5, 20, 20), noted],
            0x20_0000,
            "its p_memsz is 0x14, which cannot be; the file is damaged",
        ),
        (
            vec![loadable, load(4, u64::MAX - 7, 0, 20, 20)],
            0x20_0000,
            "an ELF segment lies past the end of the file; the file is cut short or damaged",
        ),
        (
            vec![noted],
            0x20_0000,
            "every loadable ELF segment lies past the end of the file; the file is cut short or damaged",
        ),
    ] {
        let files = Files::new(&elf64(0, &segments, &note(entry)));
        assert_eq!(files.complaint(&memory), complaint);
    }
}

#[test]
fn command_lines_share_a_bounded_area() {
    let memory = memory(16);
    let long = "x".repeat(0x1_8000);
    let files = Files::new(&pvh()).cmdline(&long).module(b"m", &long);
    assert_eq!(
        files.complaint(&memory),
        "the command line has 98304 bytes, and 32766 are possible; shorten it"
    );
}
