use std::io::Cursor;

use super::images::*;
use crate::loader::elf::{self, Class, Elf, Segment};

#[test]
fn both_classes_say_the_same_about_the_same_segments() {
    let segments = [
        (1, 0x1000, 0xc020_0000, 0x20_0000, 0x10, 0x2000),
        (6, 0x40, 0, 0, 0x40, 0x40),
        (1, 0x1010, 0xc030_0000, 0x30_0000, 0, 0),
    ];
    let expected = Elf {
        entry: 0xc020_0004,
        segments: vec![Segment {
            offset: 0x1000,
            virt: 0xc020_0000,
            phys: 0x20_0000,
            file_size: 0x10,
            memory_size: 0x2000,
        }],
    };
    let content = [0; 0x10];
    for (image, class) in [
        (elf32(0xc020_0004, &segments, &content), Class::Elf32),
        (elf64(0xc020_0004, &segments, &content), Class::Elf64),
    ] {
        let elf = elf::read(&mut Cursor::new(image), class).unwrap();
        assert_eq!(elf, expected);
        assert_eq!(elf.physical_entry(), 0x20_0004);
    }
}

#[test]
fn an_entry_outside_of_every_segment_is_taken_as_physical() {
    let image = elf32(0x1234, &[(1, 0x1000, 0x20_0000, 0x20_0000, 4, 4)], &[0; 4]);
    let elf = elf::read(&mut Cursor::new(image), Class::Elf32).unwrap();
    assert_eq!(elf.physical_entry(), 0x1234);
}

#[test]
fn program_headers_of_another_size_are_refused() {
    let mut image = elf64(0, &[(1, 0x1000, 0, 0x20_0000, 0, 4)], &[]);
    put(&mut image, 54, &[57]);
    let error = elf::read(&mut Cursor::new(image), Class::Elf64).unwrap_err();
    assert_eq!(
        error.to_string(),
        "its e_phentsize is 0x39, which cannot be; the file is damaged"
    );
}
