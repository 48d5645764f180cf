//! Devices that a unit talks to, by their source ids.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use vm_iommu_spec::RequesterId;

use super::lock;

/// What devices of a segment offer to their unit, such as their [`DeviceTlb`](crate::DeviceTlb),
/// until they are dropped.
pub struct BySource<T: ?Sized>(Mutex<HashMap<u16, Weak<T>>>);

impl<T: ?Sized> Default for BySource<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: ?Sized> BySource<T> {
    /// Makes what `requester` offers known, in the place of what it did before.
    pub fn insert(&self, requester: RequesterId, offered: Weak<T>) {
        let mut known = lock(&self.0);
        known.retain(|_, offered| offered.strong_count() > 0);
        known.insert(requester.source_id(), offered);
    }

    /// Forgets `requester`.
    pub fn remove(&self, requester: RequesterId) {
        lock(&self.0).remove(&requester.source_id());
    }

    /// What the device with this source id offers.
    pub fn get(&self, source: u16) -> Option<Arc<T>> {
        lock(&self.0).get(&source).and_then(Weak::upgrade)
    }
}
