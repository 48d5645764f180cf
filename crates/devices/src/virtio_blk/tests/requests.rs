use super::disk::*;
use crate::virtio_blk::{MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS, VirtioBlk};
use vm_iommu_virtio::Features;
use vm_iommu_virtio::testing::{Descriptor, Machine};

fn driver() -> Driver {
    Driver::new(MemoryDisk::new(), false)
}

#[test]
fn a_read_fills_the_buffers_and_the_status() {
    let mut driver = driver();
    let outcome = driver.request(&[&header(IN, 3)], &[512, 1024, 1]);
    let expected = Outcome {
        status: OK,
        used: 1537,
        data: driver.disk.sectors(3, 3),
    };
    assert_eq!(outcome, expected);
}

#[test]
fn framing_is_the_drivers_choice() {
    let mut driver = driver();
    let head = header(IN, 5);
    let outcome = driver.request(&[&head[..3], &head[3..]], &[100, 413]);
    assert_eq!((outcome.status, outcome.used), (OK, 513));
    assert_eq!(outcome.data, driver.disk.sectors(5, 1));

    let data = [0xa5; 512];
    let mut all = header(OUT, 6).to_vec();
    all.extend(data);
    assert_eq!(driver.request(&[&all], &[1]).status, OK);
    assert_eq!(driver.disk.sectors(6, 1), data);
}

#[test]
fn a_large_transfer_passes_the_bounce_buffer_in_parts() {
    let mut driver = driver();
    let lens = [64 * 1024; 12];
    let outcome = driver.request(&[&header(IN, 10)], &[&lens[..], &[1]].concat());
    assert_eq!(outcome.status, OK);
    assert_eq!(outcome.data, driver.disk.sectors(10, 12 * 128));
}

#[test]
fn a_write_reaches_the_disk() {
    let mut driver = driver();
    let (one, two) = ([1; 512], [2; 1024]);
    let outcome = driver.request(&[&header(OUT, 2045), &one, &two], &[1]);
    assert_eq!((outcome.status, outcome.used), (OK, 1));
    assert_eq!(driver.disk.sectors(2045, 1), one);
    assert_eq!(driver.disk.sectors(2046, 2), two);
    assert_eq!(driver.disk.take_calls(), []);
}

#[test]
fn other_requests_do_what_they_say() {
    let mut driver = driver();
    assert_eq!(driver.request(&[&header(FLUSH, 0)], &[1]).status, OK);
    assert_eq!(driver.disk.take_calls(), [Call::Flush]);

    let outcome = driver.request(&[&header(GET_ID, 0)], &[20, 1]);
    assert_eq!((outcome.status, outcome.used), (OK, 21));
    assert_eq!(outcome.data, b"a serial\0\0\0\0\0\0\0\0\0\0\0\0");
    let outcome = driver.request(&[&header(GET_ID, 0)], &[4, 1]);
    assert_eq!(
        (outcome.status, outcome.data.as_slice()),
        (OK, &b"a se"[..])
    );

    let ranges = [range(8, 16, 0), range(64, 0, 0), range(100, 1, 0)].concat();
    assert_eq!(
        driver.request(&[&header(DISCARD, 0), &ranges], &[1]).status,
        OK
    );
    assert_eq!(
        driver.disk.take_calls(),
        [Call::Discard(4096, 8192), Call::Discard(51200, 512)]
    );

    for (flags, unmap) in [(0, false), (1, true)] {
        let range = range(1, 2, flags);
        let outcome = driver.request(&[&header(WRITE_ZEROES, 0), &range], &[1]);
        assert_eq!(outcome.status, OK);
        assert_eq!(driver.disk.take_calls(), [Call::Zero(512, 1024, unmap)]);
    }
}

