use std::fs::File;
use std::io::Write;

use crate::Errno;
use crate::server::area::{Area, FileId};
use crate::server::maps::Maps;

fn own() -> Maps {
    Maps::new(File::open("/proc/self/maps").unwrap())
}

/// Maps that are a text, which the kernel answers no question about.
fn of_text(text: &str) -> Maps {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Maps::new(file)
}

const TEXT: &str = "\
1000-3000 r-xp 00000000 fe:00 17 /bin/true
3000-4000 rw-s 00002000 00:01 99 /memfd:x (deleted)
4000-5000 ---p 00000000 00:00 0
6000-7000 rw-p 00000000 00:00 0 [heap]
";

#[test]
fn a_line_tells_an_area() {
    let area = Area::parse("7f00-7f10 rw-s 00003000 00:1a 77 /memfd:a b (deleted)").unwrap();
    assert_eq!(
        area,
        Area {
            start: 0x7f00,
            end: 0x7f10,
            read: true,
            write: true,
            shared: Some(FileId {
                device: rustix::fs::makedev(0, 0x1a),
                inode: 77,
            }),
            offset: 0x3000,
        }
    );
    assert_eq!(Area::parse("1-2 r--p 0 fe:00 5 /x").unwrap().shared, None);
    for line in [
        "",
        "1-2",
        "1-2 rwxp 0 0:0",
        "g-2 rwxp 0 0:0 0",
        "1 rwxp 0 0:0 0",
    ] {
        assert_eq!(Area::parse(line), None, "{line}");
    }
}

#[test]
fn a_range_has_areas_only_without_a_gap() {
    let maps = of_text(TEXT);
    let starts = |start, end| -> Result<Vec<u64>, Errno> {
        Ok(maps
            .areas(start, end)?
            .iter()
            .map(|area| area.start)
            .collect())
    };
    assert_eq!(starts(0x1800, 0x4800), Ok(vec![0x1000, 0x3000, 0x4000]));
    assert_eq!(starts(0x3000, 0x4000), Ok(vec![0x3000]));
    assert_eq!(starts(0x4800, 0x5001), Err(Errno::EFAULT));
    assert_eq!(starts(0x5000, 0x6800), Err(Errno::EFAULT));
    assert_eq!(starts(0x6800, 0x7001), Err(Errno::EFAULT));
    assert_eq!(starts(0, 0x1001), Err(Errno::EFAULT));
}

#[test]
fn what_is_no_text_of_areas_is_a_fault() {
    assert_eq!(of_text("what\n").areas(1, 2).unwrap_err(), Errno::EFAULT);
    assert_eq!(of_text("").areas(1, 2).unwrap_err(), Errno::EFAULT);
    let long = "x".repeat(100_000);
    assert_eq!(of_text(&long).areas(1, 2).unwrap_err(), Errno::ENOMEM);
}

#[test]
fn shared_files_are_found() {
    let file = FileId {
        device: rustix::fs::makedev(0, 1),
        inode: 99,
    };
    assert_eq!(of_text(TEXT).shared_files(), [file]);
}

#[test]
fn this_process_is_told_the_same_by_the_text_and_by_the_kernels_answer() {
    let value = Box::new([0u8; 16]);
    let address = value.as_ptr().expose_provenance() as u64;
    let answered = own().areas(address, address + 16).unwrap();
    let text = std::fs::read_to_string("/proc/self/maps").unwrap();
    let read = of_text(&text).areas(address, address + 16).unwrap();
    assert_eq!(answered.len(), 1);
    // The heap may have grown between the two.
    assert_eq!(answered[0].start, read[0].start);
    assert!(answered[0].write && read[0].write);
    assert_eq!(own().areas(0, 4096).unwrap_err(), Errno::EFAULT);
}
