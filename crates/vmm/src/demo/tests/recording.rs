use vm_iommu_driver::{RegisterBus, SpinBudget, Until};
use vm_iommu_pagetable::{BadAddress, TableMemory};
use vm_iommu_spec::PhysAddr;

use crate::demo::engine::{Operation, Placement, Width};
use crate::demo::recorder::{Loaded, Recorder, RecordingBus};

const BASE: u64 = 0xfed9_0000;

fn recorder() -> Recorder {
    Recorder::new(Placement::new(PhysAddr(0x10_0000)))
}

#[test]
fn stores_are_recorded_and_seen_by_later_loads() {
    let recorder = recorder();
    let memory: &dyn TableMemory = &recorder;
    let at = PhysAddr(0x1000);
    assert_eq!(memory.load(at), Ok(0));
    memory.store(at, 5).unwrap();
    assert_eq!(memory.compare_exchange(at, 4, 6), Ok(Err(5)));
    assert_eq!(memory.compare_exchange(at, 5, 6), Ok(Ok(5)));
    memory.store_u32(PhysAddr(0x1004), 7).unwrap();
    assert_eq!(memory.load(at), Ok(7 << 32 | 6));
    let store = |width, address, value| Operation::Store {
        width,
        address,
        value,
    };
    let expected = [
        store(Width::Quad, 0x1000, 5),
        store(Width::Quad, 0x1000, 6),
        store(Width::Double, 0x1004, 7),
    ];
    assert_eq!(recorder.program(), expected);
}

#[test]
fn misaligned_words_are_no_table_memory() {
    let recorder = recorder();
    let memory: &dyn TableMemory = &recorder;
    let bad = PhysAddr(0x1004);
    assert_eq!(memory.load(bad), Err(BadAddress(bad)));
    assert_eq!(memory.store(bad, 1), Err(BadAddress(bad)));
    let bad = PhysAddr(0x1002);
    assert_eq!(memory.store_u32(bad, 1), Err(BadAddress(bad)));
    assert_eq!(recorder.len(), 0);
}

#[test]
fn a_register_reads_as_now_until_something_else_is_foreseen() {
    let recorder = recorder();
    let look = |address, _| address + 1;
    let bus = RecordingBus::new(&recorder, BASE, &look);
    assert_eq!(bus.read64(8), BASE + 9);
    bus.foresee(8, 3);
    assert_eq!(bus.read32(8), 3);
    let wait = |width, value| Operation::Wait {
        width,
        address: BASE + 8,
        mask: u64::MAX,
        value,
        spins: 1,
    };
    let expected = [wait(Width::Quad, BASE + 9), wait(Width::Double, 3)];
    assert_eq!(recorder.program(), expected);
    assert_eq!(bus.read_of(8), Some(Loaded(1)));
    assert_eq!(bus.read_of(0), None);
}

#[test]
fn polls_become_waits_that_are_taken_to_succeed() {
    let recorder = recorder();
    let bus = RecordingBus::new(&recorder, BASE, &|_, _| 0);
    let until = Until::set(4);
    assert_eq!(bus.poll32(0x1c, until, SpinBudget(1)), Ok(4));
    let status = Until {
        mask: 0xff,
        expected: 9,
    };
    let polled = bus.poll_memory(&recorder, PhysAddr(0x2000), status, SpinBudget(1));
    assert_eq!(polled, Ok(9));
    assert_eq!(TableMemory::load(&recorder, PhysAddr(0x2000)), Ok(9));
    let program = recorder.program();
    let [
        Operation::Wait {
            address: register,
            spins,
            ..
        },
        Operation::Wait {
            address: memory,
            mask: 0xff,
            value: 9,
            ..
        },
    ] = program[..]
    else {
        panic!("{program:?}");
    };
    assert_eq!((register, memory), (BASE + 0x1c, 0x2000));
    assert!(spins > 1);
}
