//! Address spaces: what a requester's context entry resolved to.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use vm_iommu_spec::DomainId;

use crate::observer::{EVERYTHING, Observers};

/// The tag under which a domain's translations are cached.
///
/// A unit keeps one for each domain identifier in use. Giving it a fresh value
/// ([`Iotlb::invalidate_tag`](crate::Iotlb::invalidate_tag)) makes everything cached under the old
/// one unreachable at once.
#[derive(Debug)]
pub struct Tag {
    value: AtomicU64,
    /// Those whose translations go through this one's.
    nested: OnceLock<Mutex<Vec<Weak<Tag>>>>,
    observers: Observers,
}

impl Tag {
    pub(crate) fn new(value: u64) -> Self {
        Self {
            value: AtomicU64::new(value),
            nested: OnceLock::new(),
            observers: Observers::default(),
        }
    }

    /// Makes `tag` one whose translations go through this one's.
    pub(crate) fn nest(&self, tag: &Arc<Tag>) {
        let nested = self.nested.get_or_init(Mutex::default);
        let mut nested = nested.lock().unwrap_or_else(PoisonError::into_inner);
        nested.retain(|tag| tag.strong_count() > 0);
        nested.push(Arc::downgrade(tag));
    }

    /// Those whose translations go through this one's.
    pub(crate) fn nested(&self) -> Vec<Arc<Tag>> {
        let Some(nested) = self.nested.get() else {
            return Vec::new();
        };
        let nested = nested.lock().unwrap_or_else(PoisonError::into_inner);
        nested.iter().filter_map(Weak::upgrade).collect()
    }

    /// The current value.
    #[inline]
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, value: u64) {
        self.value.store(value, Ordering::SeqCst);
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.observers
    }
}

/// The address space that a requester is bound to: the outcome of a unit's context lookup, shared
/// by the unit's context cache and by the handles that use it.
pub struct Space {
    stale: AtomicBool,
    domain: DomainId,
    tag: Arc<Tag>,
    observers: Observers,
    context: Box<dyn Any + Send + Sync>,
}

impl Space {
    /// A space of `domain` whose translations are cached under `tag`; `context` is the unit's own
    /// decoded entry.
    pub fn new(domain: DomainId, tag: Arc<Tag>, context: impl Any + Send + Sync) -> Arc<Self> {
        Arc::new(Self {
            stale: AtomicBool::new(false),
            domain,
            tag,
            observers: Observers::default(),
            context: Box::new(context),
        })
    }

    /// The domain identifier of the entry.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// The tag of the domain.
    #[inline]
    pub fn tag(&self) -> &Arc<Tag> {
        &self.tag
    }

    /// The unit's own decoded entry, if it is a `T`.
    pub fn context<T: 'static>(&self) -> Option<&T> {
        self.context.downcast_ref()
    }

    /// Whether the entry was invalidated; the requester must be bound anew.
    #[inline]
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// Marks the entry invalidated. Accesses that began before may still use it; drain them.
    /// Observers are told that nothing is mapped any more.
    pub fn invalidate(&self) {
        self.stale.store(true, Ordering::SeqCst);
        self.observers.unmapped(&EVERYTHING);
    }
}

impl Space {
    pub(crate) fn observers(&self) -> &Observers {
        &self.observers
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space")
            .field("domain", &self.domain)
            .field("tag", &self.tag.value())
            .field("stale", &self.is_stale())
            .finish_non_exhaustive()
    }
}
