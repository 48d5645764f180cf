use super::*;

#[test]
fn headers_names_and_data_are_padded_to_four_bytes() {
    let mut archive = Archive::new(Vec::new());
    archive.file("/a", 0o755, b"12345").unwrap();
    let bytes = archive.finish().unwrap();
    // 110 bytes of header, "a\0" is 112; 5 bytes of data take 8.
    assert_eq!(&bytes[..6], b"070701");
    assert_eq!(&bytes[110..112], b"a\0");
    assert_eq!(&bytes[112..120], b"12345\0\0\0");
    assert_eq!(&bytes[120..126], b"070701");
    assert_eq!(bytes.len() % 4, 0);
}

#[test]
fn parents_come_once_and_first() {
    let mut archive = Archive::new(Vec::new());
    archive.file("x/y/one", 0o644, b"").unwrap();
    archive.file("x/y/two", 0o644, b"").unwrap();
    archive.directory("x/y").unwrap();
    let text = String::from_utf8(archive.finish().unwrap()).unwrap();
    let names: Vec<&str> = text
        .split("070701")
        .skip(1)
        .map(|e| e[104..].split('\0').next().unwrap())
        .collect();
    assert_eq!(names, ["x", "x/y", "x/y/one", "x/y/two", "TRAILER!!!"]);
}

#[test]
fn equal_input_gives_equal_bytes() {
    let build = || {
        let mut archive = Archive::new(Vec::new());
        archive.symlink("bin/sh", "busybox").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.finish().unwrap()
    };
    assert_eq!(build(), build());
}
