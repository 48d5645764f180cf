use vm_iommu_spec::vtd::registers::{Capability, ExtendedCapability, GlobalBits, offset};
use vm_iommu_spec::{MsiMessage, PhysAddr};

use super::bench::{Bench, Event};
use crate::vtd::{Error, Feature, InterruptSetup, Setup, Unit, Wait};
use crate::{PagePool, SpinBudget};

const QIE: u64 = 1 << 26;
const IRE: u64 = 1 << 25;
const SIRTP: u64 = 1 << 24;
const SRTP: u64 = 1 << 30;
const TE: u64 = 1 << 31;

#[test]
fn registers_are_written_in_the_order_of_kernels() {
    let bench = Bench::new();
    let mut unit = bench.start_with(&Bench::SETUP).unwrap();
    unit.enable_translation().unwrap();
    let base = Bench::MEMORY;
    let expected = [
        Event::Write(offset::IQT, 0),
        Event::Write(offset::IQA, base),
        Event::Write(offset::GCMD, QIE),
        // 256 entries of 16 bytes: size field 7.
        Event::Write(offset::IRTA, (base + 0x3000) | 7),
        Event::Write(offset::GCMD, QIE | SIRTP),
        Event::Write(offset::IQT, 0x20),
        Event::Invalidated(0x4, 0),
        Event::Write(offset::GCMD, QIE | IRE),
        Event::Write(offset::RTADDR, base + 0x2000),
        Event::Write(offset::GCMD, QIE | IRE | SRTP),
        Event::Write(offset::IQT, 0x40),
        Event::Invalidated(0x11, 0),
        Event::Write(offset::IQT, 0x60),
        Event::Invalidated(0xd2, 0),
        Event::Write(offset::GCMD, QIE | IRE | TE),
    ];
    assert_eq!(bench.events(), expected);
    assert_eq!(unit.enabled().bits() as u64, QIE | IRE | TE);
    assert_eq!(unit.root_table(), PhysAddr(base + 0x2000));
}

#[test]
fn a_unit_that_invalidates_with_its_pointers_is_not_told_to() {
    let bench = Bench::new();
    bench.capability.set(
        bench
            .capability
            .get()
            .with_enhanced_set_root_table(true)
            .with_enhanced_set_interrupt_table(true),
    );
    bench.start_with(&Bench::SETUP).unwrap();
    assert_eq!(bench.invalidations(), []);
}

#[test]
fn what_an_earlier_driver_left_on_is_turned_off_first() {
    let bench = Bench::new();
    bench.status.set(
        GlobalBits::TRANSLATION | GlobalBits::INTERRUPT_REMAPPING | GlobalBits::QUEUED_INVALIDATION,
    );
    bench.start_with(&Bench::SETUP).unwrap();
    let commands = [
        Event::Write(offset::GCMD, QIE | IRE),
        Event::Write(offset::GCMD, QIE),
        Event::Write(offset::GCMD, 0),
        Event::Write(offset::IQT, 0),
    ];
    assert_eq!(bench.events()[..4], commands);
}

#[test]
fn a_unit_is_stopped_in_the_order_of_kernels() {
    let bench = Bench::new();
    let mut unit = bench.start();
    unit.enable_translation().unwrap();
    bench.events();
    unit.stop().unwrap();
    let commands = [
        Event::Write(offset::GCMD, QIE | IRE),
        Event::Write(offset::GCMD, QIE),
        Event::Write(offset::GCMD, 0),
    ];
    assert_eq!(bench.events(), commands);
}

#[test]
fn compatibility_format_is_turned_off_once_interrupts_are_remapped() {
    let bench = Bench::new();
    bench.status.set(GlobalBits::COMPATIBILITY_FORMAT);
    let unit = bench.start_with(&Bench::SETUP).unwrap();
    assert!(!unit.enabled().contains(GlobalBits::COMPATIBILITY_FORMAT));
    assert!(
        !bench
            .status
            .get()
            .contains(GlobalBits::COMPATIBILITY_FORMAT)
    );
}

