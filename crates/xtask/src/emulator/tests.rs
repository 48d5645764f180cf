use super::*;

#[test]
fn the_major_version_is_read() {
    let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c) …\n";
    assert_eq!(parse_major(debian), Some(7));
    assert_eq!(parse_major("QEMU emulator version 10.0.2\n"), Some(10));
    assert_eq!(parse_major("no such thing"), None);
}
