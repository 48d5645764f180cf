use alloc::vec::Vec;

use vm_iommu_spec::amd::registers::{Status, offset};
use vm_iommu_spec::amd::{EventCode, EventEntry};

use super::bench::{Bench, Event};
use crate::amdvi::{Events, Setup};

fn entry(address: u64) -> EventEntry {
    EventEntry::new()
        .with_code(EventCode::IoPageFault as u8)
        .with_device(8)
        .with_address(address)
}

#[test]
fn events_are_taken_in_order_and_around_the_end_of_the_log() {
    let bench = Bench::new();
    let setup = Setup {
        event_length: 8,
        ..Bench::SETUP
    };
    let mut unit = bench.start_with(&setup).unwrap();
    assert_eq!(unit.take_events(), Ok(Events::default()));
    for round in 0..3 {
        let logged: Vec<EventEntry> = (0..200).map(|n| entry(round * 1000 + n)).collect();
        for entry in &logged {
            bench.log(*entry);
        }
        let events = unit.take_events().unwrap();
        assert_eq!(events.entries, logged);
        assert!(!events.overflow);
        let head = Event::Write(offset::EVENT_HEAD, bench.event_tail.get().into());
        assert_eq!(bench.events().last(), Some(&head));
    }
}

#[test]
fn the_announcement_of_an_event_is_cleared_before_the_log_is_read() {
    let bench = Bench::new();
    let mut unit = bench.start();
    bench.log(entry(0x1000));
    bench.status.set(Status::EVENT_INTERRUPT);
    assert_eq!(unit.take_events().unwrap().entries.len(), 1);
    let expected = [
        Event::Write(offset::STATUS, 2),
        Event::Write(offset::EVENT_HEAD, 0x10),
    ];
    assert_eq!(bench.events(), expected);
    assert_eq!(bench.status.get(), Status::empty());
}

#[test]
fn a_log_that_overflowed_is_started_again() {
    let bench = Bench::new();
    let mut unit = bench.start();
    bench.log(entry(0x1000));
    bench.status.set(Status::EVENT_OVERFLOW);
    let events = unit.take_events().unwrap();
    assert!(events.overflow);
    assert_eq!(events.entries, [entry(0x1000)]);
    assert!(bench.control.get().event_log());
    assert_eq!(bench.event_tail.get(), 0);
    bench.log(entry(0x2000));
    let events = unit.take_events().unwrap();
    assert!(!events.overflow);
    assert_eq!(events.entries, [entry(0x2000)]);
}
