use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vm_iommu_virtio::Features;
use vm_iommu_virtio::testing::Machine;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{IoThread, QueueEvents};
use crate::VirtioBlk;

/// Waits for what another thread does.
fn eventually(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "it does not come");
        std::thread::yield_now();
    }
}

/// Counts its events.
struct Counter(Arc<(EventFd, AtomicU32)>);

impl MutEventSubscriber for Counter {
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(&self.0.0, EventSet::IN)).unwrap();
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.0.0.read().unwrap();
        self.0.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_thread_serves_events_until_the_subscriber_is_removed() {
    let thread = IoThread::spawn("test").unwrap();
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    let shared = Arc::new((event, AtomicU32::new(0)));
    let id = thread.add(Counter(Arc::clone(&shared))).unwrap();
    for count in 1..=3 {
        shared.0.write(1).unwrap();
        eventually(|| shared.1.load(Ordering::SeqCst) == count);
    }
    thread.remove(id).unwrap();
    assert!(thread.remove(id).is_err());
    shared.0.write(1).unwrap();
    drop(thread);
    assert_eq!(shared.1.load(Ordering::SeqCst), 3);
    assert_eq!(Arc::strong_count(&shared), 1, "the thread let go of it");
}

#[test]
fn a_disk_is_served_by_its_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let sector = |number: u64| vec![number as u8; 512];
    let content: Vec<u8> = (0..256).flat_map(sector).collect();
    fs::write(&path, content).unwrap();
    let disk = VirtioBlk::open(&path, false, 2).unwrap();
    let mut machine = Machine::new(disk, true);
    let threads: Vec<IoThread> = (0..2)
        .map(|index| {
            let thread = IoThread::spawn("disk").unwrap();
            let queue = QueueEvents::of_queue(Arc::clone(&machine.function), index);
            thread.add(queue).unwrap();
            thread
        })
        .collect();
    machine.start(Features::EVENT_IDX);
    for round in 0..100_u64 {
        let queue = (round % 2) as u16;
        let mut head = [0; 16];
        head[8..].copy_from_slice(&round.to_le_bytes());
        let at = machine.send(queue, &[&head], &[512, 1]);
        machine.write(0x3000 + 4 * u64::from(queue), 2, queue.into());
        let mut used = Vec::new();
        eventually(|| {
            used.extend(machine.used(queue));
            !used.is_empty()
        });
        assert_eq!(used[0].1, 513);
        assert_eq!(machine.get(at[1], 512), sector(round));
    }
    drop(threads);
}

#[test]
fn nothing_completes_once_a_reset_returned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    let disk = VirtioBlk::open(&path, false, 1).unwrap();
    let mut machine = Machine::new(disk, true);
    let thread = IoThread::spawn("disk").unwrap();
    thread
        .add(QueueEvents::new(Arc::clone(&machine.function)))
        .unwrap();
    let head = [0; 16];
    for _ in 0..20 {
        machine.start(Features::empty());
        for _ in 0..5 {
            machine.send(0, &[&head], &[4096, 1]);
        }
        machine.write(0x3000, 2, 0);
        machine.write(20, 1, 0);
        let done = machine.used(0).len();
        let interrupts = machine.msi.take().len();
        assert!(interrupts <= 1 && done <= 5);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(machine.used(0), []);
        assert_eq!(machine.msi.take(), []);
    }
    drop(thread);
}
