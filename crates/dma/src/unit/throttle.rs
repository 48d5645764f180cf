//! Logs that a guest can trigger.

use std::sync::atomic::{AtomicU64, Ordering};

/// Lets the first few occurrences through, then ever fewer: each power of two.
#[derive(Debug, Default)]
pub struct Throttle(AtomicU64);

impl Throttle {
    /// Whether this occurrence is to be logged.
    pub fn allows(&self) -> bool {
        let count = self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        count <= 16 || count.is_power_of_two()
    }
}
