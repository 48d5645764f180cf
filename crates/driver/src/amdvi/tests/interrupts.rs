use vm_iommu_spec::{DeliveryMode, Interrupt, PhysAddr};

use super::bench::{Bench, DEVICE, Driver};
use crate::amdvi::{Error, Feature, InterruptIndex, InterruptSetup, Setup};

const INVALIDATE_TABLE: (u64, u64) = (5 << 60 | 8, 0);

fn interrupt(destination: u32, vector: u8) -> Interrupt {
    Interrupt {
        destination,
        vector,
        ..Interrupt::default()
    }
}

/// Where the table of the device is.
fn table(bench: &Bench, unit: &Driver<'_>) -> u64 {
    bench.entry(unit, DEVICE).interrupt.table_address().0
}

#[test]
fn a_requester_gets_its_table_with_its_first_interrupt() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let index = unit.allocate_interrupt(DEVICE).unwrap();
    assert_eq!(index.index, 0);
    assert_eq!(bench.carried_out(), [(2 << 60 | 8, 0), INVALIDATE_TABLE]);
    let word = bench.entry(&unit, DEVICE).interrupt;
    assert!(word.valid());
    assert_eq!((word.control(), word.table_length()), (2, 9));
    let next = unit.allocate_interrupt(DEVICE).unwrap();
    assert_eq!(next.message().data, 1);
    assert_eq!(bench.carried_out(), []);
}

#[test]
fn wide_entries_have_no_effect_while_they_change() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let index = unit.allocate_interrupt(DEVICE).unwrap();
    bench.events();
    unit.set_interrupt(index, interrupt(0x12, 0x41)).unwrap();
    assert_eq!(bench.carried_out(), [INVALIDATE_TABLE]);
    let place = table(&bench, &unit);
    let halves = |place| [bench.load(PhysAddr(place)), bench.load(PhysAddr(place + 8))];
    assert_eq!(halves(place), [0x1201, 0x41]);
    // Another vector is in the other half: two invalidations.
    unit.set_interrupt(index, interrupt(0x12, 0x42)).unwrap();
    assert_eq!(bench.carried_out().len(), 2);
    unit.set_interrupt(index, interrupt(0x13, 0x42)).unwrap();
    assert_eq!(bench.carried_out().len(), 1);
    assert_eq!(halves(place), [0x1301, 0x42]);
    unit.free_interrupt(index).unwrap();
    assert_eq!(halves(place), [0, 0]);
    assert_eq!(
        unit.set_interrupt(index, interrupt(0, 0x41)),
        Err(Error::NoInterrupt(index))
    );
}

#[test]
fn narrow_entries_leave_their_neighbours_alone() {
    let bench = Bench::new();
    bench
        .feature
        .set(bench.feature.get().with_guest_apic(false));
    let mut unit = bench.start();
    let indices = [0, 1, 2].map(|_| unit.allocate_interrupt(DEVICE).unwrap());
    for (vector, index) in (0x41..).zip(indices) {
        unit.set_interrupt(index, interrupt(3, vector)).unwrap();
    }
    let place = table(&bench, &unit);
    assert_eq!(bench.load(PhysAddr(place)), 0x0042_0301_0041_0301);
    assert_eq!(bench.load(PhysAddr(place + 8)), 0x0043_0301);
    unit.free_interrupt(indices[0]).unwrap();
    assert_eq!(bench.load(PhysAddr(place)), 0x0042_0301_0000_0000);
}

#[test]
fn what_entries_cannot_say_is_refused() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let index = unit.allocate_interrupt(DEVICE).unwrap();
    let nmi = Interrupt {
        delivery_mode: DeliveryMode::Nmi,
        ..Interrupt::default()
    };
    assert_eq!(unit.set_interrupt(index, nmi), Err(Error::DeliveryMode));
    assert_eq!(
        unit.set_interrupt(index, interrupt(0x100, 0x41)),
        Err(Error::Destination(0x100))
    );
    for _ in 1..512 {
        unit.allocate_interrupt(DEVICE).unwrap();
    }
    assert_eq!(
        unit.allocate_interrupt(DEVICE),
        Err(Error::OutOfInterrupts { entries: 512 })
    );
    let stranger = InterruptIndex {
        index: 512,
        ..index
    };
    assert_eq!(
        unit.free_interrupt(stranger),
        Err(Error::NoInterrupt(stranger))
    );
}

#[test]
fn destinations_have_32_bits_in_x2apic_mode() {
    let bench = Bench::new();
    let setup = Setup {
        interrupts: Some(InterruptSetup {
            length: 9,
            x2apic: true,
        }),
        ..Bench::SETUP
    };
    let mut unit = bench.start_with(&setup).unwrap();
    let index = unit.allocate_interrupt(DEVICE).unwrap();
    unit.set_interrupt(index, interrupt(0x0102_0304, 0x41))
        .unwrap();
    let place = table(&bench, &unit);
    assert_eq!(bench.load(PhysAddr(place)), 0x0203_0401);
    assert_eq!(bench.load(PhysAddr(place + 8)), 0x0100_0000_0000_0041);
}

#[test]
fn without_set_up_there_are_no_interrupts() {
    let bench = Bench::new();
    let setup = Setup {
        interrupts: None,
        ..Bench::SETUP
    };
    let mut unit = bench.start_with(&setup).unwrap();
    let missing = Error::Unsupported(Feature::InterruptRemapping);
    assert_eq!(unit.allocate_interrupt(DEVICE), Err(missing));
}
