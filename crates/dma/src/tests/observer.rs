use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use vm_iommu_spec::{Access, FaultReason, Iova, PhysAddr, RequesterId};

use super::remapper::{MapRemapper, READ_WRITE, ram};
use crate::{
    Acknowledgement, DmaPort, DmaRemapper, IotlbConfig, Mapping, MappingObserver, Observation,
    Upstream,
};

/// Keeps what it was told, and what it owes until it is told to settle.
#[derive(Default)]
struct Follower {
    maps: Mutex<Vec<Mapping>>,
    gone: Mutex<Vec<RangeInclusive<Iova>>>,
    owed: Mutex<Vec<Acknowledgement>>,
}

impl MappingObserver for Follower {
    fn mapped(&self, mapping: &Mapping) {
        self.maps.lock().unwrap().push(*mapping);
    }

    fn unmapped(&self, range: RangeInclusive<Iova>, done: Acknowledgement) {
        self.maps
            .lock()
            .unwrap()
            .retain(|map| map.range().start() > range.end() || map.range().end() < range.start());
        self.gone.lock().unwrap().push(range);
        self.owed.lock().unwrap().push(done);
    }
}

impl Follower {
    fn settle(&self) {
        self.owed.lock().unwrap().clear();
    }

    fn take_gone(&self) -> Vec<RangeInclusive<Iova>> {
        std::mem::take(&mut self.gone.lock().unwrap())
    }
}

struct Machine {
    remapper: Arc<MapRemapper>,
    port: Arc<DmaPort>,
    follower: Arc<Follower>,
    observation: Arc<Observation>,
}

fn machine() -> Machine {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x8000, 12, READ_WRITE);
    remapper.map(0x5000, 0x10_2000, 12, Access::READ);
    let port = remapper.port(&ram());
    let follower = Arc::new(Follower::default());
    let observation = Observation::new(&port, None, follower.clone());
    Machine {
        remapper,
        port,
        follower,
        observation,
    }
}

#[test]
fn what_is_asked_for_is_told_with_its_memory_and_permissions() {
    let machine = machine();
    let mapping = machine
        .observation
        .request(Iova(0x5010), Access::READ)
        .unwrap();
    assert_eq!(mapping.range(), Iova(0x5010)..=Iova(0x5fff));
    assert_eq!(mapping.memory.start, PhysAddr(0x10_2010));
    assert_eq!(mapping.permissions, Access::READ);
    assert_eq!(*machine.follower.maps.lock().unwrap(), [mapping]);
    let denied = machine.observation.request(Iova(0x5000), Access::WRITE);
    assert!(denied.is_err());
    assert_eq!(machine.follower.maps.lock().unwrap().len(), 1);
    let interrupt = machine
        .observation
        .request(Iova(0xfee0_0000), Access::WRITE);
    assert_eq!(interrupt.unwrap_err().reason, FaultReason::InterruptRange);
}

#[test]
fn an_invalidation_is_complete_only_after_the_acknowledgement() {
    let machine = machine();
    let (tag, iotlb) = (machine.remapper.tag.clone(), machine.remapper.iotlb());
    let ask = || {
        let answer = machine.observation.request(Iova(0x4000), Access::WRITE);
        assert!(answer.is_ok());
    };
    let everything = Iova(0)..=Iova(u64::MAX);
    let page = Iova(0x4000)..=Iova(0x4fff);
    let invalidations: [(&dyn Fn(), _); 5] = [
        (
            &|| iotlb.invalidate_range(&tag, Iova(0x4000), Iova(0x4fff)),
            page,
        ),
        (&|| iotlb.invalidate_tag(&tag), everything.clone()),
        (&|| iotlb.invalidate_all(), everything.clone()),
        (
            &|| machine.remapper.invalidate_context(),
            everything.clone(),
        ),
        (
            &|| {
                let moved = RequesterId::from_source_id(0, 0x100);
                machine.port.set_requester(moved);
            },
            everything,
        ),
    ];
    for (invalidate, range) in invalidations {
        ask();
        invalidate();
        let mut drain = machine.port.upstream().epochs.drain();
        assert_eq!(machine.follower.take_gone(), [range]);
        assert!(!drain.is_complete());
        machine.follower.settle();
        assert!(drain.is_complete());
        assert!(machine.follower.maps.lock().unwrap().is_empty());
    }
}

#[test]
fn nobody_is_told_of_other_spaces_or_after_the_end() {
    let machine = machine();
    machine
        .observation
        .request(Iova(0x4000), Access::READ)
        .unwrap();
    let other = machine.remapper.iotlb().tag();
    machine.remapper.iotlb().invalidate_tag(&other);
    assert!(machine.follower.take_gone().is_empty());
    drop(machine.observation);
    machine.remapper.iotlb().invalidate_all();
    assert!(machine.follower.take_gone().is_empty());
}

#[test]
fn a_function_that_is_stopped_waits_for_its_observers() {
    let machine = machine();
    machine
        .observation
        .request(Iova(0x4000), Access::READ)
        .unwrap();
    thread::scope(|scope| {
        let stopping = scope.spawn(|| machine.port.stop());
        while machine.follower.gone.lock().unwrap().is_empty() {
            thread::yield_now();
        }
        assert!(!stopping.is_finished());
        // The acknowledgement follows the announcement within the same call.
        while machine.follower.owed.lock().unwrap().is_empty() {
            thread::yield_now();
        }
        machine.follower.settle();
    });
    let refused = machine.observation.request(Iova(0x4000), Access::READ);
    assert_eq!(refused.unwrap_err().reason, FaultReason::Stopped);
}

#[test]
fn without_a_unit_runs_of_memory_are_told() {
    let port = DmaPort::new(Upstream::direct(ram()));
    port.set_bus_master(true);
    let observation = Observation::new(&port, None, Arc::new(Follower::default()));
    let mapping = observation.request(Iova(0x10_0800), Access::WRITE).unwrap();
    assert_eq!(mapping.range(), Iova(0x10_0800)..=Iova(0x10_ffff));
    let hole = observation.request(Iova(0x5_0000), Access::READ);
    assert_eq!(hole.unwrap_err().reason, FaultReason::NotMemory);
}

/// Asks and invalidations race; after each completed invalidation the observer holds nothing of
/// what was taken away.
#[test]
fn no_mapping_is_told_after_its_invalidation_completed() {
    const FRAMES: [u64; 2] = [0x2000, 0x10_3000];
    let machine = machine();
    machine.remapper.map(0x4000, FRAMES[0], 12, READ_WRITE);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = machine.observation.request(Iova(0x4000), Access::WRITE);
            }
        });
        for round in 0..2000_usize {
            let (old, new) = (FRAMES[round % 2], FRAMES[1 - round % 2]);
            machine.remapper.map(0x4000, new, 12, READ_WRITE);
            let tag = &machine.remapper.tag;
            match round % 2 {
                0 => machine
                    .remapper
                    .iotlb()
                    .invalidate_range(tag, Iova(0x4000), Iova(0x4fff)),
                _ => machine.remapper.iotlb().invalidate_tag(tag),
            }
            machine.follower.settle();
            machine.port.upstream().epochs.drain().wait();
            let maps = machine.follower.maps.lock().unwrap();
            let stale = |map: &Mapping| map.memory.start.0 & !0xfff == old;
            assert!(!maps.iter().any(stale), "round {round}");
        }
        stop.store(true, Ordering::Relaxed);
    });
}
