//! The last faults of a unit, for inspection.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde::Serialize;
use vm_iommu_spec::Fault;

use super::lock;

/// How many faults are kept.
const KEPT: usize = 32;

/// A refused request; `S` is an entry that was read on the way.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct InspectedFault<S> {
    /// The request and the reason.
    pub fault: Fault,
    /// The same in words.
    pub text: String,
    /// The entries that were read on the way.
    pub steps: Vec<S>,
    /// Whether a field of a table entry kept it from being recorded.
    pub suppressed: bool,
}

/// The last faults.
#[derive(Debug)]
pub struct FaultHistory<S>(Mutex<Inner<S>>);

#[derive(Debug)]
struct Inner<S> {
    total: u64,
    /// Oldest first.
    kept: VecDeque<(Fault, Vec<S>, bool)>,
}

impl<S> Default for FaultHistory<S> {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            total: 0,
            kept: VecDeque::new(),
        }))
    }
}

impl<S: Clone> FaultHistory<S> {
    /// Adds a fault; the oldest makes room.
    pub fn push(&self, fault: Fault, steps: Vec<S>, suppressed: bool) {
        let mut inner = lock(&self.0);
        inner.total = inner.total.wrapping_add(1);
        if inner.kept.len() == KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back((fault, steps, suppressed));
    }

    /// How many faults there were.
    pub fn total(&self) -> u64 {
        lock(&self.0).total
    }

    /// How many faults there were, and the last, oldest first.
    pub fn inspect(&self) -> (u64, Vec<InspectedFault<S>>) {
        let inner = lock(&self.0);
        let kept = inner.kept.iter();
        let kept = kept.map(|(fault, steps, suppressed)| InspectedFault {
            fault: *fault,
            text: fault.to_string(),
            steps: steps.clone(),
            suppressed: *suppressed,
        });
        (inner.total, kept.collect())
    }

    /// Forgets all.
    pub fn clear(&self) {
        let mut inner = lock(&self.0);
        inner.total = 0;
        inner.kept.clear();
    }
}