#[test]
fn what_cannot_be_done_is_refused_and_touches_nothing() {
    let data = [0xff; 1024];
    let flags = |flags| range(0, 8, flags);
    let long = range(0, MAX_DISCARD_SECTORS + 1, 0);
    let many = [range(0, 1, 0); 33].concat();
    let two = [range(0, 1, 0); 2].concat();
    let second_bad = [range(0, 1, 0), range(SECTORS, 1, 0)].concat();
    let h = header;
    type Row<'a> = (&'a str, [u8; 16], &'a [u8], u32, u8);
    let rows: &[Row<'_>] = &[
        ("unknown type", h(99, 0), &[], 0, UNSUPP),
        ("SCSI command", h(2, 0), &[], 0, UNSUPP),
        ("secure erase", h(14, 0), &flags(0), 0, UNSUPP),
        ("read past the end", h(IN, SECTORS - 1), &[], 1024, IOERR),
        ("read at the end", h(IN, SECTORS), &[], 512, IOERR),
        ("read that overflows", h(IN, u64::MAX), &[], 512, IOERR),
        ("read whose bytes overflow", h(IN, 1 << 55), &[], 512, IOERR),
        ("read of nothing", h(IN, 0), &[], 0, IOERR),
        ("read of half a sector", h(IN, 0), &[], 256, IOERR),
        ("read with data to write", h(IN, 0), &data, 512, IOERR),
        ("write past the end", h(OUT, SECTORS - 1), &data, 0, IOERR),
        ("write of nothing", h(OUT, 0), &[], 0, IOERR),
        (
            "write of a ragged length",
            h(OUT, 0),
            &data[..700],
            0,
            IOERR,
        ),
        ("write with a buffer to read", h(OUT, 0), &data, 512, IOERR),
        ("discard of nothing", h(DISCARD, 0), &[], 0, IOERR),
        ("ragged discard", h(DISCARD, 0), &data[..24], 0, IOERR),
        ("discard with unmap", h(DISCARD, 0), &flags(1), 0, UNSUPP),
        (
            "discard past the end",
            h(DISCARD, 0),
            &range(SECTORS, 1, 0),
            0,
            IOERR,
        ),
        ("too long a discard", h(DISCARD, 0), &long, 0, IOERR),
        ("too many ranges", h(DISCARD, 0), &many, 0, IOERR),
        ("one bad range", h(DISCARD, 0), &second_bad, 0, IOERR),
        ("zeroes in two ranges", h(WRITE_ZEROES, 0), &two, 0, IOERR),
        (
            "zeroes, unknown flag",
            h(WRITE_ZEROES, 0),
            &flags(2),
            0,
            UNSUPP,
        ),
        (
            "zeroes, overflow",
            h(WRITE_ZEROES, 0),
            &range(u64::MAX, 1, 0),
            0,
            IOERR,
        ),
    ];
    for &(name, ref head, output, input, status) in rows {
        let mut driver = driver();
        let outcome = driver.request(&[head, output], &[input, 1]);
        assert_eq!(outcome.status, status, "{name}");
        // With data left unwritten, the length says that nothing was.
        assert_eq!(outcome.used, u32::from(input == 0), "{name}");
        assert_eq!(outcome.data, vec![UNTOUCHED; input as usize], "{name}");
        let fresh = MemoryDisk::new();
        assert!(
            driver.disk.sectors(0, SECTORS) == fresh.sectors(0, SECTORS),
            "{name}"
        );
        assert_eq!(driver.disk.take_calls(), [], "{name}");
    }
}

#[test]
fn more_sectors_than_offered_are_not_zeroed() {
    let disk = MemoryDisk::new();
    *disk.bytes.lock().unwrap() = vec![0; 64 << 20];
    let mut driver = Driver::new(disk, false);
    for (sectors, status) in [
        (MAX_WRITE_ZEROES_SECTORS, OK),
        (MAX_WRITE_ZEROES_SECTORS + 1, IOERR),
    ] {
        let range = range(0, sectors, 0);
        let outcome = driver.request(&[&header(WRITE_ZEROES, 0), &range], &[1]);
        assert_eq!(outcome.status, status);
    }
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut driver = Driver::new(MemoryDisk::new(), true);
    let range = range(0, 8, 0);
    for (head, data) in [
        (header(OUT, 0), &[0xff; 512][..]),
        (header(DISCARD, 0), &range),
        (header(WRITE_ZEROES, 0), &range),
    ] {
        assert_eq!(driver.request(&[&head, data], &[1]).status, IOERR);
    }
    let outcome = driver.request(&[&header(FLUSH, 0)], &[1]);
    assert_eq!(outcome.status, UNSUPP, "not offered");
    assert_eq!(driver.disk.take_calls(), []);
    let fresh = MemoryDisk::new();
    assert!(driver.disk.sectors(0, SECTORS) == fresh.sectors(0, SECTORS));
    assert_eq!(driver.request(&[&header(IN, 0)], &[512, 1]).status, OK);
}

