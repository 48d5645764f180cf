use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_iommu_pci::PciFunction;
use vm_iommu_spec::{Access, Iova};

use super::echo::Echo;
use crate::testing::{Descriptor, Machine};
use crate::{Features, Progress};

const NEXT: u16 = Descriptor::NEXT;
const WRITE: u16 = Descriptor::WRITE;
const INDIRECT: u16 = Descriptor::INDIRECT;

fn started(features: Features) -> (Machine, Arc<Echo>) {
    let echo = Echo::new(&[16]);
    let mut machine = Machine::new(echo.clone(), true);
    machine.start(features);
    (machine, echo)
}

fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        address,
        len,
        flags,
        next,
    }
}

#[test]
fn a_request_in_pieces_is_served() {
    let (mut machine, echo) = started(Features::empty());
    let at = machine.send(0, &[b"hel", b"", b"lo!"], &[2, 4]);
    machine.kick(0);
    assert_eq!(machine.used(0), [(0, 6)]);
    assert_eq!(machine.get(at[3], 2), b"he");
    assert_eq!(machine.get(at[4], 4), b"llo!");
    assert_eq!(*echo.seen.lock().unwrap(), [(6, 6)]);
    assert_eq!(machine.pages.unwrap().take_faults(), []);
}

#[test]
fn an_invalidation_after_a_request_needs_no_system_call() {
    let (mut machine, _) = started(Features::empty());
    let epochs = Arc::clone(&machine.function.port().upstream().epochs);
    machine.send(0, &[b"hello"], &[5]);
    machine.kick(0);
    assert_eq!(machine.used(0), [(0, 5)]);
    epochs.drain().wait();
    assert_eq!(epochs.counters().barriers, 0);
}

#[test]
fn the_rings_wrap() {
    let (mut machine, _) = started(Features::EVENT_IDX);
    for round in 0..40_u32 {
        machine.send(0, &[&round.to_le_bytes()], &[4]);
        machine.kick(0);
        assert_eq!(machine.used(0), [(round * 2 % 16, 4)], "round {round}");
    }
}

#[test]
fn an_indirect_table_is_followed() {
    let (mut machine, echo) = started(Features::INDIRECT_DESC);
    let table = machine.buffer(64);
    let data = machine.buffer(16);
    let entries = [
        descriptor(machine.bus(data), 3, NEXT, 2),
        Descriptor::default(),
        descriptor(machine.bus(data + 8), 3, WRITE, 0),
    ];
    for (place, entry) in (0..).zip(entries) {
        machine.put(table + 16 * place, &entry.bytes());
    }
    machine.put(data, b"abc");
    let bus = machine.bus(table);
    machine.push(0, &[descriptor(bus, 48, INDIRECT, 0)]);
    machine.kick(0);
    assert_eq!(machine.used(0), [(0, 3)]);
    assert_eq!(machine.get(data + 8, 3), b"abc");
    assert_eq!(echo.seen.lock().unwrap().len(), 1);
}

