use vm_iommu_spec::vtd::registers::{FaultStatus, offset};
use vm_iommu_spec::vtd::{FaultReason, FaultRecord};
use vm_iommu_spec::{Access, DmaRequest, Iova, RequesterId};

use super::bench::{Bench, Event, RECORDS};
use crate::vtd::FaultLog;

fn record(page: u64) -> FaultRecord {
    let requester = RequesterId::from_source_id(0, 0x0118);
    let request = DmaRequest::new(requester, Iova(page << 12), Access::WRITE);
    FaultRecord::of_request(&request, FaultReason::WriteDenied)
}

#[test]
fn without_faults_nothing_is_written() {
    let bench = Bench::new();
    let mut unit = bench.start();
    assert_eq!(unit.take_faults(), FaultLog::default());
    assert_eq!(bench.events(), []);
}

#[test]
fn records_are_read_from_the_oldest_around_and_cleared() {
    let bench = Bench::new();
    let mut unit = bench.start();
    // Four registers; the oldest fault is in the last, the next in the first.
    let [low3, high3] = record(3).words();
    let [low0, high0] = record(4).words();
    *bench.records.borrow_mut() = [low0, high0, 0, 0, 0, 0, low3, high3];
    bench.fault_status.set(
        FaultStatus::new()
            .with_pending(true)
            .with_overflow(true)
            .with_record_index(3),
    );
    let log = unit.take_faults();
    assert_eq!(log.records, [record(3), record(4)]);
    assert!(log.overflow);
    let expected = [
        Event::Write(RECORDS + 0x3c, 1 << 31),
        Event::Write(RECORDS + 0x0c, 1 << 31),
        Event::Write(offset::FSTS, 1),
    ];
    assert_eq!(bench.events(), expected);
}

#[test]
fn a_unit_that_faults_without_end_is_read_once_around() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let [low, high] = record(1).words();
    *bench.records.borrow_mut() = [low, high, low, high, low, high, low, high];
    bench
        .fault_status
        .set(FaultStatus::new().with_pending(true).with_record_index(200));
    assert_eq!(unit.take_faults().records.len(), 4);
}
