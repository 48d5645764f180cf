//! Nothing is reported complete while an access that is older still runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use vm_iommu_dma::{InterruptRemapper, RouteSink};
use vm_iommu_spec::MsiMessage;
use vm_iommu_spec::vtd::descriptor::raw;
use vm_iommu_spec::vtd::registers::{ContextCommand, Granularity, IotlbInvalidate, offset};
use vm_memory::{Bytes, GuestAddress};

use super::machine::*;
use crate::{Progress, VtdConfig};

fn mapped() -> Machine {
    let machine = Machine::translating(VtdConfig::default(), 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    machine
}

#[test]
fn a_wait_completes_only_once_older_sessions_ended() {
    let machine = mapped();
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    machine.unit.set_waker(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let mut handle = machine.port.handle();
    let session = handle.session();
    session.write_slice(&[1; 8], GuestAddress(0x5000)).unwrap();
    assert!(!machine.invalidate(&[iotlb_domain(DOMAIN)]));
    // The head stays at the wait.
    assert_eq!(machine.read64(offset::IQH), 0x10);
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert_eq!(machine.unit.step(), Progress::Pending);
    assert!(!machine.waited());
    drop(session);
    assert_eq!(machine.unit.step(), Progress::Idle);
    assert!(machine.waited());
    assert_eq!(machine.read64(offset::IQH), 0x20);
}

#[test]
fn a_session_that_begins_after_the_invalidation_holds_nothing_up() {
    let machine = mapped();
    let mut older = machine.port.handle();
    let mut newer = machine.port.handle();
    let session = older.session();
    assert!(!machine.invalidate(&[iotlb_global()]));
    let _newer = newer.session();
    drop(session);
    assert_eq!(machine.unit.step(), Progress::Idle);
    assert!(machine.waited());
}

#[test]
fn a_wait_without_an_invalidation_before_it_drains_nothing() {
    let machine = mapped();
    let mut handle = machine.port.handle();
    let _session = handle.session();
    assert!(machine.invalidate(&[]));
}

#[test]
fn register_commands_complete_only_once_older_sessions_ended() {
    let config = VtdConfig {
        queued_invalidation: false,
        interrupt_remapping: false,
        extended_interrupt_mode: false,
        ..VtdConfig::default()
    };
    let machine = Machine::translating(config, 4);
    let context = ContextCommand::new()
        .with_requested(Granularity::Global)
        .with_invalidate(true);
    let iotlb = IotlbInvalidate::new()
        .with_requested(Granularity::Global)
        .with_invalidate(true);
    for (register, value) in [
        (offset::CCMD, context.into_bits()),
        (0xf8, iotlb.into_bits()),
    ] {
        let mut handle = machine.port.handle();
        let session = handle.session();
        machine.write64(register, value);
        assert_eq!(machine.read64(register) >> 63, 1);
        assert_eq!(machine.unit.step(), Progress::Pending);
        drop(session);
        assert_eq!(machine.unit.step(), Progress::Idle);
        assert_eq!(machine.read64(register) >> 63, 0);
    }
}

#[test]
fn translation_and_root_pointer_are_reported_only_once_older_sessions_ended() {
    let machine = Machine::new(VtdConfig::default());
    let mut handle = machine.port.handle();
    let session = handle.session();
    machine.enable(TE);
    assert_eq!(machine.read32(offset::GSTS), 0);
    drop(session);
    assert_eq!(machine.unit.step(), Progress::Idle);
    assert_eq!(machine.read32(offset::GSTS), TE);

    let session = handle.session();
    machine.command(SRTP);
    assert_eq!(machine.read32(offset::GSTS), TE);
    drop(session);
    assert_eq!(machine.unit.step(), Progress::Idle);
    assert_eq!(machine.read32(offset::GSTS), TE | SRTP);

    let session = handle.session();
    machine.disable(TE);
    assert_eq!(machine.read32(offset::GSTS), TE | SRTP);
    drop(session);
    assert_eq!(machine.unit.step(), Progress::Idle);
    assert_eq!(machine.read32(offset::GSTS), SRTP);
}

/// Asks the unit again from within, as a holder of routes does, and looks whether the guest was
/// told already.
struct Sink {
    machine: Arc<Machine>,
    refreshed: AtomicUsize,
}

impl RouteSink for Sink {
    fn refresh(&self) {
        self.refreshed.fetch_add(1, Ordering::SeqCst);
        assert!(
            !self.machine.waited(),
            "completed before routes were resolved"
        );
        let message = MsiMessage {
            address: 0xfee0_0010,
            data: 0,
        };
        let _ = self.machine.unit.resolve(requester(), message);
        let _ = self.machine.unit.remap(requester(), message);
        // A register access from within neither deadlocks nor recurses.
        self.machine.write32(offset::FECTL, 1 << 31);
        assert_eq!(self.machine.unit.step(), Progress::Idle);
    }
}

#[test]
fn routes_are_resolved_before_an_interrupt_invalidation_completes() {
    let machine = Arc::new(Machine::new(VtdConfig::default()));
    machine.start_queue(0);
    let sink = Arc::new(Sink {
        machine: Arc::clone(&machine),
        refreshed: AtomicUsize::new(0),
    });
    let weak = Arc::downgrade(&sink);
    machine.unit.watch(weak);
    let refreshed = || sink.refreshed.swap(0, Ordering::SeqCst);
    let iec = [raw::InterruptEntryInvalidate::new().into_bits(), 0];
    assert!(machine.invalidate(&[iec, iec]));
    assert_eq!(refreshed(), 1);
    machine
        .ram
        .memory()
        .write_obj(0_u64, GuestAddress(STATUS))
        .unwrap();
    machine.write64(offset::IRTA, IRT | 0xf);
    machine.command(SIRTP);
    assert_eq!(refreshed(), 1);
    machine.enable(IRE);
    assert_eq!(refreshed(), 1);
    machine.enable(CFI);
    assert_eq!(refreshed(), 1);
    machine.disable(IRE);
    assert_eq!(refreshed(), 1);
    machine.enable(TE);
    assert!(machine.invalidate(&[iotlb_global()]));
    assert_eq!(refreshed(), 0);
    drop(sink);
    assert!(machine.invalidate(&[iec]));
}

#[test]
fn a_disabled_queue_completes_no_wait_that_was_held_up() {
    let machine = mapped();
    let mut handle = machine.port.handle();
    let session = handle.session();
    assert!(!machine.invalidate(&[iotlb_global()]));
    machine.disable(QIE);
    drop(session);
    machine.step_until_idle();
    assert!(!machine.waited());
    assert_eq!(machine.read32(offset::GSTS) & QIE, 0);
}

#[test]
fn accesses_end_up_in_old_or_new_memory_and_after_completion_in_new_only() {
    let machine = Arc::new(mapped());
    let stop = Arc::new(AtomicUsize::new(0));
    let device = {
        let (machine, stop) = (Arc::clone(&machine), Arc::clone(&stop));
        std::thread::spawn(move || {
            let handle = machine.port.handle();
            let mut value = 0_u64;
            while stop.load(Ordering::SeqCst) == 0 {
                value += 1;
                let _ = handle.write(vm_iommu_spec::Iova(0x5000), &value.to_le_bytes());
            }
        })
    };
    let pages = [0x20_0000_u64, 0x30_0000];
    for round in 0..200 {
        let (old, new) = (pages[round % 2], pages[(round + 1) % 2]);
        machine.map(0x5000, new, 12, 3);
        machine.invalidate(&[iotlb_pages(DOMAIN, 0x5000, 0)]);
        machine.step_until_idle();
        assert!(machine.waited());
        let memory = machine.ram.memory();
        memory.write_obj(u64::MAX, GuestAddress(old)).unwrap();
        std::thread::yield_now();
        let late: u64 = memory.read_obj(GuestAddress(old)).unwrap();
        assert_eq!(
            late,
            u64::MAX,
            "a write went to the old page after completion"
        );
    }
    stop.store(1, Ordering::SeqCst);
    device.join().unwrap();
}

#[test]
fn without_a_waker_a_guest_that_polls_sees_held_up_work_end() {
    let machine = mapped();
    let mut handle = machine.port.handle();
    let session = handle.session();
    assert!(!machine.invalidate(&[iotlb_global()]));
    machine.read32(offset::FSTS);
    assert!(!machine.waited());
    drop(session);
    machine.read32(offset::FSTS);
    assert!(machine.waited());
}

#[test]
fn vcpus_devices_and_the_worker_at_once_neither_deadlock_nor_lose_a_wait() {
    let machine = Arc::new(mapped());
    let sink = Arc::new(Refresher(Arc::clone(&machine)));
    let weak = Arc::downgrade(&sink);
    machine.unit.watch(weak);
    let stop = Arc::new(AtomicUsize::new(0));
    let run = |work: fn(&Machine)| {
        let (machine, stop) = (Arc::clone(&machine), Arc::clone(&stop));
        std::thread::spawn(move || {
            while stop.load(Ordering::SeqCst) == 0 {
                work(&machine);
            }
        })
    };
    let threads = [
        run(|machine| {
            let _ = machine.read_at(0x5000);
        }),
        run(|machine| {
            let mut handle = machine.port.handle();
            let session = handle.session();
            let _ = session.read_slice(&mut [0; 64], GuestAddress(0x5000));
        }),
        // Another vCPU: SRTP over and over, which completes or not as it likes.
        run(|machine| machine.write32(offset::GCMD, TE | QIE | SRTP)),
        run(|machine| {
            let _ = machine.unit.step();
        }),
    ];
    let iec = [raw::InterruptEntryInvalidate::new().into_bits(), 0];
    for _ in 0..300 {
        if !machine.invalidate(&[iotlb_global(), context_global(), iec]) {
            while !machine.waited() {
                std::thread::yield_now();
            }
        }
    }
    stop.store(1, Ordering::SeqCst);
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Resolves a route whenever it is asked to.
struct Refresher(Arc<Machine>);

impl RouteSink for Refresher {
    fn refresh(&self) {
        let message = MsiMessage {
            address: 0xfee0_0010,
            data: 0,
        };
        let _ = self.0.unit.resolve(requester(), message);
    }
}

#[test]
fn an_interrupt_invalidation_waits_for_what_devices_do_within_an_epoch() {
    let machine = mapped();
    let mut handle = machine.port.handle();
    let session = handle.session();
    assert!(!machine.invalidate(&[[raw::InterruptEntryInvalidate::new().into_bits(), 0]]));
    drop(session);
    machine.step_until_idle();
    assert!(machine.waited());
}
