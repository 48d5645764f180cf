use super::series::{find, known_good, names, newest};
use super::*;

#[test]
fn every_series_has_a_known_good_version_with_a_whole_hash() {
    for name in names() {
        let series = find(name).unwrap();
        let known = known_good(name);
        assert_eq!(known.len(), series.packages.len(), "{name}");
        for (package, prefix) in known.iter().zip(series.packages) {
            assert_eq!(package.sha256.len(), 64, "{}", package.path);
            assert!(package.path.starts_with("pool/"), "{}", package.path);
            let file = package.path.rsplit('/').next().unwrap();
            assert!(file.starts_with(prefix), "{file}");
            assert!(package.size > 1 << 16);
        }
    }
}

#[test]
fn the_newest_is_by_number_and_of_the_plain_flavour() {
    let names = [
        "linux-image-6.1.0-9-amd64",
        "linux-image-6.1.0-47-amd64",
        "linux-image-6.1.0-50-cloud-amd64",
        "linux-image-6.1.0-50-rt-amd64",
        "linux-image-6.1.0-51-amd64-unsigned",
        "linux-image-6.1-amd64",
        "linux-image-6.12.90-amd64",
    ];
    let series = find("6.1").unwrap();
    assert_eq!(newest(series, &names), Some("6.1.0-47-amd64"));
    let series = find("6.12").unwrap();
    assert_eq!(newest(series, &names), Some("6.12.90-amd64"));
}

#[test]
fn a_kernel_without_its_modules_package_is_passed_over() {
    let names = [
        "linux-binary-7.3.4+deb13-amd64",
        "linux-binary-7.2.11+deb13-amd64",
        "linux-modules-7.2.11+deb13-amd64",
        "linux-modules-7.2.9+deb13-amd64",
        "linux-binary-7.2.9+deb13-amd64",
        "linux-base-7.2.9+deb13-amd64",
        "linux-base-7.2.11+deb13-amd64",
        "linux-base-7.3.4+deb13-amd64",
    ];
    let series = find("7").unwrap();
    assert_eq!(newest(series, &names), Some("7.2.11+deb13-amd64"));
}

#[test]
fn the_mirror_is_the_main_archive() {
    let targets = "http://m.example/debian-security/ bookworm-security main\n\
                   http://other.example/node/ nodistro main\n\
                   http://m.example/debian/ bookworm-updates main\n\
                   http://m.example/debian/ bookworm main\n";
    let mirror = apt::pick_mirror(targets);
    assert_eq!(mirror.as_deref(), Some("http://m.example/debian"));
    assert_eq!(
        apt::pick_mirror("http://u.example/ubuntu/ noble main\n"),
        None
    );
}

#[test]
fn a_print_uris_line_is_read() {
    let line = "'http://m.example/debian/pool/a_1.deb' a_1.deb 123 SHA256:abcd";
    let source = apt::parse_print_uris(line).unwrap();
    assert_eq!(source.uri, "http://m.example/debian/pool/a_1.deb");
    assert_eq!((source.size, source.sha256.as_str()), (123, "abcd"));
    assert!(apt::parse_print_uris("Reading package lists...").is_none());
    assert!(apt::parse_print_uris("'u' f 1 MD5Sum:00").is_none());
}

#[test]
fn a_bzimage_tells_its_release() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmlinuz");
    let mut image = vec![0; 0x500];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    image[0x300..0x312].copy_from_slice(b"6.1.0-50-amd64 (x)");
    std::fs::write(&path, &image).unwrap();
    assert_eq!(bzimage_release(&path).unwrap(), "6.1.0-50-amd64");
    std::fs::write(&path, b"ELF").unwrap();
    let error = bzimage_release(&path).unwrap_err().to_string();
    assert!(error.contains("not a bzImage"), "{error}");
}

#[test]
fn a_choice_is_a_series_or_a_file() {
    assert_eq!("7".parse(), Ok(Choice::Series("7")));
    assert!(matches!("/bin/sh".parse(), Ok(Choice::File(_))));
    let error = "5.4".parse::<Choice>().unwrap_err();
    assert!(error.contains("6.1, 6.12, 7"), "{error}");
}

#[test]
fn apts_reason_is_quoted() {
    let text =
        "Ign:1 http://m.example/a.deb\nErr:1 http://m.example/a.deb\n  404  Not Found [IP: ::1]\n";
    assert_eq!(apt::reason(text), Some("404  Not Found"));
    assert_eq!(apt::reason("Get:1 fine\n"), None);
}

#[test]
fn the_source_has_a_known_good_version_with_a_whole_hash() {
    let [package] = known_good("source") else {
        panic!("one package holds the source");
    };
    assert_eq!(package.sha256.len(), 64);
    assert_eq!(
        source::version_of(&package.path),
        Some("7.3.4-1~bpo13+1"),
        "{}",
        package.path
    );
}

#[test]
fn the_newest_source_is_by_number_and_of_the_known_major_version() {
    let names = [
        "linux-source",
        "linux-source-6.12",
        "linux-source-7.9",
        "linux-source-7.10",
        "linux-source-7.10-dbg",
        "linux-source-8.0",
    ];
    assert_eq!(source::newest_package(&names), Some("linux-source-7.10"));
    assert_eq!(source::newest_package(&names[..2]), None);
}

#[test]
fn a_version_that_could_leave_the_cache_is_none() {
    assert_eq!(
        source::version_of("linux-source-7.3_7.3.4-1_all.deb"),
        Some("7.3.4-1")
    );
    assert_eq!(source::version_of("a_7.3\\..\\x_all.deb"), None);
    assert_eq!(source::version_of("a_6.1_all.deb"), None);
    assert_eq!(source::version_of("nothing"), None);
}