#[test]
fn a_malformed_chain_is_given_back_unserved() {
    let good = 0x4020_0000;
    let table = 0x4030_0000;
    for (name, chain) in [
        ("a loop", vec![descriptor(good, 1, NEXT, 0)]),
        ("an index outside", vec![descriptor(good, 1, NEXT, 16)]),
        (
            "readable after writable",
            vec![
                descriptor(good, 1, WRITE | NEXT, 1),
                descriptor(good, 1, 0, 0),
            ],
        ),
        ("a wrap", vec![descriptor(u64::MAX - 2, 4, WRITE, 0)]),
        (
            "more than 4 GiB",
            vec![
                descriptor(good, u32::MAX, WRITE | NEXT, 1),
                descriptor(good, 2, WRITE, 0),
            ],
        ),
        (
            "an empty indirect table",
            vec![descriptor(table, 0, INDIRECT, 0)],
        ),
        (
            "a ragged indirect table",
            vec![descriptor(table, 17, INDIRECT, 0)],
        ),
        (
            "too large an indirect table",
            vec![descriptor(table, 16 << 16, INDIRECT, 0)],
        ),
        (
            "an indirect table that wraps",
            vec![descriptor(u64::MAX - 7, 16, INDIRECT, 0)],
        ),
        (
            "an unmapped indirect table",
            vec![descriptor(0x10, 16, INDIRECT, 0)],
        ),
        (
            "an indirect table in itself",
            vec![descriptor(table, 16, INDIRECT, 0)],
        ),
        (
            "a long indirect chain",
            vec![descriptor(table + 0x1000, 16 * 32, INDIRECT, 0)],
        ),
    ] {
        let (mut machine, echo) = started(Features::INDIRECT_DESC);
        machine.put(0x30_0000, &descriptor(table, 16, INDIRECT, 0).bytes());
        for place in 0..32 {
            let next = place as u16 + 1;
            let entry = descriptor(good, 1, if next < 32 { NEXT } else { 0 }, next);
            machine.put(0x30_1000 + 16 * place, &entry.bytes());
        }
        machine.push(0, &chain);
        machine.send(0, &[b"ok"], &[2]);
        machine.kick(0);
        let head = chain.len() as u32;
        assert_eq!(machine.used(0), [(0, 0), (head, 2)], "{name}");
        assert_eq!(*echo.seen.lock().unwrap(), [(2, 2)], "{name}");
        assert_eq!(machine.status(), 0xf, "{name}");
    }
}

#[test]
fn a_chain_may_be_as_long_as_the_queue() {
    let (mut machine, echo) = started(Features::empty());
    let parts = [&b"x"[..]; 15];
    machine.send(0, &parts, &[15]);
    machine.kick(0);
    assert_eq!(machine.used(0), [(0, 15)]);
    assert_eq!(*echo.seen.lock().unwrap(), [(15, 15)]);
}

#[test]
fn a_fault_in_a_buffer_fails_that_request_only() {
    let (mut machine, _) = started(Features::empty());
    let at = machine.send(0, &[b"no"], &[2]);
    let pages = machine.pages.clone().unwrap();
    pages.allow(machine.bus(at[1]), Access::READ);
    let at = machine.send(0, &[b"ok"], &[2]);
    machine.kick(0);
    assert_eq!(machine.used(0), [(0, 0), (2, 2)]);
    assert_eq!(machine.get(at[1], 2), b"ok");
    assert_eq!(pages.take_faults().len(), 1);
    assert_eq!(machine.status(), 0xf);
}

/// Parts of a queue, from its base.
const TABLE: u64 = 0;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x8000;

#[test]
fn an_unusable_ring_stops_the_device_until_reset() {
    for (name, part, access) in [
        ("descriptor table", TABLE, Access::empty()),
        ("available ring", AVAILABLE, Access::empty()),
        ("used ring", USED, Access::empty()),
        ("read-only used ring", USED, Access::READ),
    ] {
        let (mut machine, echo) = started(Features::empty());
        let page = machine.bus(machine.ring(0).base + part);
        let pages = machine.pages.clone().unwrap();
        pages.allow(page, access);
        machine.send(0, &[b"x"], &[1]);
        machine.kick(0);
        assert_eq!(machine.status(), 0x4f, "{name}");
        assert!(machine.function.needs_reset());
        assert_eq!(machine.msi.take(), [Machine::message(0)], "{name}");
        assert_eq!(machine.read(0x1000, 1), 2);
        let faults = pages.take_faults();
        assert_eq!(faults[0].address.0 & !0xfff, page, "{name}");
        assert_eq!(faults[0].requester, Machine::REQUESTER);
        // Stopped: nothing is tried again.
        machine.kick(0);
        assert_eq!(pages.take_faults(), []);

        pages.allow(page, Access::READ | Access::WRITE);
        machine.start(Features::empty());
        echo.seen.lock().unwrap().clear();
        machine.send(0, &[b"x"], &[1]);
        machine.kick(0);
        assert_eq!(machine.used(0), [(0, 1)], "{name}");
    }
}

