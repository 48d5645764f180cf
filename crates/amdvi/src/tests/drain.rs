//! No wait completes while an access that is older still runs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use vm_iommu_dma::{InterruptRemapper, RouteSink};
use vm_iommu_spec::Iova;
use vm_iommu_spec::amd::registers::offset;
use vm_memory::{Bytes, GuestAddress};

use super::machine::*;
use crate::{AmdViConfig, Progress};

fn mapped() -> Machine {
    let machine = Machine::translating(AmdViConfig::default(), 4);
    machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    machine
}

#[test]
fn a_wait_completes_only_once_older_sessions_ended() {
    for command in [
        invalidate_domain(DOMAIN),
        invalidate_pages(DOMAIN, 0x5000, 0x5fff, false),
        invalidate_device(DEVICE),
        invalidate_interrupts(DEVICE),
        invalidate_all(),
    ] {
        let machine = mapped();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        machine.unit.set_waker(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let mut handle = machine.port.handle();
        let session = handle.session();
        session.write_slice(&[1; 8], GuestAddress(0x5000)).unwrap();
        assert!(!machine.invalidate(&[command]));
        // The head stays at the wait.
        assert_eq!(machine.read64(offset::COMMAND_HEAD), 0x10);
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        assert_eq!(machine.unit.step(), Progress::Pending);
        assert!(!machine.waited());
        drop(session);
        assert_eq!(machine.unit.step(), Progress::Idle);
        assert!(machine.waited());
        assert_eq!(machine.read64(offset::COMMAND_HEAD), 0x20);
    }
}

#[test]
fn a_session_that_begins_after_the_invalidation_holds_nothing_up() {
    let machine = mapped();
    let mut older = machine.port.handle();
    let mut newer = machine.port.handle();
    let session = older.session();
    assert!(!machine.invalidate(&[invalidate_all()]));
    let _newer = newer.session();
    drop(session);
    assert_eq!(machine.unit.step(), Progress::Idle);
    assert!(machine.waited());
}

#[test]
fn a_unit_without_drain_waits_for_nobody_but_forgets_what_was_invalidated() {
    let machine = Machine::translating(
        AmdViConfig {
            drain: false,
            ..AmdViConfig::default()
        },
        4,
    );
    machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    let mut older = machine.port.handle();
    let session = older.session();
    session.write_slice(&[1; 8], GuestAddress(0x5000)).unwrap();
    let newer = machine.port.handle();
    newer.write(Iova(0x5000), &[2; 8]).unwrap();
    machine.map(0x5000, 0x60_0000, 12, READ_WRITE);
    assert!(machine.invalidate(&[invalidate_domain(DOMAIN)]));
    newer.write(Iova(0x5000), &[3; 8]).unwrap();
    assert_eq!(
        machine
            .ram
            .memory()
            .read_obj::<u8>(GuestAddress(0x50_0000))
            .unwrap(),
        2
    );
    assert_eq!(
        machine
            .ram
            .memory()
            .read_obj::<u8>(GuestAddress(0x60_0000))
            .unwrap(),
        3
    );
}

#[test]
fn a_wait_without_an_invalidation_before_it_drains_nothing() {
    let machine = mapped();
    let mut handle = machine.port.handle();
    let _session = handle.session();
    assert!(machine.invalidate(&[]));
}

#[test]
fn commands_wait_for_accesses_that_are_older_than_a_change_of_the_control_register() {
    let machine = mapped();
    let mut handle = machine.port.handle();
    let session = handle.session();
    machine.enable(|control| control.with_guest_translation(false));
    assert!(!machine.invalidate(&[]));
    drop(session);
    machine.step_until_idle();
    assert!(machine.waited());
}

#[test]
fn a_disabled_buffer_completes_no_wait_that_was_held_up() {
    let machine = mapped();
    let mut handle = machine.port.handle();
    let session = handle.session();
    assert!(!machine.invalidate(&[invalidate_all()]));
    machine.enable(|control| control.with_command_buffer(false));
    drop(session);
    machine.step_until_idle();
    assert!(!machine.waited());
    assert_eq!(machine.read64(offset::COMMAND_HEAD), 0x10);
    // Enabled again, it goes on where it was.
    machine.enable(|control| control.with_command_buffer(true));
    machine.step_until_idle();
    assert!(machine.waited());
}

#[test]
fn without_a_waker_a_guest_that_polls_sees_held_up_work_end() {
    let machine = mapped();
    let mut handle = machine.port.handle();
    let session = handle.session();
    assert!(!machine.invalidate(&[invalidate_all()]));
    drop(session);
    let _ = machine.read64(offset::COMMAND_HEAD);
    assert!(machine.waited());
}

#[derive(Default)]
struct Routes(AtomicUsize);

impl RouteSink for Routes {
    fn refresh(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn routes_are_resolved_again_before_a_wait_completes() {
    let machine = mapped();
    let routes = Arc::new(Routes::default());
    let weak: Weak<dyn RouteSink> = Arc::downgrade(&(routes.clone() as Arc<dyn RouteSink>));
    machine.unit.watch(weak);
    let mut expected = 0;
    for (command, refreshes) in [
        (invalidate_pages(DOMAIN, 0, 0xfff, true), false),
        (invalidate_interrupts(DEVICE), true),
        (invalidate_device(DEVICE), true),
        (invalidate_all(), true),
    ] {
        assert!(machine.invalidate(&[command]));
        expected += usize::from(refreshes);
        assert_eq!(routes.0.load(Ordering::SeqCst), expected);
    }
    machine.enable(|control| control.with_guest_apic(true));
    assert_eq!(routes.0.load(Ordering::SeqCst), expected + 1);
    // Without a wait, once nothing is left to do; the wait that follows has nothing to add.
    machine.submit(&[invalidate_interrupts(DEVICE); 3]);
    assert_eq!(routes.0.load(Ordering::SeqCst), expected + 2);
    assert!(machine.invalidate(&[]));
    assert_eq!(routes.0.load(Ordering::SeqCst), expected + 2);
}
