//! Epochs: which accesses are in flight, and when those older than an invalidation have ended.
//!
//! Every handle owns a slot. Entering an epoch stores the number of the current era in the slot,
//! then a fence, and only then looks anything up; leaving clears the slot. A drain begins a new
//! era after the invalidation took effect, then a fence, and is complete once no slot holds an
//! older era. Of the two fences one comes first: either the access sees the invalidation, or the
//! drain sees the access. An access pays next to nothing for its fence: a drain makes up for it
//! with a system call, unless every slot is parked.

use std::sync::Arc;
// No part of what the models explore.
use std::sync::atomic::AtomicU64 as Counter;

use serde::Serialize;

use crate::barrier::Barrier;
use crate::sync::{AtomicU64, Mutex, Ordering, fence, lock, relax};

/// No access in flight, and the next one begins with a full fence.
const PARKED: u64 = 0;
/// No access in flight.
const IDLE: u64 = 1;
/// The first era.
const FIRST: u64 = 2;

/// The eras of one machine, or of any set of handles that is drained together.
#[derive(Debug)]
pub struct Epochs {
    era: AtomicU64,
    barrier: Barrier,
    /// Drains, and those of them that some handle's not being parked made dearer.
    drains: Counter,
    barriers: Counter,
    slots: Mutex<Vec<Arc<EpochSlot>>>,
}

impl Default for Epochs {
    fn default() -> Self {
        Self::with_barrier(Barrier::detect())
    }
}

impl Epochs {
    pub(crate) fn with_barrier(barrier: Barrier) -> Self {
        Self {
            era: AtomicU64::new(FIRST),
            barrier,
            drains: Counter::new(0),
            barriers: Counter::new(0),
            slots: Mutex::new(Vec::new()),
        }
    }

    /// A slot for one handle; it counts until dropped.
    pub fn register(&self) -> Arc<EpochSlot> {
        let slot = Arc::new(EpochSlot {
            state: AtomicU64::new(PARKED),
        });
        let mut slots = lock(&self.slots);
        slots.retain(|slot| Arc::strong_count(slot) > 1);
        slots.push(Arc::clone(&slot));
        slot
    }

    /// Begins a new era without waiting for accesses of the last: handles look up again what they
    /// remember.
    pub fn renew(&self) {
        self.era.fetch_add(1, Ordering::SeqCst);
    }

    /// What drains came to.
    pub fn counters(&self) -> DrainCounters {
        DrainCounters {
            drains: self.drains.load(Ordering::Relaxed),
            barriers: self.barriers.load(Ordering::Relaxed),
        }
    }

    /// Begins to wait for every access that is in flight now. What it waits for to end must have
    /// been made unreachable before.
    pub fn drain(&self) -> Drain {
        let era = self.era.fetch_add(1, Ordering::SeqCst) + 1;
        fence(Ordering::SeqCst);
        let slots = lock(&self.slots);
        self.drains.fetch_add(1, Ordering::Relaxed);
        if slots.iter().any(|slot| !slot.is_parked()) {
            self.barriers.fetch_add(1, Ordering::Relaxed);
            self.barrier.heavy();
        }
        let older = slots.iter().filter(|slot| slot.is_older_than(era));
        Drain {
            era,
            busy: older.cloned().collect(),
        }
    }
}

/// What drains came to since the epochs were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DrainCounters {
    /// Drains.
    pub drains: u64,
    /// Those that needed a fence of all threads, since not every handle was parked.
    pub barriers: u64,
}

/// One handle's place among the epochs, on a cache line pair of its own.
#[derive(Debug)]
#[repr(align(128))]
pub struct EpochSlot {
    /// The era in which the access in flight began, or [`IDLE`], or [`PARKED`].
    state: AtomicU64,
}

impl EpochSlot {
    /// Begins an access in `era`, if that is still the era, at less cost than
    /// [`enter`](Self::enter), which must follow if not.
    #[inline]
    pub(crate) fn reenter(&self, epochs: &Epochs, era: u64) -> bool {
        self.state.store(era, Ordering::Relaxed);
        epochs.barrier.light();
        // After the fence: if the drain that began the next era did not see this access, then
        // this access sees that era.
        epochs.era.load(Ordering::Acquire) == era
    }

    /// Begins an access, and yields an era that began before all that it may look up: what it
    /// finds is good until the next. At most one is in flight in a slot.
    pub fn enter(&self, epochs: &Epochs) -> u64 {
        let parked = self.is_parked();
        self.state
            .store(epochs.era.load(Ordering::Acquire), Ordering::Relaxed);
        if parked {
            fence(Ordering::SeqCst);
        } else {
            epochs.barrier.light();
        }
        epochs.era.load(Ordering::Acquire)
    }

    /// Ends the access.
    #[inline]
    pub fn leave(&self) {
        self.state.store(IDLE, Ordering::Release);
    }

    /// Says that no access follows soon: while all slots are parked, a drain needs no system
    /// call. The next access costs a full fence.
    pub fn park(&self) {
        self.state.store(PARKED, Ordering::Release);
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.state.load(Ordering::Acquire) == PARKED
    }

    fn is_older_than(&self, era: u64) -> bool {
        (FIRST..era).contains(&self.state.load(Ordering::Acquire))
    }
}

/// A wait for the accesses that were in flight when it began.
#[derive(Debug)]
#[must_use = "an invalidation is complete only when its drain is"]
pub struct Drain {
    era: u64,
    busy: Vec<Arc<EpochSlot>>,
}

impl Drain {
    /// Whether all of them have ended. Never blocks.
    pub fn is_complete(&mut self) -> bool {
        self.busy.retain(|slot| slot.is_older_than(self.era));
        self.busy.is_empty()
    }

    /// As [`is_complete`](Self::is_complete), after a few more looks.
    pub fn is_complete_soon(&mut self) -> bool {
        const LOOKS: usize = 256;
        for _ in 0..LOOKS {
            if self.is_complete() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// Waits for all of them. No caller may itself be inside an epoch.
    pub fn wait(mut self) {
        let mut spins = 0;
        while !self.is_complete() {
            relax(&mut spins);
        }
    }
}
