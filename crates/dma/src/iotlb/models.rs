//! Models of the races between accesses and invalidations, explored by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p vm-iommu-dma --lib --release models`.
//!
//! A page is handed back to its owner when its invalidation completed; from then on no access may
//! touch it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

use super::Set;
use crate::barrier::Barrier;
use crate::epoch::{EpochSlot, Epochs};
use crate::set::Key;

const KEY: Key = Key {
    tag: 7,
    word: 0x1000,
};
const OTHER: Key = Key {
    tag: 7,
    word: 0x2000,
};

struct Machine {
    set: Set,
    epochs: Epochs,
    /// Begun invalidations, as the cache counts them.
    invalidations: AtomicU64,
    /// Whether tables still map the page.
    mapped: AtomicBool,
    /// Whether the page went back to its owner.
    reused: AtomicBool,
}

impl Machine {
    fn new(cached: bool) -> Arc<Self> {
        let machine = Self {
            set: Set::default(),
            epochs: Epochs::with_barrier(Barrier::Full),
            invalidations: AtomicU64::new(0),
            mapped: AtomicBool::new(true),
            reused: AtomicBool::new(false),
        };
        if cached {
            machine.set.insert(KEY, [0xa000], || false);
        }
        Arc::new(machine)
    }

    /// One DMA: look up, walk on a miss and insert, then touch the page.
    fn access(&self) {
        let invalidations = self.invalidations.load(Ordering::Acquire);
        let reached = self.set.find(KEY).is_some() || {
            let mapped = self.mapped.load(Ordering::Acquire);
            if mapped {
                let void = || self.invalidations.load(Ordering::SeqCst) != invalidations;
                self.set.insert(KEY, [0xa000], void);
            }
            mapped
        };
        if reached {
            self.touch();
        }
    }

    fn touch(&self) {
        let reused = self.reused.load(Ordering::Acquire);
        assert!(
            !reused,
            "a page was touched after its invalidation completed"
        );
    }

    /// What a driver and the unit do to take a page away.
    fn unmap(&self, drain: bool) {
        self.mapped.store(false, Ordering::Release);
        self.invalidations.fetch_add(1, Ordering::SeqCst);
        self.set.remove(|key| key == KEY);
        if drain {
            self.epochs.drain().wait();
        }
        self.reused.store(true, Ordering::Release);
    }

    fn access_in_epoch(&self, slot: &EpochSlot) {
        slot.enter(&self.epochs);
        self.access();
        slot.leave();
    }
}

fn race(cached: bool, drain: bool) {
    loom::model(move || {
        let machine = Machine::new(cached);
        let slot = machine.epochs.register();
        let device = {
            let machine = machine.clone();
            thread::spawn(move || machine.access_in_epoch(&slot))
        };
        machine.unmap(drain);
        device.join().unwrap();
        assert_eq!(machine.set.find(KEY), None, "a stale line stayed behind");
    });
}

#[test]
fn a_hit_races_an_invalidation() {
    race(true, true);
}

#[test]
fn an_insert_races_an_invalidation() {
    race(false, true);
}

/// The model finds the fault that the epochs prevent.
#[test]
#[should_panic(expected = "a page was touched after its invalidation completed")]
fn without_the_drain_a_late_access_gets_through() {
    race(true, false);
}

/// A slot that was in use before needs its fence no less than a parked one.
#[test]
fn an_idle_slot_is_drained_like_a_parked_one() {
    loom::model(|| {
        let machine = Machine::new(true);
        let slot = machine.epochs.register();
        slot.enter(&machine.epochs);
        slot.leave();
        let device = {
            let machine = machine.clone();
            thread::spawn(move || machine.access_in_epoch(&slot))
        };
        machine.unmap(true);
        device.join().unwrap();
    });
}

/// A handle that used the page before races an invalidation; it looks the page up again only if
/// the era has changed, and if it looks at the era at all.
fn race_remembered(compare: bool) {
    loom::model(move || {
        let machine = Machine::new(true);
        let slot = machine.epochs.register();
        let era = slot.enter(&machine.epochs);
        machine.access();
        slot.leave();
        let device = {
            let machine = machine.clone();
            thread::spawn(move || {
                if slot.reenter(&machine.epochs, era) || !compare {
                    machine.touch();
                } else {
                    slot.enter(&machine.epochs);
                    machine.access();
                }
                slot.leave();
            })
        };
        machine.unmap(true);
        device.join().unwrap();
    });
}

#[test]
fn a_remembered_page_races_an_invalidation() {
    race_remembered(true);
}

/// The model finds the fault that the comparison of eras prevents.
#[test]
#[should_panic(expected = "a page was touched after its invalidation completed")]
fn a_page_remembered_beyond_its_era_is_touched_too_late() {
    race_remembered(false);
}

#[test]
fn an_eviction_never_gives_one_page_the_memory_of_another() {
    loom::model(|| {
        let set = Arc::new(Set::default());
        set.insert(KEY, [0xa000], || false);
        let writer = {
            let set = set.clone();
            thread::spawn(move || {
                set.remove(|key| key == KEY);
                set.insert(OTHER, [0xb000], || false);
            })
        };
        assert!(matches!(set.find(KEY), None | Some([0xa000])));
        assert!(matches!(set.find(OTHER), None | Some([0xb000])));
        writer.join().unwrap();
    });
}
