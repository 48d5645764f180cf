use vm_iommu_spec::Access;

use super::disk::*;

/// A read with a header, 1536 bytes of data on three pages and a status, each on a page of its
/// own, of which one page is not what it should be.
fn read_with(page: usize, access: Access) -> (Driver, u8, Vec<(u32, u32)>) {
    let mut driver = Driver::new(MemoryDisk::new(), false);
    let lens = [512, 512, 512, 1];
    let at = driver.machine.send(1, &[&header(IN, 0)], &lens);
    driver.machine.fill(at[4], UNTOUCHED, 1);
    let pages = driver.machine.pages.clone().unwrap();
    pages.allow(driver.machine.bus(at[page]), access);
    driver.machine.kick(1);
    let used = driver.machine.used(1);
    let status = driver.machine.get(at[4], 1)[0];
    let faults = pages.take_faults();
    assert_eq!(faults.len(), 1, "recorded once");
    assert_eq!(faults[0].address.0, driver.machine.bus(at[page]));
    (driver, status, used)
}

#[test]
fn a_fault_fails_the_request_that_met_it() {
    let none = Access::empty();
    for (name, page, access, status, used) in [
        ("header", 0, none, IOERR, 0),
        ("first data", 1, none, IOERR, 0),
        ("read-only data", 1, Access::READ, IOERR, 0),
        ("second data", 2, none, IOERR, 512),
        ("last data", 3, Access::READ, IOERR, 1024),
        ("status", 4, none, UNTOUCHED, 1536),
        ("read-only status", 4, Access::READ, UNTOUCHED, 1536),
    ] {
        let (mut driver, found, lens) = read_with(page, access);
        assert_eq!(found, status, "{name}");
        assert_eq!(lens, [(0, used)], "{name}");
        assert_eq!(driver.machine.status(), 0xf, "{name}");
        let outcome = driver.request(&[&header(IN, 0)], &[512, 1]);
        assert_eq!(outcome.status, OK, "{name}");
    }
}

#[test]
fn a_write_whose_data_faults_leaves_the_disk() {
    let mut driver = Driver::new(MemoryDisk::new(), false);
    let at = driver
        .machine
        .send(0, &[&header(OUT, 0), &[1; 512], &[2; 512]], &[1]);
    let pages = driver.machine.pages.clone().unwrap();
    pages.allow(driver.machine.bus(at[2]), Access::empty());
    driver.machine.kick(0);
    assert_eq!(driver.machine.used(0), [(0, 1)]);
    assert_eq!(driver.machine.get(at[3], 1), [IOERR]);
    assert_eq!(driver.disk.sectors(0, 2), MemoryDisk::new().sectors(0, 2));
}

#[test]
fn a_backend_that_fails_fails_the_request() {
    let mut disk = MemoryDisk::new();
    disk.broken = true;
    let mut driver = Driver::new(disk, false);
    let range = range(0, 1, 0);
    for (head, data, input) in [
        (header(IN, 0), &[][..], 512),
        (header(OUT, 0), &[0; 512], 0),
        (header(FLUSH, 0), &[], 0),
        (header(DISCARD, 0), &range, 0),
        (header(WRITE_ZEROES, 0), &range, 0),
    ] {
        let outcome = driver.request(&[&head, data], &[input, 1]);
        assert_eq!(outcome.status, IOERR);
    }
}

#[test]
fn a_request_on_the_interrupt_range_raises_none() {
    let mut driver = Driver::new(MemoryDisk::new(), false);
    let head = driver.machine.buffer(16);
    driver.machine.put(head, &header(IN, 0));
    let status = driver.machine.buffer(1);
    let part = |address, len, flags, next| vm_iommu_virtio::testing::Descriptor {
        address,
        len,
        flags,
        next,
    };
    let chain = [
        part(driver.machine.bus(head), 16, 1, 1),
        part(0xfee0_0000, 512, 3, 2),
        part(driver.machine.bus(status), 1, 2, 0),
    ];
    driver.machine.push(1, &chain);
    driver.machine.kick(1);
    assert_eq!(driver.machine.get(status, 1), [IOERR]);
    // Only the completion's own.
    let vector = vm_iommu_virtio::testing::Machine::message(2);
    assert_eq!(driver.machine.msi.take(), [vector]);
}
