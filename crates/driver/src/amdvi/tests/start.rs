use vm_iommu_spec::amd::registers::{Control, Status, offset};
use vm_iommu_spec::{Interrupt, PhysAddr, RequesterId};

use super::bench::{Bench, Event};
use crate::SpinBudget;
use crate::amdvi::{Error, Feature, InterruptSetup, Setup, Wait};

const ENABLE: u64 = 1;
const EVENT_LOG: u64 = 1 << 2;
const FLAGS: u64 = 1 << 10 | 4 << 5;
const COMMANDS: u64 = 1 << 12;
const GUEST: u64 = 1 << 16;
const GUEST_APIC: u64 = 1 << 17;

#[test]
fn registers_are_written_in_the_order_of_kernels() {
    let bench = Bench::new();
    let unit = bench.start_with(&Bench::SETUP).unwrap();
    let base = Bench::MEMORY;
    let control = |bits| Event::Write(offset::CONTROL, bits);
    let expected = [
        Event::Write(offset::DEVICE_TABLE, base),
        Event::Write(offset::COMMAND_BUFFER, (base + 0x2000) | 9 << 56),
        Event::Write(offset::COMMAND_HEAD, 0),
        Event::Write(offset::COMMAND_TAIL, 0),
        control(COMMANDS),
        control(FLAGS | COMMANDS),
        control(FLAGS | COMMANDS | GUEST),
        control(FLAGS | COMMANDS | GUEST | GUEST_APIC),
        control(FLAGS | COMMANDS | GUEST | GUEST_APIC | ENABLE),
        Event::Write(offset::COMMAND_TAIL, 0x20),
        Event::Command(8 << 60, 0),
        Event::Write(offset::EVENT_LOG, (base + 0x4000) | 9 << 56),
        Event::Write(offset::EVENT_HEAD, 0),
        Event::Write(offset::EVENT_TAIL, 0),
        control(FLAGS | COMMANDS | GUEST | GUEST_APIC | ENABLE | EVENT_LOG),
    ];
    assert_eq!(bench.events(), expected);
    assert_eq!(unit.device_table(), PhysAddr(base));
}

#[test]
fn every_device_is_blocked_from_the_start() {
    for (interrupts, word) in [(Bench::SETUP.interrupts, 1), (None, 0)] {
        let bench = Bench::new();
        let setup = Setup {
            interrupts,
            last_device: 0x80,
            ..Bench::SETUP
        };
        let unit = bench.start_with(&setup).unwrap();
        for source in 0..=0xff {
            let entry = bench.entry(&unit, RequesterId::from_source_id(0, source));
            assert_eq!(entry.words(), [3, 0, word, 0], "{source:#x}");
        }
        // Two pages.
        let table = Event::Write(offset::DEVICE_TABLE, unit.device_table().0 | 1);
        assert!(bench.events().contains(&table));
    }
}

#[test]
fn x2apic_mode_and_long_tables_are_turned_on_if_asked_for() {
    let bench = Bench::new();
    bench
        .feature2
        .set(bench.feature2.get().with_interrupt_table(1));
    let setup = Setup {
        interrupts: Some(InterruptSetup {
            length: 11,
            x2apic: true,
        }),
        event_interrupt: Some(Interrupt {
            destination: 0x0102_0304,
            vector: 0x31,
            ..Interrupt::default()
        }),
        ..Bench::SETUP
    };
    let unit = bench.start_with(&setup).unwrap();
    let control = unit.control();
    assert!(control.x2apic() && control.x2apic_interrupts() && control.event_interrupt());
    assert_eq!(control.interrupt_table_mode(), 1);
    let target = Event::Write(offset::XT_GENERAL_INTERRUPT, 0x0100_0031_0203_0400);
    assert!(bench.events().contains(&target));
}

#[test]
fn what_an_earlier_driver_left_on_is_turned_off_first() {
    let bench = Bench::new();
    let found = ENABLE | EVENT_LOG | 1 << 3 | COMMANDS | GUEST;
    bench.control.set(Control::from_bits(found));
    bench.start_with(&Bench::SETUP).unwrap();
    let control = |bits| Event::Write(offset::CONTROL, bits);
    let expected = [
        control(ENABLE | EVENT_LOG | 1 << 3 | GUEST),
        control(ENABLE | EVENT_LOG | GUEST),
        control(ENABLE | GUEST),
        control(GUEST),
        control(0),
        Event::Write(offset::DEVICE_TABLE, Bench::MEMORY),
    ];
    assert_eq!(bench.events()[..6], expected);
}

#[test]
fn a_unit_is_stopped_in_the_order_of_kernels() {
    let bench = Bench::new();
    bench.start().stop().unwrap();
    let writes = bench.events();
    assert_eq!(writes.last(), Some(&Event::Write(offset::CONTROL, 0)));
    assert_eq!(bench.control.get(), Control::new());
}

#[test]
fn without_a_command_for_all_each_cache_is_emptied_by_its_own() {
    let bench = Bench::new();
    bench
        .feature
        .set(bench.feature.get().with_invalidate_all(false));
    bench.start_with(&Bench::SETUP).unwrap();
    let commands = bench.carried_out();
    let opcodes = |opcode| {
        let of_kind = commands.iter().filter(|(low, _)| low >> 60 == opcode);
        of_kind.count()
    };
    assert_eq!((opcodes(2), opcodes(5), opcodes(3)), (128, 128, 65536));
}

#[test]
fn what_the_unit_lacks_is_found_before_anything_is_stored() {
    let x2apic = Setup {
        interrupts: Some(InterruptSetup {
            length: 9,
            x2apic: true,
        }),
        ..Bench::SETUP
    };
    let long = |length| Setup {
        interrupts: Some(InterruptSetup {
            length,
            x2apic: false,
        }),
        ..Bench::SETUP
    };
    let short_ring = Setup {
        command_length: 7,
        ..Bench::SETUP
    };
    let cases = [
        (x2apic, Error::Unsupported(Feature::X2Apic)),
        (
            long(10),
            Error::Unsupported(Feature::InterruptEntries(1024)),
        ),
        (
            long(12),
            Error::Size {
                given: 12,
                least: 0,
                most: 11,
            },
        ),
        (
            short_ring,
            Error::Size {
                given: 7,
                least: 8,
                most: 15,
            },
        ),
    ];
    for (setup, expected) in cases {
        let bench = Bench::new();
        bench.feature.set(bench.feature.get().with_x2apic(false));
        assert_eq!(bench.start_with(&setup).err(), Some(expected));
        assert!(bench.events().is_empty() && bench.is_untouched());
    }
    let bench = Bench::new();
    bench.feature.set(u64::MAX.into());
    assert_eq!(bench.start_with(&Bench::SETUP).err(), Some(Error::Absent));
}

#[test]
fn a_unit_that_does_not_stop_is_stuck() {
    let bench = Bench::new();
    bench.stuck.set(Status::EVENT_RUN);
    let setup = Setup {
        budget: SpinBudget(10),
        ..Bench::SETUP
    };
    let error = bench.start_with(&setup).err();
    assert!(matches!(
        error,
        Some(Error::Stuck {
            wait: Wait::Stopped,
            ..
        })
    ));
}
