//! The translation cache: set-associative, bounded, tagged.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use vm_iommu_spec::{Access, Iova};

use crate::Tag;

/// How large a cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IotlbConfig {
    /// Number of sets, rounded up to a power of two. 0 turns the cache off.
    pub sets: usize,
}

impl Default for IotlbConfig {
    fn default() -> Self {
        Self { sets: 512 }
    }
}

/// Entries in a set.
const WAYS: usize = 4;

/// A range of input pages up to which each page is looked for by itself; above it, every set is
/// searched.
const PROBED_PAGES: u64 = 64;

/// A cached translation of one page.
#[derive(Clone, Copy, Debug)]
pub struct IotlbEntry {
    /// The first byte of the page.
    pub page: Iova,
    /// The size of the page, a power of two in bytes.
    pub page_shift: u8,
    /// What a request may do without asking the unit.
    pub permissions: Access,
    /// The host address of the first byte of the page.
    pub host: NonNull<u8>,
}

// SAFETY: the pointer is a plain number here; using it is governed by `OutputSpace`.
unsafe impl Send for IotlbEntry {}

#[derive(Clone, Copy)]
struct Line {
    tag: u64,
    generation: u64,
    entry: IotlbEntry,
}

#[derive(Default)]
struct Set {
    lines: [Option<Line>; WAYS],
    /// Round robin: the way that is evicted next.
    next: usize,
}

/// Leave to insert what a walk finds, given before the walk: an invalidation in between voids it.
#[derive(Clone, Copy, Debug)]
pub struct FillToken {
    tag: u64,
    generation: u64,
    invalidations: u64,
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

/// The translation cache of a unit.
pub struct Iotlb {
    sets: Box<[Mutex<Set>]>,
    /// Bit n is set if a page of 2^n bytes may be cached.
    page_shifts: AtomicU64,
    /// A line counts only if it is of this generation; a global invalidation begins a new one.
    generation: AtomicU64,
    /// Begun invalidations; raised before anything is removed.
    invalidations: AtomicU64,
    next_tag: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

impl Iotlb {
    /// An empty cache.
    pub fn new(config: IotlbConfig) -> Arc<Self> {
        let sets = match config.sets {
            0 => 0,
            sets => sets.next_power_of_two(),
        };
        Arc::new(Self {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            page_shifts: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            invalidations: AtomicU64::new(0),
            next_tag: AtomicU64::new(1),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        })
    }

    /// A tag under which nothing is cached.
    pub fn tag(&self) -> Arc<Tag> {
        Arc::new(Tag::new(self.fresh_tag()))
    }

    /// The cached page of `tag` that holds `address` and allows `access`, or leave to insert it.
    ///
    /// # Errors
    /// The leave, on a miss.
    pub fn lookup(
        &self,
        tag: &Tag,
        address: Iova,
        access: Access,
    ) -> Result<IotlbEntry, FillToken> {
        let token = FillToken {
            invalidations: self.invalidations.load(Ordering::Acquire),
            generation: self.generation.load(Ordering::Acquire),
            tag: tag.value(),
        };
        let mut shifts = self.page_shifts.load(Ordering::Acquire);
        while shifts != 0 && !self.sets.is_empty() {
            let shift = shifts.trailing_zeros() as u8;
            shifts &= shifts - 1;
            let page = address.align_down(1 << shift);
            let set = self.set(token.tag, page, shift);
            let found = set.lines.iter().flatten().find(|line| {
                line.tag == token.tag
                    && line.generation == token.generation
                    && line.entry.page == page
                    && line.entry.page_shift == shift
                    && line.entry.permissions.contains(access)
            });
            if let Some(line) = found {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(line.entry);
            }
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        Err(token)
    }

    /// Caches what a walk found, unless an invalidation began since the lookup that missed.
    pub fn insert(&self, token: FillToken, entry: IotlbEntry) {
        if self.sets.is_empty() {
            return;
        }
        let mut set = self.set(token.tag, entry.page, entry.page_shift);
        // Under the lock of the set: an invalidation that begins after this check finds the line.
        if self.invalidations.load(Ordering::SeqCst) != token.invalidations {
            return;
        }
        self.page_shifts
            .fetch_or(1 << entry.page_shift, Ordering::SeqCst);
        let line = Line {
            tag: token.tag,
            generation: token.generation,
            entry,
        };
        let same = |old: &Line| {
            old.tag == line.tag
                && old.entry.page == entry.page
                && old.entry.page_shift == entry.page_shift
        };
        let place = set
            .lines
            .iter()
            .position(|old| old.as_ref().is_some_and(same))
            .or_else(|| {
                set.lines
                    .iter()
                    .position(|old| old.is_none_or(|old| old.generation != line.generation))
            });
        let place = place.unwrap_or_else(|| {
            self.evictions.fetch_add(1, Ordering::Relaxed);
            let place = set.next;
            set.next = (place + 1) % WAYS;
            place
        });
        set.lines[place] = Some(line);
    }

    /// Drops everything.
    pub fn invalidate_all(&self) {
        self.begin_invalidation();
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Drops everything cached under `tag`.
    pub fn invalidate_tag(&self, tag: &Tag) {
        self.begin_invalidation();
        tag.set(self.fresh_tag());
    }

    /// Drops every page cached under `tag` that holds an address from `first` to `last`.
    pub fn invalidate_range(&self, tag: &Tag, first: Iova, last: Iova) {
        self.begin_invalidation();
        let tag = tag.value();
        let overlaps = |line: &Line| {
            let end = line.entry.page.0 | ((1 << line.entry.page_shift) - 1);
            line.tag == tag && line.entry.page <= last && end >= first.0
        };
        let shifts = self.page_shifts.load(Ordering::SeqCst);
        let pages = shifts_of(shifts).map(|shift| (last.0 >> shift) - (first.0 >> shift) + 1);
        if pages.fold(0, u64::saturating_add) > PROBED_PAGES {
            for set in &self.sets {
                lock(set).remove(overlaps);
            }
            return;
        }
        for shift in shifts_of(shifts) {
            for page in first.0 >> shift..=last.0 >> shift {
                self.set(tag, Iova(page << shift), shift).remove(overlaps);
            }
        }
    }

    /// What the cache did so far.
    pub fn counters(&self) -> IotlbCounters {
        IotlbCounters {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            invalidations: self.invalidations.load(Ordering::Relaxed),
        }
    }

    fn begin_invalidation(&self) {
        self.invalidations.fetch_add(1, Ordering::SeqCst);
    }

    fn fresh_tag(&self) -> u64 {
        self.next_tag.fetch_add(1, Ordering::Relaxed)
    }

    fn set(&self, tag: u64, page: Iova, shift: u8) -> MutexGuard<'_, Set> {
        let mixed = (page.0 >> shift)
            .wrapping_add(tag.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .wrapping_add(u64::from(shift));
        lock(&self.sets[(mixed ^ mixed >> 29) as usize & (self.sets.len() - 1)])
    }
}

impl Set {
    fn remove(&mut self, doomed: impl Fn(&Line) -> bool) {
        for line in &mut self.lines {
            if line.as_ref().is_some_and(&doomed) {
                *line = None;
            }
        }
    }
}

fn shifts_of(mut mask: u64) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let shift = mask.checked_ilog2()? as u8;
        mask &= !(1 << shift);
        Some(shift)
    })
}

fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}