#[test]
fn nonsense_in_the_available_ring_stops_the_device() {
    let (mut machine, _) = started(Features::empty());
    machine.offer(0, 16);
    machine.kick(0);
    assert_eq!(machine.status(), 0x4f, "a head outside the table");

    let (machine, _) = started(Features::empty());
    let index = machine.ring(0).base + AVAILABLE + 2;
    machine.put(index, &17_u16.to_le_bytes());
    machine.kick(0);
    assert_eq!(machine.status(), 0x4f, "more entries than the ring has");
}

#[test]
fn a_ring_that_cannot_be_there_stops_the_device() {
    for (register, address) in [
        (32, 0x4000_1008_u64),
        (32, u64::MAX - 0xff + 0x10),
        (40, 0x4000_1001),
        (40, u64::MAX - 3),
        (40, 0),
        (48, 0x4000_1002),
        (48, u64::MAX - 0x73),
    ] {
        let machine = Machine::new(Echo::new(&[16]), true);
        assert!(machine.negotiate(machine.required()));
        for (register, address) in [
            (32, 0x4000_1000),
            (40, 0x4000_2000),
            (48, 0x4000_3000),
            (register, address),
        ] {
            machine.write(register, 8, address);
        }
        machine.write(28, 2, 1);
        assert_eq!(machine.read(28, 2), 0, "{address:#x}");
        assert_eq!(machine.status(), 0x4b, "{address:#x}");
    }
}

#[test]
fn a_used_length_is_written_before_the_index() {
    let (mut machine, _) = started(Features::empty());
    machine.send(0, &[b"abcd"], &[4]);
    machine.kick(0);
    let used = machine.ring(0).base + USED;
    assert_eq!(machine.get(used + 2, 2), [1, 0]);
    assert_eq!(machine.get(used + 4, 8), [0, 0, 0, 0, 4, 0, 0, 0]);
}

#[test]
fn work_per_call_is_bounded_and_the_rest_is_announced() {
    let (mut machine, echo) = started(Features::empty());
    for _ in 0..6 {
        machine.send(0, &[b"x"], &[1]);
    }
    assert_eq!(machine.function.process_queue(0), Progress::More);
    assert_eq!(echo.seen.lock().unwrap().len(), 4);
    let used = machine.ring(0).base + USED;
    assert_eq!(machine.get(used, 2), [1, 0], "no kicks wanted meanwhile");
    assert_eq!(machine.function.process_queue(0), Progress::Idle);
    assert_eq!(machine.used(0).len(), 6);
    assert_eq!(machine.get(used, 2), [0, 0]);
    assert_eq!(machine.function.process_queue(0), Progress::Idle);
    assert_eq!(machine.function.process_queue(7), Progress::Idle);
}

#[test]
fn the_driver_is_asked_to_kick_at_the_event_index() {
    let (mut machine, _) = started(Features::EVENT_IDX);
    for expected in 1..=3_u8 {
        machine.send(0, &[b"x"], &[1]);
        machine.kick(0);
        let ring = machine.ring(0);
        let avail_event = ring.base + USED + 4 + 8 * u64::from(ring.size);
        assert_eq!(machine.get(avail_event, 2), [expected, 0]);
    }
}

#[test]
fn interrupts_are_suppressed_as_the_driver_asks() {
    let (mut machine, _) = started(Features::empty());
    machine.set_flags(0, 1);
    machine.send(0, &[b"x"], &[1]);
    machine.kick(0);
    assert_eq!(machine.msi.take(), []);
    machine.set_flags(0, 0);
    machine.send(0, &[b"x"], &[1]);
    machine.kick(0);
    assert_eq!(machine.msi.take().len(), 1);

    let (mut machine, _) = started(Features::EVENT_IDX);
    // With the event index the flag means nothing.
    machine.set_flags(0, 1);
    machine.set_used_event(0, 2);
    for interrupts in [0, 0, 1, 0] {
        machine.send(0, &[b"x"], &[1]);
        machine.kick(0);
        assert_eq!(machine.msi.take().len(), interrupts);
    }
}

