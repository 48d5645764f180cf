//! Root and context tables, and the context cache (sections 3.4 and 6.2.2).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::Serialize;
use vm_iommu_dma::{GuestRam, Iotlb, Space, Tag};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::descriptor::ContextScope;
use vm_iommu_spec::vtd::registers::RootTableAddress;
use vm_iommu_spec::vtd::{Context, ContextEntry, FaultReason, RootEntry, TableRules};
use vm_iommu_spec::{DomainId, PhysAddr};

use crate::unit::lock;

/// What the tables say about one requester: the entries read, and what came of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContextLookup {
    /// The root entry and where it is, if it could be read.
    pub(crate) root: Option<(PhysAddr, RootEntry)>,
    /// The context entry and where it is, if it could be read.
    pub(crate) entry: Option<(PhysAddr, ContextEntry)>,
    /// The outcome.
    pub(crate) outcome: Result<Context, FaultReason>,
}

impl ContextLookup {
    /// Looks `source` up in the tables at `root` (section 3.4).
    pub(crate) fn new(
        ram: &GuestRam,
        root: RootTableAddress,
        source: u16,
        rules: &TableRules,
    ) -> Self {
        let [bus, devfn] = source.to_be_bytes();
        let mut lookup = Self {
            root: None,
            entry: None,
            outcome: Err(FaultReason::RootTableAccess),
        };
        let Some((place, low, high)) = load(ram, root.address(), bus) else {
            return lookup;
        };
        let entry = RootEntry::from_words(low, high);
        lookup.root = Some((place, entry));
        let table = match entry.check(rules) {
            Ok(table) => table,
            Err(reason) => {
                lookup.outcome = Err(reason);
                return lookup;
            }
        };
        let Some((place, low, high)) = load(ram, table, devfn) else {
            lookup.outcome = Err(FaultReason::ContextTableAccess);
            return lookup;
        };
        let entry = ContextEntry::from_words(low, high);
        lookup.entry = Some((place, entry));
        lookup.outcome = entry.check(rules);
        lookup
    }

    /// Whether the context entry asks that faults are not recorded.
    pub(crate) fn fault_processing_disable(&self) -> bool {
        self.entry
            .is_some_and(|(_, entry)| entry.fault_processing_disable())
    }
}

/// Loads the 128-bit entry `index` of `table`.
fn load(ram: &GuestRam, table: PhysAddr, index: u8) -> Option<(PhysAddr, u64, u64)> {
    let place = table.checked_add(u64::from(index) * 16)?;
    let low = ram.load(place).ok()?;
    let high = ram.load(place.checked_add(8)?).ok()?;
    Some((place, low, high))
}

/// Whose space it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// Everybody's, while translation is disabled.
    Bypass,
    /// That of a source id.
    Source(u16),
}

/// What IOTLB entries are tagged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TagOwner {
    /// Translation is disabled.
    Bypass,
    /// A domain's tables, or its pass-through.
    Domain { id: DomainId, pass_through: bool },
}

/// What the context cache did since the unit was made.
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

/// Leave to insert what a lookup in the tables finds; void once an invalidation began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContextToken(u64);

/// The context cache. Every space that is fresh is in it: a space that leaves it becomes stale,
/// so that no handle keeps one that an invalidation would not find.
pub(crate) struct ContextCache {
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    generation: u64,
    spaces: HashMap<Owner, Arc<Space>>,
    /// The owners in the order of their insertion: the first is evicted next.
    order: VecDeque<Owner>,
    tags: HashMap<TagOwner, Arc<Tag>>,
    counters: CacheCounters,
}

/// The number of tags above which those of nobody are dropped.
const TAGS_KEPT: usize = 1024;

impl ContextCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            inner: Mutex::default(),
        }
    }

    /// To be taken before the registers and tables are looked at.
    pub(crate) fn token(&self) -> ContextToken {
        ContextToken(self.inner().generation)
    }

    /// The cached space.
    pub(crate) fn find(&self, owner: Owner) -> Option<Arc<Space>> {
        let mut inner = self.inner();
        let found = inner.spaces.get(&owner).cloned();
        match found {
            Some(_) => inner.counters.hits += 1,
            None => inner.counters.misses += 1,
        }
        found
    }

    /// The tag of `owner`, under which its translations are found again.
    pub(crate) fn tag(&self, owner: TagOwner, iotlb: &Iotlb) -> Arc<Tag> {
        let mut inner = self.inner();
        if inner.tags.len() >= TAGS_KEPT && !inner.tags.contains_key(&owner) {
            inner.tags.retain(|_, tag| Arc::strong_count(tag) > 1);
        }
        let tag = inner.tags.entry(owner).or_insert_with(|| iotlb.tag());
        Arc::clone(tag)
    }

    /// The tags of `domain`.
    pub(crate) fn tags_of(&self, domain: DomainId) -> impl Iterator<Item = Arc<Tag>> + use<> {
        let inner = self.inner();
        [false, true]
            .map(|pass_through| {
                let owner = TagOwner::Domain {
                    id: domain,
                    pass_through,
                };
                inner.tags.get(&owner).cloned()
            })
            .into_iter()
            .flatten()
    }

    /// Caches `space`; makes it stale from the start if an invalidation began since the token
    /// was taken, or if the cache is off: it then serves a single access.
    pub(crate) fn insert(&self, token: ContextToken, owner: Owner, space: &Arc<Space>) {
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

    /// Drops everything: translation was switched, or the root table set.
    pub(crate) fn invalidate_all(&self) {
        self.remove(|_, _| true);
    }

    /// Drops the entries in `scope`.
    pub(crate) fn invalidate(&self, scope: ContextScope) {
        self.remove(|owner, space| match (scope, owner) {
            (_, Owner::Bypass) => false,
            (ContextScope::Global, _) => true,
            (ContextScope::Domain(domain), _) => space.domain() == domain,
            (
                ContextScope::Device {
                    source, ignored, ..
                },
                Owner::Source(id),
            ) => (id ^ source) & !ignored == 0,
        });
    }

    fn remove(&self, doomed: impl Fn(Owner, &Space) -> bool) {
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
    pub(crate) fn counters(&self) -> CacheCounters {
        let inner = self.inner();
        CacheCounters {
            entries: inner.spaces.len() as u64,
            ..inner.counters
        }
    }

    /// The source ids that are cached, in their order.
    pub(crate) fn sources(&self) -> Vec<u16> {
        let inner = self.inner();
        let mut sources: Vec<u16> = inner
            .spaces
            .keys()
            .filter_map(|owner| match owner {
                Owner::Source(source) => Some(*source),
                Owner::Bypass => None,
            })
            .collect();
        sources.sort_unstable();
        sources
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}