#[test]
fn a_malformed_request_fails_alone() {
    let head = header(IN, 0);
    for (name, readable, writable, status, used) in [
        ("no status", &[&head[..]][..], &[][..], UNTOUCHED, 0),
        ("empty status", &[&head[..]], &[0], UNTOUCHED, 0),
        ("no header", &[], &[512, 1], IOERR, 0),
        ("a write-only header", &[], &[16, 512, 1], IOERR, 0),
        ("a short header", &[&head[..15]], &[512, 1], IOERR, 0),
        ("an empty header", &[&[]], &[512, 1], IOERR, 0),
        ("a status alone", &[], &[1], IOERR, 1),
    ] {
        let mut driver = driver();
        let outcome = driver.request(readable, writable);
        assert_eq!((outcome.status, outcome.used), (status, used), "{name}");
        let outcome = driver.request(&[&header(IN, 0)], &[512, 1]);
        assert_eq!(outcome.status, OK, "{name}");
    }
}

#[test]
fn more_data_than_offered_is_refused() {
    let mut driver = driver();
    let head = driver.machine.buffer(16);
    driver.machine.put(head, &header(IN, 0));
    let status = driver.machine.buffer(1);
    let data = driver.machine.buffer(4096);
    let (head, status_bus) = (driver.machine.bus(head), driver.machine.bus(status));
    let data = driver.machine.bus(data);
    let part = |address, len, flags, next| Descriptor {
        address,
        len,
        flags,
        next,
    };
    driver.machine.push(
        1,
        &[
            part(head, 16, Descriptor::NEXT, 1),
            part(data, 1 << 30, Descriptor::NEXT | Descriptor::WRITE, 2),
            part(status_bus, 1, Descriptor::WRITE, 0),
        ],
    );
    driver.machine.kick(1);
    assert_eq!(driver.machine.used(1), [(0, 0)]);
    assert_eq!(driver.machine.get(status, 1), [IOERR]);
}

#[test]
fn a_driver_that_cannot_flush_gets_writes_that_last() {
    for (features, calls) in [
        (Features::empty(), vec![Call::Flush]),
        (Features::bit(9), vec![]),
        (Features::bit(11), vec![]),
    ] {
        let disk = MemoryDisk::new();
        let device = VirtioBlk::new(Box::new(disk.clone()), false, 2, "").unwrap();
        let mut machine = Machine::new(device, true);
        machine.start(features);
        let mut driver = Driver { machine, disk };
        driver.request(&[&header(OUT, 0), &[0; 512]], &[1]);
        assert_eq!(driver.disk.take_calls(), calls, "{features:?}");
    }
    // The mode is the driver's to set, and returns with a reset.
    let mut driver = driver();
    assert_eq!(driver.machine.read(0x2020, 1), 1);
    driver.machine.write(0x2020, 1, 0);
    driver.request(&[&header(OUT, 0), &[0; 512]], &[1]);
    assert_eq!(driver.disk.take_calls(), [Call::Flush]);
    driver.machine.write(20, 1, 0);
    assert_eq!(driver.machine.read(0x2020, 1), 1);
}

#[test]
fn the_configuration_describes_the_disk() {
    let driver = driver();
    for (offset, len, expected) in [
        (0, 8, SECTORS),
        (0, 4, SECTORS),
        (4, 4, 0),
        (8, 4, 65536),
        (12, 4, 254),
        (20, 4, 512),
        (24, 1, 3),
        (25, 1, 0),
        (26, 2, 8),
        (34, 2, 2),
        (36, 4, 1 << 21),
        (40, 4, 32),
        (44, 4, 8),
        (48, 4, 1 << 16),
        (52, 4, 1),
        (56, 1, 1),
        (60, 4, 0),
    ] {
        assert_eq!(
            driver.machine.read(0x2000 + offset, len),
            expected,
            "{offset}"
        );
    }
    driver.machine.write(0x2000, 8, 1);
    assert_eq!(driver.machine.read(0x2000, 8), SECTORS);
    let bits = [1, 2, 6, 9, 10, 11, 12, 13, 14];
    let own: Features = bits.map(Features::bit).into_iter().collect();
    assert!(driver.machine.offered().contains(own));
    assert!(!driver.machine.offered().contains(Features::bit(5)));
    let read_only = Driver::new(MemoryDisk::new(), true);
    assert!(read_only.machine.offered().contains(Features::bit(5)));
    for bit in [9, 11, 13, 14] {
        assert!(!read_only.machine.offered().contains(Features::bit(bit)));
    }
}
