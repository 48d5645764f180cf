//! The cache of what requesters are bound to: VT-d's context cache, AMD's device table cache.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

use vm_iommu_spec::DomainId;

use super::{CacheCounters, lock};
use crate::{Iotlb, Space, Tag};

/// Leave to insert what a lookup in the tables finds; void once an invalidation began.
#[derive(Clone, Copy, Debug)]
pub struct SpaceToken(u64);

/// The spaces of a unit by their owners `O`, and the tags of its domains: `K` tells those of one
/// domain apart.
///
/// Every space that is fresh is in it: a space that leaves it becomes stale, so that no handle
/// keeps one that an invalidation would not find.
pub struct SpaceCache<O, K> {
    capacity: usize,
    inner: Mutex<Inner<O, K>>,
}

struct Inner<O, K> {
    generation: u64,
    spaces: HashMap<O, Arc<Space>>,
    /// The owners in the order of their insertion: the first is evicted next.
    order: VecDeque<O>,
    tags: HashMap<Option<DomainId>, Vec<(K, Arc<Tag>)>>,
    tag_count: usize,
    counters: CacheCounters,
}

/// The number of tags above which those of nobody are dropped.
const TAGS_KEPT: usize = 1024;

impl<O: Copy + Eq + Hash, K: Copy + Eq> SpaceCache<O, K> {
    /// An empty cache of `capacity` spaces; 0 turns it off.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            inner: Mutex::new(Inner {
                generation: 0,
                spaces: HashMap::new(),
                order: VecDeque::new(),
                tags: HashMap::new(),
                tag_count: 0,
                counters: CacheCounters::default(),
            }),
        }
    }

    /// To be taken before the registers and tables are looked at.
    pub fn token(&self) -> SpaceToken {
        SpaceToken(self.inner().generation)
    }

    /// The cached space.
    pub fn find(&self, owner: O) -> Option<Arc<Space>> {
        let mut inner = self.inner();
        let found = inner.spaces.get(&owner).cloned();
        match found {
            Some(_) => inner.counters.hits += 1,
            None => inner.counters.misses += 1,
        }
        found
    }

    /// The tag of a domain and kind, under which its translations are found again; `None` is for
    /// what belongs to no domain.
    pub fn tag(&self, domain: Option<DomainId>, kind: K, iotlb: &Iotlb) -> Arc<Tag> {
        let mut inner = self.inner();
        let known = inner.tags.get(&domain);
        let found = known.and_then(|tags| tags.iter().find(|(known, _)| *known == kind));
        if let Some((_, tag)) = found {
            return Arc::clone(tag);
        }
        if inner.tag_count >= TAGS_KEPT {
            inner.tags.retain(|_, tags| {
                tags.retain(|(_, tag)| Arc::strong_count(tag) > 1);
                !tags.is_empty()
            });
            inner.tag_count = inner.tags.values().map(Vec::len).sum();
        }
        let tag = iotlb.tag();
        let tags = inner.tags.entry(domain).or_default();
        tags.push((kind, Arc::clone(&tag)));
        inner.tag_count += 1;
        tag
    }

    /// The tags of `domain`, for an invalidation. Those that nobody uses are dropped instead, with
    /// what is cached under them, so that there are no more than spaces in use.
    pub fn tags_of(&self, domain: DomainId) -> Vec<(K, Arc<Tag>)> {
        let mut inner = self.inner();
        let Inner {
            tags, tag_count, ..
        } = &mut *inner;
        let Some(mut found) = tags.remove(&Some(domain)) else {
            return Vec::new();
        };
        *tag_count -= found.len();
        found.retain(|(_, tag)| Arc::strong_count(tag) > 1);
        *tag_count += found.len();
        if !found.is_empty() {
            tags.insert(Some(domain), found.clone());
        }
        found
    }

    /// Caches `space`; makes it stale from the start if an invalidation began since the token
    /// was taken, or if the cache is off: it then serves a single access.
    pub fn insert(&self, token: SpaceToken, owner: O, space: &Arc<Space>) {
        let mut inner = self.inner();
        if inner.generation != token.0 || self.capacity == 0 {
            space.invalidate();
            return;
        }
        if let Some(old) = inner.spaces.insert(owner, Arc::clone(space)) {
            old.invalidate();
            return;
        }
        inner.order.push_back(owner);
        if inner.order.len() > self.capacity
            && let Some(oldest) = inner.order.pop_front()
            && let Some(space) = inner.spaces.remove(&oldest)
        {
            space.invalidate();
            inner.counters.evictions += 1;
        }
    }

    /// Drops everything.
    pub fn invalidate_all(&self) {
        self.invalidate(|_, _| true);
    }

    /// Drops the spaces that are `doomed`.
    pub fn invalidate(&self, doomed: impl Fn(O, &Space) -> bool) {
        let mut inner = self.inner();
        inner.generation = inner.generation.wrapping_add(1);
        inner.counters.invalidations += 1;
        inner.spaces.retain(|owner, space| {
            let doomed = doomed(*owner, space);
            if doomed {
                space.invalidate();
            }
            !doomed
        });
        let Inner { spaces, order, .. } = &mut *inner;
        order.retain(|owner| spaces.contains_key(owner));
    }

    /// What the cache did so far.
    pub fn counters(&self) -> CacheCounters {
        let inner = self.inner();
        CacheCounters {
            entries: inner.spaces.len() as u64,
            ..inner.counters
        }
    }

    /// The owners of cached spaces, in no order.
    pub fn owners(&self) -> Vec<O> {
        self.inner().spaces.keys().copied().collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner<O, K>> {
        lock(&self.inner)
    }
}