#[test]
fn a_kick_before_the_driver_is_ready_is_made_up_for() {
    let echo = Echo::new(&[16]);
    let mut machine = Machine::new(echo.clone(), false);
    assert!(machine.negotiate(Features::VERSION_1));
    machine.enable_queue(0, 16, 0);
    machine.send(0, &[b"x"], &[1]);
    machine.kick(0);
    assert_eq!(machine.used(0), [], "not before DRIVER_OK");
    machine.write(20, 1, 0xf);
    assert_eq!(machine.function.event(0).unwrap().read().unwrap(), 1);
    assert_eq!(machine.function.process_queue(0), Progress::Idle);
    assert_eq!(machine.used(0), [(0, 1)]);
}

#[test]
fn a_reset_stops_the_queues() {
    let (mut machine, echo) = started(Features::empty());
    machine.send(0, &[b"x"], &[1]);
    machine.write(20, 1, 0);
    assert_eq!(machine.function.process_queue(0), Progress::Idle);
    assert_eq!(machine.used(0), []);
    assert_eq!(machine.msi.take(), []);
    assert_eq!(echo.resets.load(Ordering::SeqCst), 2, "start() resets too");
}

#[test]
fn a_queue_is_reset_alone() {
    let (mut machine, _) = started(Features::RING_RESET);
    machine.send(0, &[b"x"], &[1]);
    machine.kick(0);
    machine.write(22, 2, 0);
    machine.write(24, 2, 4);
    assert_eq!(machine.read(24, 2), 16, "settled while enabled");
    machine.write(58, 2, 1);
    assert_eq!(machine.read(58, 2), 0, "done");
    assert_eq!(machine.read(28, 2), 0, "not enabled");
    machine.enable_queue(0, 8, 1);
    assert_eq!(machine.read(28, 2), 1);
    // Enabled while the device runs: what waits already is served.
    assert!(machine.function.event(0).unwrap().read().is_ok());
    machine.send(0, &[b"x"], &[1]);
    machine.kick(0);
    assert_eq!(machine.used(0), [(0, 1)]);
    assert_eq!(machine.status(), 0xf);
}

#[test]
fn a_device_off_the_bus_serves_nothing_and_is_not_broken() {
    let (mut machine, _) = started(Features::empty());
    machine.send(0, &[b"x"], &[1]);
    machine.function.port().set_bus_master(false);
    machine.kick(0);
    assert_eq!(machine.status(), 0xf);
    assert_eq!(machine.used(0), []);
    machine.function.port().set_bus_master(true);
    machine.kick(0);
    assert_eq!(machine.used(0), [(0, 1)]);
}

#[test]
fn addresses_are_the_buses() {
    let (mut machine, _) = started(Features::empty());
    // A physical address, where the bus knows none.
    machine.push(0, &[descriptor(0x20_0000, 4, WRITE, 0)]);
    machine.kick(0);
    let pages = machine.pages.clone().unwrap();
    assert_eq!(machine.used(0), [(0, 0)]);
    // The device had nothing to write there.
    assert_eq!(pages.take_faults(), []);
    let at = machine.buffer(4);
    let bus = machine.bus(at);
    machine.push(
        0,
        &[
            descriptor(bus, 4, NEXT, 2),
            descriptor(0x20_0000, 4, WRITE, 0),
        ],
    );
    machine.kick(0);
    assert_eq!(machine.used(0), [(1, 0)]);
    assert_eq!(pages.take_faults()[0].address, Iova(0x20_0000));
}
