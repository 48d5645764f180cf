use std::fs;
use std::path::Path;

use super::super::{BlockBackend, MAX_QUEUES, OpenError, RawFile, VirtioBlk};
use super::disk::MemoryDisk;

fn image(dir: &Path, len: usize) -> std::path::PathBuf {
    let path = dir.join("disk.img");
    fs::write(&path, vec![0xab; len]).unwrap();
    path
}

#[test]
fn an_image_is_a_disk_of_its_whole_sectors() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 512 * 9 + 17);
    let disk = VirtioBlk::open(&path, false, 4).unwrap();
    assert_eq!(disk.sectors(), 9);
}

#[test]
fn what_is_no_disk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = VirtioBlk::open(&dir.path().join("none"), false, 1);
    assert!(matches!(missing, Err(OpenError::Open { .. })));
    let folder = VirtioBlk::open(dir.path(), true, 1);
    assert!(matches!(folder, Err(OpenError::Kind { .. })));
    let path = image(dir.path(), 511);
    let empty = VirtioBlk::open(&path, false, 1);
    assert!(matches!(empty, Err(OpenError::Empty { len: 511 })));
    for queues in [0, MAX_QUEUES + 1] {
        let disk = VirtioBlk::new(Box::new(MemoryDisk::new()), false, queues, "");
        assert!(matches!(disk, Err(OpenError::Queues { .. })));
    }
}

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), 4096);
    let in_use = |opened| matches!(opened, Err(OpenError::InUse { .. }));
    let reader = RawFile::open(&path, true).unwrap();
    let other = RawFile::open(&path, true).unwrap();
    assert!(in_use(RawFile::open(&path, false)));
    drop((reader, other));
    let writer = RawFile::open(&path, false).unwrap();
    assert!(in_use(RawFile::open(&path, false)));
    assert!(in_use(RawFile::open(&path, true)));
    drop(writer);
    assert!(RawFile::open(&path, true).is_ok());
}

#[test]
fn a_raw_file_does_what_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let len = 1 << 20;
    let path = image(dir.path(), len);
    let file = RawFile::open(&path, false).unwrap();
    assert_eq!(file.len(), len as u64);
    file.write_at(4096, &[1; 512]).unwrap();
    file.flush().unwrap();
    let mut data = [0; 1024];
    file.read_at(4096, &mut data).unwrap();
    assert_eq!(data[..512], [1; 512]);
    assert_eq!(data[512..], [0xab; 512]);
    for (offset, unmap) in [(8192, false), (200 * 1024 + 512, true)] {
        let size = 100 * 1024;
        file.write_zeroes(offset, size, unmap).unwrap();
        let all = fs::read(&path).unwrap();
        let (from, to) = (offset as usize, (offset + size) as usize);
        assert!(all[from..to].iter().all(|&byte| byte == 0));
        assert_eq!((all[from - 1], all[to]), (0xab, 0xab));
    }
    file.discard(512 * 1024, 64 * 1024).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), len as u64);
    assert!(file.read_at(len as u64 - 512, &mut data).is_err());

    let read_only = {
        drop(file);
        RawFile::open(&path, true).unwrap()
    };
    assert!(read_only.write_at(0, &[0; 512]).is_err());
}
