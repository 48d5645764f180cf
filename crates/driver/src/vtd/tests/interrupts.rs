use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::{InterruptRequest, Irte};
use vm_iommu_spec::{DeliveryMode, Interrupt, PhysAddr, RequesterId};

use super::bench::Bench;
use crate::vtd::{Error, Feature, InterruptIndex, InterruptSource, Setup};

const DEVICE: RequesterId = RequesterId::from_source_id(0, 0x0118);
const TABLE: u64 = Bench::MEMORY + 0x3000;

fn interrupt(vector: u8) -> Interrupt {
    Interrupt {
        destination: 3,
        delivery_mode: DeliveryMode::LowestPriority,
        vector,
        ..Interrupt::default()
    }
}

fn irte(bench: &Bench, index: InterruptIndex) -> Irte {
    let at = TABLE + u64::from(index.0) * 16;
    let word = |at| bench.memory.load(PhysAddr(at)).unwrap();
    Irte::from_words(word(at), word(at + 8))
}

#[test]
fn a_message_names_its_entry() {
    for index in [0, 1, 0x7fff, 0x8000, 0xffff] {
        let message = InterruptIndex(index).message();
        let request = InterruptRequest::decode(message);
        let index = u32::from(index);
        assert_eq!(request, Ok(InterruptRequest::Remappable { index }));
        assert_eq!(message.address >> 20, 0xfee);
    }
}

#[test]
fn an_entry_says_what_was_asked_for() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let index = unit.allocate_interrupt().unwrap();
    assert!(!irte(&bench, index).present());
    let source = InterruptSource::Requester(DEVICE);
    unit.set_interrupt(index, interrupt(0x41), source).unwrap();
    let entry = irte(&bench, index);
    assert_eq!(entry.check(false), Ok(interrupt(0x41)));
    assert_eq!(entry.verify(DEVICE), Ok(()));
    assert!(
        entry
            .verify(RequesterId::from_source_id(0, 0x0119))
            .is_err()
    );
    assert_eq!(bench.events(), []);
}

#[test]
fn a_range_of_buses_is_verified() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let index = unit.allocate_interrupt().unwrap();
    let source = InterruptSource::Buses { first: 1, last: 3 };
    unit.set_interrupt(index, interrupt(0x41), source).unwrap();
    let entry = irte(&bench, index);
    for (bus, valid) in [(0, false), (1, true), (3, true), (4, false)] {
        let requester = RequesterId::from_devfn(0, bus, 0);
        assert_eq!(entry.verify(requester).is_ok(), valid, "bus {bus}");
    }
}

#[test]
fn changes_are_invalidated_and_never_seen_half_done() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let index = unit.allocate_interrupt().unwrap();
    let index = {
        assert_eq!(index, InterruptIndex(0));
        unit.allocate_interrupt().unwrap()
    };
    let invalidation = (0x1_0000_0014, 0);
    let any = InterruptSource::Any;
    unit.set_interrupt(index, interrupt(0x41), any).unwrap();
    assert_eq!(bench.invalidations(), []);
    // The lower half alone changes.
    unit.set_interrupt(index, interrupt(0x42), any).unwrap();
    assert_eq!(bench.invalidations(), [invalidation]);
    // Both halves change: absent in between.
    let source = InterruptSource::Requester(DEVICE);
    unit.set_interrupt(index, interrupt(0x42), source).unwrap();
    assert_eq!(bench.invalidations(), [invalidation; 2]);
    unit.free_interrupt(index).unwrap();
    assert_eq!(bench.invalidations(), [invalidation]);
    assert!(!irte(&bench, index).present());
    assert_eq!(unit.free_interrupt(index), Err(Error::NoInterrupt(index)));
}

#[test]
fn a_full_table_has_no_more_entries() {
    let bench = Bench::new();
    let mut unit = bench.start();
    for _ in 0..256 {
        unit.allocate_interrupt().unwrap();
    }
    let full = Error::OutOfInterrupts { entries: 256 };
    assert_eq!(unit.allocate_interrupt(), Err(full));
    unit.free_interrupt(InterruptIndex(77)).unwrap();
    assert_eq!(unit.allocate_interrupt(), Ok(InterruptIndex(77)));
}

#[test]
fn wide_destinations_need_extended_mode() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let index = unit.allocate_interrupt().unwrap();
    let mut wide = interrupt(0x41);
    wide.destination = 0x100;
    assert_eq!(
        unit.set_interrupt(index, wide, InterruptSource::Any),
        Err(Error::Destination(0x100))
    );
    assert!(!irte(&bench, index).present());
}

#[test]
fn without_a_table_there_are_no_interrupts() {
    let bench = Bench::new();
    let setup = Setup {
        interrupts: None,
        ..Bench::SETUP
    };
    let mut unit = bench.start_with(&setup).unwrap();
    assert_eq!(
        unit.allocate_interrupt(),
        Err(Error::Unsupported(Feature::InterruptRemapping))
    );
}
