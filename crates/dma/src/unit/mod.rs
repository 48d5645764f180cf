//! What remapping units have in common besides DMA: registers, caches of table entries, the work
//! that register writes leave over, and where interrupts go.

mod by_source;
mod entry_cache;
mod faults;
mod interrupts;
mod registers;
mod space_cache;
mod state;
mod throttle;
mod worker;

use serde::Serialize;

pub use by_source::BySource;
pub use entry_cache::{EntryCache, EntryToken};
pub use faults::{FaultHistory, InspectedFault};
pub use interrupts::{RouteSinks, UnitInterrupts};
pub use registers::{IgnoredAccess, InspectedRegister, Register, RegisterFile, Write};
pub use space_cache::{SpaceCache, SpaceToken};
pub use state::StateError;
pub use throttle::Throttle;
pub use worker::{Progress, Worker};

/// What a cache of table entries did since the unit was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheCounters {
    /// Lookups answered.
    pub hits: u64,
    /// Lookups not answered.
    pub misses: u64,
    /// Entries that made room for others.
    pub evictions: u64,
    /// Invalidations of any granularity.
    pub invalidations: u64,
    /// Entries held now.
    pub entries: u64,
}

/// Locks, also after a panic elsewhere: for state that none leaves half-changed.
pub fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
