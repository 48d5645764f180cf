//! Faults that are injected: the N-th operation fails, once.

use std::sync::atomic::{AtomicU64, Ordering};

const OFF: u64 = u64::MAX;

#[derive(Debug)]
pub struct Faults {
    /// How many operations pass before the one that fails.
    left: AtomicU64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            left: AtomicU64::new(OFF),
        }
    }
}

impl Faults {
    /// Lets the operation after `passing` others fail.
    pub fn arm(&self, passing: u64) {
        self.left.store(passing, Ordering::SeqCst);
    }

    /// Lets nothing fail any more; whether something had failed.
    pub fn disarm(&self) -> bool {
        self.left.swap(OFF, Ordering::SeqCst) == OFF
    }

    /// Whether the operation that is about to be done is to fail.
    pub fn strikes(&self) -> bool {
        let count = |left: u64| {
            if left == OFF {
                None
            } else {
                Some(left.checked_sub(1).unwrap_or(OFF))
            }
        };
        self.left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, count)
            == Ok(0)
    }
}
