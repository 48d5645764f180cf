//! Epochs: which accesses are in flight, and when those older than an invalidation have ended.
//!
//! Every handle owns a slot. Entering an epoch stores the number of the current era in the slot,
//! then a full fence, and only then looks anything up; leaving clears the slot. A drain begins a
//! new era after the invalidation took effect, then a full fence, and is complete once no slot
//! holds an older era. Of the two fences one comes first: either the access sees the
//! invalidation, or the drain sees the access.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// No access in flight.
const IDLE: u64 = 0;

/// The eras of one machine, or of any set of handles that is drained together.
#[derive(Debug)]
pub struct Epochs {
    /// The current era, from 1.
    era: AtomicU64,
    slots: Mutex<Vec<Weak<EpochSlot>>>,
}

impl Default for Epochs {
    fn default() -> Self {
        Self {
            era: AtomicU64::new(1),
            slots: Mutex::default(),
        }
    }
}

impl Epochs {
    /// A slot for one handle; it counts until dropped.
    pub fn register(&self) -> Arc<EpochSlot> {
        let slot = Arc::new(EpochSlot {
            state: AtomicU64::new(IDLE),
        });
        let mut slots = self.slots();
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(&slot));
        slot
    }

    /// Begins to wait for every access that is in flight now. What it waits for to end must have
    /// been made unreachable before.
    pub fn drain(&self) -> Drain {
        let era = self.era.fetch_add(1, Ordering::SeqCst) + 1;
        fence(Ordering::SeqCst);
        let busy = self
            .slots()
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|slot| slot.is_older_than(era))
            .collect();
        Drain { era, busy }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Weak<EpochSlot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One handle's place among the epochs.
#[derive(Debug)]
pub struct EpochSlot {
    /// The era in which the access in flight began, or [`IDLE`].
    state: AtomicU64,
}

impl EpochSlot {
    /// Begins an access. At most one is in flight in a slot.
    #[inline]
    pub fn enter(&self, epochs: &Epochs) {
        self.state
            .store(epochs.era.load(Ordering::Acquire), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Ends the access.
    #[inline]
    pub fn leave(&self) {
        self.state.store(IDLE, Ordering::Release);
    }

    fn is_older_than(&self, era: u64) -> bool {
        let state = self.state.load(Ordering::Acquire);
        state != IDLE && state < era
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

    /// Waits for all of them. No caller may itself be inside an epoch.
    pub fn wait(mut self) {
        let mut spins = 0_u32;
        while !self.is_complete() {
            spins = spins.saturating_add(1);
            if spins < 64 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}
