//! Who is to be told of an invalidation.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, Weak};

use vm_iommu_spec::Iova;

use super::{Follower, Observation, lock};

/// The observations that an invalidation of one tag, space, cache or port concerns. Costs one
/// load where nobody observes.
#[derive(Default)]
pub(crate) struct Observers {
    any: AtomicBool,
    list: Mutex<Vec<Follower>>,
}

impl Observers {
    /// Tells `observation` of every later [`unmapped`](Self::unmapped).
    pub(super) fn attach(&self, observation: &Arc<Observation>) {
        let mut list = lock(&self.list);
        list.retain(|follower| follower.strong_count() > 0);
        if !list.iter().any(|follower| is(follower, observation)) {
            list.push(Arc::downgrade(observation));
        }
        self.any.store(true, Ordering::SeqCst);
        drop(list);
        // Either whoever invalidates sees that somebody observes, or the walk that follows sees
        // what was changed before.
        fence(Ordering::SeqCst);
    }

    /// Tells `observation` no more.
    pub(super) fn detach(&self, observation: &Arc<Observation>) {
        let mut list = lock(&self.list);
        list.retain(|follower| follower.strong_count() > 0 && !is(follower, observation));
        self.any.store(!list.is_empty(), Ordering::SeqCst);
    }

    /// Tells all. What they acknowledge counts as in flight when this returns.
    #[inline]
    pub(crate) fn unmapped(&self, range: &RangeInclusive<Iova>) {
        if self.any.load(Ordering::SeqCst) {
            self.tell(range);
        }
    }

    #[cold]
    fn tell(&self, range: &RangeInclusive<Iova>) {
        let list: Vec<Arc<Observation>> =
            lock(&self.list).iter().filter_map(Weak::upgrade).collect();
        for observation in list {
            observation.unmap(range.clone());
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let observed = self.any.load(Ordering::Relaxed);
        f.debug_struct("Observers").field("any", &observed).finish()
    }
}

fn is(follower: &Follower, observation: &Arc<Observation>) -> bool {
    std::ptr::eq(follower.as_ptr(), Arc::as_ptr(observation))
}
