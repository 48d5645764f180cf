use super::*;

fn copy_region(path: &Path, queue: u64) {
    let mut file = File::options().write(true).open(path).unwrap();
    let mut bytes = vec![0; REGION as usize];
    content(queue * REGION, &mut bytes);
    file.seek(SeekFrom::Start(WRITE_BASE + queue * REGION))
        .unwrap();
    file.write_all(&bytes).unwrap();
}

#[test]
fn verify_wants_exactly_the_copied_regions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    create(&path).unwrap();
    verify(&path, 0).unwrap();
    let error = verify(&path, 1).unwrap_err().to_string();
    assert!(
        error.contains("0x2000000") && error.contains("queue 0"),
        "{error}"
    );
    copy_region(&path, 0);
    verify(&path, 1).unwrap();
    let error = verify(&path, 0).unwrap_err().to_string();
    assert!(error.contains("no queue"), "{error}");
}

#[test]
fn verify_sees_one_flipped_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    create(&path).unwrap();
    let mut byte = [0];
    content(0x12_3450, &mut byte);
    let mut file = File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(0x12_3450)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    let error = verify(&path, 0).unwrap_err().to_string();
    assert!(error.contains("0x123450"), "{error}");
}

#[test]
fn content_does_not_depend_on_how_it_is_cut() {
    let mut whole = [0; 64];
    content(4096, &mut whole);
    let mut part = [0; 16];
    content(4096 + 24, &mut part);
    assert_eq!(whole[24..40], part);
}

#[test]
fn the_hash_is_of_the_content() {
    // SHA-256 of the first 8 bytes, computed with the content function as the reference.
    let mut bytes = [0; 8];
    content(0, &mut bytes);
    assert_eq!(u64::from_le_bytes(bytes), 0xe220_a839_7b1d_cdaf);
    assert_eq!(hash(0, 8).len(), 64);
    assert_ne!(hash(0, 8), hash(8, 8));
}