#[test]
fn the_fault_event_carries_the_upper_half_of_its_address() {
    let bench = Bench::new();
    let setup = Setup {
        fault_event: Some(MsiMessage {
            address: 0x1_fee0_1000,
            data: 0x31,
        }),
        ..Bench::SETUP
    };
    bench.start_with(&setup).unwrap();
    let events = bench.events();
    let expected = [
        Event::Write(offset::FEDATA, 0x31),
        Event::Write(offset::FEADDR, 0xfee0_1000),
        Event::Write(offset::FEUADDR, 1),
        Event::Write(offset::FECTL, 0),
    ];
    assert!(events.ends_with(&expected), "{events:x?}");
}

#[test]
fn what_the_unit_lacks_is_found_before_the_first_store() {
    let with_interrupts = |size, extended| Setup {
        interrupts: Some(InterruptSetup { size, extended }),
        ..Bench::SETUP
    };
    let all = Bench::new().extended.get();
    for (extended, setup, expected) in [
        (
            all.with_coherent(false),
            Bench::SETUP,
            Error::Unsupported(Feature::Coherency),
        ),
        (
            all.with_queued_invalidation(false),
            Bench::SETUP,
            Error::Unsupported(Feature::QueuedInvalidation),
        ),
        (
            all.with_interrupt_remapping(false),
            Bench::SETUP,
            Error::Unsupported(Feature::InterruptRemapping),
        ),
        (
            all,
            with_interrupts(7, true),
            Error::Unsupported(Feature::ExtendedInterruptMode),
        ),
        (
            all,
            with_interrupts(16, false),
            Error::Size {
                given: 16,
                most: 15,
            },
        ),
        (
            all,
            Setup {
                queue_size: 8,
                ..Bench::SETUP
            },
            Error::Size { given: 8, most: 7 },
        ),
    ] {
        let bench = Bench::new();
        bench.extended.set(extended);
        assert_eq!(bench.start_with(&setup).unwrap_err(), expected);
        assert_eq!(bench.events(), [], "{expected}");
        assert!(bench.is_untouched(), "{expected}");
    }
}

#[test]
fn a_hole_in_the_address_space_is_no_unit() {
    let bench = Bench::new();
    bench.capability.set(Capability::from_bits(u64::MAX));
    bench.extended.set(ExtendedCapability::from_bits(u64::MAX));
    let error = bench.start_with(&Bench::SETUP).unwrap_err();
    assert_eq!(error, Error::Absent);
}

#[test]
fn without_memory_for_all_tables_nothing_is_stored() {
    let bench = Bench::new();
    let range = PhysAddr(Bench::MEMORY)..PhysAddr(Bench::MEMORY + 0x3000);
    let pages = PagePool::new(&bench.memory, range);
    let started = Unit::start(&bench, &bench.memory, pages, &Bench::SETUP);
    assert_eq!(started.unwrap_err(), Error::OutOfMemory);
    assert_eq!(bench.events(), []);
}

#[test]
fn a_command_that_is_never_answered_ends_the_wait() {
    let bench = Bench::new();
    bench.deaf_to.set(GlobalBits::ROOT_TABLE_POINTER);
    let Error::Stuck { wait, source } = bench.start_with(&Bench::SETUP).unwrap_err() else {
        panic!("another error");
    };
    assert_eq!(wait, Wait::Command(GlobalBits::ROOT_TABLE_POINTER));
    assert_eq!(source.budget, SpinBudget(1000));
    assert_eq!(source.last, QIE | IRE | SIRTP);
}

#[test]
fn a_refused_descriptor_is_reported_and_the_queue_goes_on() {
    let bench = Bench::new();
    let mut unit = bench.start();
    bench
        .refuses
        .set(Some(vm_iommu_spec::vtd::descriptor::raw::INTERRUPT_ENTRY));
    let index = unit.allocate_interrupt().unwrap();
    // Bring-up used the first six places.
    assert!(matches!(
        unit.free_interrupt(index),
        Err(Error::Queue { index: 6, .. })
    ));
    assert_eq!(unit.free_interrupt(index), Ok(()));
}
