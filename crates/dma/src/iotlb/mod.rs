//! The translation cache: set-associative, bounded, tagged, and lock-free to hit.

#[cfg(all(test, loom))]
mod models;

use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError, Weak};

use serde::Serialize;
use vm_iommu_pagetable::{AttributeFlags, Attributes};
use vm_iommu_spec::{Access, Iova};

use crate::observer::{EVERYTHING, Observers};
use crate::set::Key;
use crate::sync::{AtomicU64, Ordering};
use crate::{DmaPort, Tag};
use std::sync::Arc;

/// How large a cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IotlbConfig {
    /// Number of sets of two entries, rounded up to a power of two. 0 turns the cache off.
    ///
    /// Beside it, every [`DmaHandle`](crate::DmaHandle) remembers as many pages of 4 KiB that it
    /// used itself as there are sets, but from 64 to 65,536 of them; each takes 16 bytes.
    pub sets: usize,
}

impl Default for IotlbConfig {
    fn default() -> Self {
        Self { sets: 4096 }
    }
}

/// A range of input pages up to which each page is looked for by itself; above it, every set is
/// searched.
const PROBED_PAGES: u64 = 64;

/// Generations before the numbers repeat; then the lines themselves are emptied.
const GENERATIONS: u64 = 1 << 6;

/// Two lines of one word: the host address of the page, with the permissions and attributes in the
/// bits below 4 KiB, and the memory type in those above what addresses have. Together with the
/// version, a cache line.
type Set = crate::set::Set<2, 1>;

/// Where the word of a line has the single-bit attributes, 6 bits.
const FLAGS_SHIFT: u32 = 6;
/// Where it has the memory type, 3 bits.
const MEMORY_TYPE_SHIFT: u32 = 60;
/// The bits that the host address of a page can have.
const HOST_MASK: u64 = ((1 << 57) - 1) & PAGE_MASK;

/// Entries are pages of at least 4 KiB: the bits of an address below that hold other things.
const PAGE_MASK: u64 = !0xfff;

/// A cached translation of one page.
#[derive(Clone, Copy, Debug)]
pub struct IotlbEntry {
    /// The first byte of the page.
    pub page: Iova,
    /// The size of the page, a power of two in bytes.
    pub page_shift: u8,
    /// What a request may do without asking the unit.
    pub permissions: Access,
    /// What else the tables say of it.
    pub attributes: Attributes,
    /// The host address of the first byte of the page, a multiple of 4 KiB.
    pub host: NonNull<u8>,
}

// SAFETY: the pointer is a plain number here; using it is governed by `OutputSpace`.
unsafe impl Send for IotlbEntry {}

/// Leave to insert what a walk finds, given before the walk: an invalidation in between voids it.
#[derive(Clone, Copy, Debug)]
pub struct FillToken {
    view: View,
    invalidations: u64,
}

/// The part of a cache that belongs to a tag: good until the tag or everything is invalidated.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    tag: u64,
    generation: u64,
}

/// What a cache did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IotlbCounters {
    /// Lookups answered.
    pub hits: u64,
    /// Lookups not answered.
    pub misses: u64,
    /// Entries that made room for others.
    pub evictions: u64,
    /// Invalidations of any granularity.
    pub invalidations: u64,
}

