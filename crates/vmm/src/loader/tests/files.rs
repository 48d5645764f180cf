use std::io::Cursor;

use super::images::*;
use crate::loader::Format;

#[test]
fn a_format_is_seen_from_the_content() {
    let of = |image: Vec<u8>| Format::detect(&mut Cursor::new(image)).map_err(|e| e.to_string());
    assert_eq!(of(bzimage()), Ok(Format::BzImage));
    assert_eq!(of(pvh()), Ok(Format::PvhElf));
    assert_eq!(of(multiboot()), Ok(Format::Multiboot));
    let mut flat = multiboot_header(1 << 16, &[0; 5]);
    assert_eq!(of(flat.clone()), Ok(Format::Multiboot));
    flat.splice(0..0, [0; 8192 - 32]);
    assert_eq!(of(flat.clone()), Ok(Format::Multiboot));
    flat.splice(0..0, [0; 4]);
    let unknown = "this is no kernel that can be booted; give a bzImage, an x86-64 ELF with a PVH note, or a multiboot image";
    let mut arm = pvh();
    put(&mut arm, 18, &[183]);
    for (image, complaint) in [
        (flat, unknown),
        (vec![], unknown),
        (b"#!/bin/sh\n".to_vec(), unknown),
        // A header without addresses says nothing about where a flat file goes.
        (multiboot_header(0, &[]), unknown),
        (
            b"\x1f\x8b\x08".to_vec(),
            "this file is compressed with gzip; decompress it first",
        ),
        (
            b"\x28\xb5\x2f\xfd".to_vec(),
            "this file is compressed with zstd; decompress it first",
        ),
        (
            arm,
            "this ELF is for machine type 183, not for x86; give a kernel built for x86",
        ),
        (
            b"\x7fELF".to_vec(),
            "the ELF header lies past the end of the file; the file is cut short or damaged",
        ),
        (
            elf32(0, &[], &[]),
            "this 32-bit ELF has no multiboot header in its first 8 KiB; give a multiboot image",
        ),
    ] {
        assert_eq!(of(image), Err(complaint.to_owned()));
    }
}

#[test]
fn trouble_with_a_file_names_it_and_says_what_to_do() {
    let memory = memory(64);
    let mut files = Files::new(&bzimage()).module(b"x", "");
    files.config.initrds[0].path = files.path("absent");
    let error = files.load(&memory).unwrap_err().to_string();
    let absent = files.path("absent");
    assert_eq!(
        error,
        format!("initrd {}: no such file; check the path", absent.display())
    );
    files.config.initrds[0].path = files.path("");
    let error = files.load(&memory).unwrap_err().to_string();
    assert!(
        error.ends_with("this is a directory; name a file in it"),
        "{error}"
    );
    files.config.initrds[0].path = "/dev/null".into();
    let error = files.load(&memory).unwrap_err().to_string();
    assert_eq!(
        error,
        "initrd /dev/null: this is no regular file; copy its content to one"
    );

    files.config.path = files.path("absent");
    let error = files.load(&memory).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("kernel {}: no such file; check the path", absent.display())
    );
    files.config.path = files.path("");
    let error = files.load(&memory).unwrap_err().to_string();
    assert!(
        error.ends_with("this is a directory; name a file in it"),
        "{error}"
    );
}
