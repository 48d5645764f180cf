use super::images::*;
use crate::boot::{BOOT_PARAMS, CMDLINE, Entry, Protocol};
use vm_memory::GuestAddress;

const PARAMS: u64 = BOOT_PARAMS.0;

#[test]
fn the_kernel_goes_where_it_prefers_and_is_entered_in_64_bit_mode() {
    let memory = memory(64);
    let entry = Files::new(&bzimage()).load(&memory).unwrap();
    assert_eq!(
        entry,
        Entry {
            protocol: Protocol::Linux64,
            start: GuestAddress(0x100_0200),
            info: BOOT_PARAMS,
        }
    );
    assert_eq!(read(&memory, 0x100_0000, 0x1001)[0xfff..], [0xc3, 0]);
}

#[test]
fn boot_parameters_carry_header_command_line_map_and_tables() {
    let memory = memory(64);
    Files::new(&bzimage())
        .cmdline("console=ttyS0 quiet")
        .load(&memory)
        .unwrap();
    assert_eq!(read(&memory, PARAMS + 0x202, 4), b"HdrS");
    assert_eq!(long(&memory, PARAMS + 0x70), RSDP.0);
    assert_eq!(read(&memory, PARAMS + 0x210, 2), [0xff, 0x01]);
    assert_eq!(word(&memory, PARAMS + 0x214), 0x100_0000);
    assert_eq!(u64::from(word(&memory, PARAMS + 0x228)), CMDLINE.0);
    assert_eq!(text(&memory, CMDLINE.0), "console=ttyS0 quiet");
    assert_eq!(word(&memory, PARAMS + 0x218), 0, "no initramfs");

    let entries = read(&memory, PARAMS + 0x1e8, 1)[0];
    let map: Vec<_> = (0..u64::from(entries))
        .map(|i| PARAMS + 0x2d0 + i * 20)
        .map(|at| {
            (
                long(&memory, at),
                long(&memory, at + 8),
                word(&memory, at + 16),
            )
        })
        .collect();
    assert_eq!(
        map,
        [
            (0, 0x9_fc00, 1),
            (0x9_fc00, 0x6_0400, 2),
            (MIB, 63 * MIB, 1),
            (0xe000_0000, 0x1000_0000, 2),
            (0xfffb_c000, 0x4000, 2),
        ]
    );
}

#[test]
fn what_follows_the_header_in_the_file_is_not_taken_for_fields() {
    let memory = memory(64);
    let mut image = bzimage();
    // A header that ends after `init_size`, with code behind it.
    put(&mut image, 0x201, &[0x62]);
    put(&mut image, 0x264, &[0xcc; 8]);
    Files::new(&image).load(&memory).unwrap();
    assert_eq!(word(&memory, PARAMS + 0x260), 0x40_0000);
    assert_eq!(read(&memory, PARAMS + 0x264, 8), [0; 8]);
}

#[test]
fn modules_become_one_initramfs_as_high_as_the_kernel_reaches() {
    let memory = memory(64);
    let mut image = bzimage();
    put(&mut image, 0x22c, &0x2ff_ffffu32.to_le_bytes());
    Files::new(&image)
        .module(b"first", "")
        .module(b"second", "ignored")
        .load(&memory)
        .unwrap();
    assert_eq!(word(&memory, PARAMS + 0x218), 0x2ff_f000);
    assert_eq!(word(&memory, PARAMS + 0x21c), 14);
    assert_eq!(read(&memory, 0x2ff_f000, 15), b"first\0\0\0second\0");
}

#[test]
fn an_initramfs_never_overlaps_the_memory_that_the_kernel_unpacks_into() {
    let memory = memory(21);
    let small = vec![1; 0xf_0000];
    Files::new(&bzimage())
        .module(&small, "")
        .load(&memory)
        .unwrap();
    assert!(u64::from(word(&memory, PARAMS + 0x218)) >= 0x140_0000);
    let large = vec![1; 0x10_1000];
    let error = Files::new(&bzimage())
        .module(&large, "")
        .load(&memory)
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with(
            "no room for its 1052672 bytes below 0x1500000; give more memory or a smaller file"
        ),
        "{error}"
    );
}

#[test]
fn a_relocatable_kernel_moves_down_if_memory_is_small() {
    let memory = memory(8);
    let entry = Files::new(&bzimage()).load(&memory).unwrap();
    assert_eq!(entry.start, GuestAddress(0x20_0200));
    let mut fixed = bzimage();
    put(&mut fixed, 0x234, &[0]);
    assert_eq!(
        Files::new(&fixed).complaint(&memory),
        "it wants to be at 0x1000000 to 0x1400000, outside of usable RAM (0x100000 to 0x800000); give more memory"
    );
}

#[test]
fn what_is_wrong_with_a_header_is_said() {
    let memory = memory(64);
    for (at, value, complaint) in [
        (
            0x206,
            &[0x0b, 0x02][..],
            "its boot protocol 2.11 is too old; give Linux 3.8 or newer",
        ),
        (
            0x236,
            &[0, 0],
            "it has no 64-bit entry; give a kernel built for x86-64",
        ),
        (
            0x211,
            &[0x80],
            "its loadflags is 0x80, which cannot be; the file is damaged",
        ),
        (
            0x1f1,
            &[9],
            "the kernel lies past the end of the file; the file is cut short or damaged",
        ),
        (
            0x258, &[0xff; 8],
            // Not at its preferred address, but where its alignment allows.
            "",
        ),
        (
            0x260,
            &[0xff; 4],
            "it wants to be at 0x1000000 to 0x100ffffff, outside of usable RAM (0x100000 to 0x4000000); give more memory",
        ),
    ] {
        let mut image = bzimage();
        put(&mut image, at, value);
        let files = Files::new(&image);
        if complaint.is_empty() {
            assert_eq!(files.load(&memory).unwrap().start, GuestAddress(0x20_0200));
        } else {
            assert_eq!(files.complaint(&memory), complaint);
        }
    }
    assert_eq!(
        Files::new(&bzimage()[..0x210]).complaint(&memory),
        "the setup header lies past the end of the file; the file is cut short or damaged"
    );
}

#[test]
fn a_command_line_keeps_to_what_the_kernel_takes() {
    let memory = memory(64);
    let with = |cmdline: &str| Files::new(&bzimage()).cmdline(cmdline);
    with(&"x".repeat(2047)).load(&memory).unwrap();
    assert_eq!(
        with(&"x".repeat(2048)).complaint(&memory),
        "the command line has 2048 bytes, and 2047 are possible; shorten it"
    );
    assert_eq!(
        with("a\0b").complaint(&memory),
        "the command line has a zero byte in it; remove it"
    );
    let mut image = bzimage();
    put(&mut image, 0x238, &[0xff; 4]);
    let files = Files::new(&image).cmdline(&"x".repeat(0x2_0000));
    assert!(files.complaint(&memory).contains("131071 are possible"));
}