/// One user's lookups, counted where no other thread counts: on a cache line pair of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Lookups {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Lookups {
    /// Counts one lookup; one thread at a time.
    #[inline]
    pub(crate) fn count(&self, hit: bool) {
        let counter = if hit { &self.hits } else { &self.misses };
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// The translation cache of a unit.
pub struct Iotlb {
    sets: Box<[Set]>,
    /// Bit n is set if a page of 2^n bytes may be cached.
    page_shifts: AtomicU64,
    /// A line counts only if it is of this generation; a global invalidation begins a new one.
    generation: AtomicU64,
    /// Held while a generation begins.
    turn: Mutex<()>,
    /// Begun invalidations; raised before anything is removed.
    invalidations: AtomicU64,
    next_tag: AtomicU64,
    evictions: AtomicU64,
    users: Mutex<Users>,
    /// The ports whose memory is cached, all of the same.
    ports: Mutex<Vec<(usize, Weak<DmaPort>)>>,
    observers: Observers,
}

#[derive(Default)]
struct Users {
    live: Vec<Weak<Lookups>>,
    /// The lookups of users that are gone.
    past: (u64, u64),
}

impl Iotlb {
    /// An empty cache.
    pub fn new(config: IotlbConfig) -> Arc<Self> {
        let sets = match config.sets {
            0 => 0,
            sets => sets.next_power_of_two(),
        };
        Arc::new(Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
            page_shifts: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            turn: Mutex::default(),
            invalidations: AtomicU64::new(0),
            next_tag: AtomicU64::new(1),
            evictions: AtomicU64::new(0),
            users: Mutex::default(),
            ports: Mutex::default(),
            observers: Observers::default(),
        })
    }

    /// A tag under which nothing is cached.
    pub fn tag(&self) -> Arc<Tag> {
        Arc::new(Tag::new(self.fresh_tag()))
    }

    /// A tag, under which nothing is cached, for what is translated twice, the second time in the
    /// space of `parent`: no range of its own addresses is known for a range there, so an
    /// invalidation of `parent`, whole or in part, drops everything cached under the new tag.
    pub fn nested_tag(&self, parent: &Tag) -> Arc<Tag> {
        let tag = self.tag();
        parent.nest(&tag);
        tag
    }

    /// The cached page of `tag` that holds `address` and allows `access`.
    #[inline]
    pub fn find(&self, tag: &Tag, address: Iova, access: Access) -> Option<IotlbEntry> {
        self.find_in(self.view(tag), address, access)
    }

    /// The part that belongs to `tag` now.
    #[inline]
    pub(crate) fn view(&self, tag: &Tag) -> View {
        View {
            generation: self.generation.load(Ordering::Acquire),
            tag: tag.value(),
        }
    }

    /// How many sets it has; none where it is off.
    #[inline]
    pub(crate) fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Whether anything is cached at all.
    #[inline]
    pub(crate) fn is_enabled(&self) -> bool {
        !self.sets.is_empty()
    }

    /// As [`find`](Self::find).
    #[inline]
    pub(crate) fn find_in(&self, view: View, address: Iova, access: Access) -> Option<IotlbEntry> {
        let View { tag, generation } = view;
        let mut shifts = self.page_shifts.load(Ordering::Acquire);
        while shifts != 0 {
            let page_shift = shifts.trailing_zeros() as u8;
            shifts &= shifts - 1;
            let page = address.align_down(1 << page_shift);
            let key = key(tag, generation, page, page_shift);
            if let Some([data]) = self.set(tag, page, page_shift)?.find(key)
                && let permissions = Access::from_bits_truncate(data as u8)
                && permissions.contains(access)
            {
                return Some(IotlbEntry {
                    page,
                    page_shift,
                    permissions,
                    attributes: Attributes {
                        flags: AttributeFlags::from_bits_truncate((data >> FLAGS_SHIFT) as u8),
                        memory_type: (data >> MEMORY_TYPE_SHIFT) as u8 & 7,
                    },
                    host: NonNull::new((data & HOST_MASK) as *mut u8)?,
                });
            }
        }
        None
    }

    /// As [`find`](Self::find), with leave to insert what is missing.
    ///
    /// # Errors
    /// The leave, on a miss.
    pub fn lookup(
        &self,
        tag: &Tag,
        address: Iova,
        access: Access,
    ) -> Result<IotlbEntry, FillToken> {
        let view = self.view(tag);
        self.find_in(view, address, access)
            .ok_or_else(|| self.token(view))
    }

    /// Leave to insert what a walk that begins now finds, after a lookup in `view` that missed.
    #[inline]
    pub(crate) fn token(&self, view: View) -> FillToken {
        FillToken {
            invalidations: self.invalidations.load(Ordering::Acquire),
            view,
        }
    }

    /// Caches what a walk found, unless an invalidation began since the lookup that missed.
    /// A page whose host address is not a multiple of 4 KiB is not cached.
    pub fn insert(&self, token: FillToken, entry: IotlbEntry) {
        let host = entry.host.as_ptr().addr() as u64;
        let View { tag, generation } = token.view;
        let Some(set) = self.set(tag, entry.page, entry.page_shift) else {
            return;
        };
        if host & !HOST_MASK != 0 || entry.page_shift < 12 {
            return;
        }
        let key = key(tag, generation, entry.page, entry.page_shift);
        let Attributes { flags, memory_type } = entry.attributes;
        let data = host
            | u64::from(entry.permissions.bits())
            | u64::from(flags.bits()) << FLAGS_SHIFT
            | u64::from(memory_type & 7) << MEMORY_TYPE_SHIFT;
        // Under the lock of the set: an invalidation that begins after this check finds the line.
        let void = || {
            let shift = 1 << entry.page_shift;
            if self.page_shifts.load(Ordering::SeqCst) & shift == 0 {
                self.page_shifts.fetch_or(shift, Ordering::SeqCst);
            }
            self.invalidations.load(Ordering::SeqCst) != token.invalidations
                || self.generation.load(Ordering::SeqCst) != generation
        };
        if set.insert(key, [data], void) {
            self.evictions.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Drops everything.
    pub fn invalidate_all(&self) {
        self.begin_invalidation();
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.generation.load(Ordering::Relaxed) + 1;
        let wraps = next.is_multiple_of(GENERATIONS);
        if wraps {
            // The numbers come round again: lines that bear them must be gone before.
            self.sets.iter().for_each(|set| set.remove(|_| true));
        }
        self.generation.store(next, Ordering::SeqCst);
        if wraps {
            // So must those that were inserted meanwhile under the last number.
            let older = |key: Key| key.word % GENERATIONS != next % GENERATIONS;
            self.sets.iter().for_each(|set| set.remove(older));
        }
        self.observers.unmapped(&EVERYTHING);
    }

    /// Drops everything cached under `tag`, and under tags nested in it.
    pub fn invalidate_tag(&self, tag: &Tag) {
        self.begin_invalidation();
        self.renew(tag);
    }

    /// Gives `tag`, and those nested in it, a fresh value. The depth is that of the nesting.
    fn renew(&self, tag: &Tag) {
        tag.set(self.fresh_tag());
        tag.observers().unmapped(&EVERYTHING);
        tag.nested().iter().for_each(|nested| self.renew(nested));
    }

    /// Drops every page cached under `tag` that holds an address from `first` to `last`, and
    /// everything under tags nested in it.
    pub fn invalidate_range(&self, tag: &Tag, first: Iova, last: Iova) {
        self.begin_invalidation();
        tag.observers().unmapped(&(first..=last));
        tag.nested().iter().for_each(|nested| self.renew(nested));
        let tag = tag.value();
        let overlaps = |key: Key| {
            let (page, page_shift) = page_of(key);
            key.tag == tag && page <= last.0 && page | ((1 << page_shift) - 1) >= first.0
        };
        let shifts = self.page_shifts.load(Ordering::SeqCst);
        let pages = shifts_of(shifts).map(|shift| (last.0 >> shift) - (first.0 >> shift));
        if pages.fold(0, u64::saturating_add) > PROBED_PAGES {
            self.sets.iter().for_each(|set| set.remove(overlaps));
            return;
        }
        for shift in shifts_of(shifts) {
            for page in first.0 >> shift..=last.0 >> shift {
                if let Some(set) = self.set(tag, Iova(page << shift), shift) {
                    set.remove(overlaps);
                }
            }
        }
    }

    /// What the cache did so far.
    pub fn counters(&self) -> IotlbCounters {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let live = users.live.iter().filter_map(Weak::upgrade);
        let (hits, misses) = live.fold(users.past, |(hits, misses), user| {
            (
                hits + user.hits.load(Ordering::Relaxed),
                misses + user.misses.load(Ordering::Relaxed),
            )
        });
        IotlbCounters {
            hits,
            misses,
            evictions: self.evictions.load(Ordering::Relaxed),
            invalidations: self.invalidations.load(Ordering::Relaxed),
        }
    }

    /// Has a port cache here what it resolves in its output space. Whether it may: what is cached
    /// are places in this process, so all ports of a cache have the same memory, and hear of its
    /// changes.
    pub(crate) fn admit(&self, port: &Arc<DmaPort>) -> bool {
        let identity = port.upstream().output.identity();
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.retain(|(_, port)| port.strong_count() > 0);
        if ports.is_empty() {
            // Nobody heard what became of the memory that was cached before.
            self.invalidate_all();
        }
        let is_same = ports.iter().all(|(other, _)| *other == identity);
        if is_same {
            ports.push((identity, Arc::downgrade(port)));
        }
        is_same
    }

    /// A place to count one user's lookups in.
    pub(crate) fn join(&self) -> Arc<Lookups> {
        let lookups = Arc::new(Lookups::default());
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.live.retain(|user| user.strong_count() > 0);
        users.live.push(Arc::downgrade(&lookups));
        lookups
    }

    /// Keeps the counts of a user that goes.
    pub(crate) fn part(&self, lookups: Arc<Lookups>) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.past.0 += lookups.hits.load(Ordering::Relaxed);
        users.past.1 += lookups.misses.load(Ordering::Relaxed);
        drop(lookups);
        users.live.retain(|user| user.strong_count() > 0);
    }

    /// Those whom every invalidation of the whole cache concerns.
    pub(crate) fn observers(&self) -> &Observers {
        &self.observers
    }

    fn begin_invalidation(&self) {
        self.invalidations.fetch_add(1, Ordering::SeqCst);
    }

    fn fresh_tag(&self) -> u64 {
        self.next_tag.fetch_add(1, Ordering::Relaxed)
    }

    /// The set of a page; none if the cache is off. Two neighbouring pages share a set, so that
    /// a dense range needs little of the processor's own caches.
    #[inline]
    fn set(&self, tag: u64, page: Iova, page_shift: u8) -> Option<&Set> {
        let index =
            (page.0 >> page_shift >> 1).wrapping_add(tag.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.sets
            .get(index as usize & self.sets.len().wrapping_sub(1))
    }
}

#[inline]
fn key(tag: u64, generation: u64, page: Iova, page_shift: u8) -> Key {
    let generation = generation % GENERATIONS;
    Key {
        tag,
        word: page.0 & PAGE_MASK | u64::from(page_shift) << 6 | generation,
    }
}

/// The page of a key, and its size.
fn page_of(key: Key) -> (u64, u8) {
    (key.word & PAGE_MASK, (key.word >> 6) as u8 & 0x3f)
}

fn shifts_of(mut mask: u64) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let shift = mask.checked_ilog2()? as u8;
        mask &= !(1 << shift);
        Some(shift)
    })
}
