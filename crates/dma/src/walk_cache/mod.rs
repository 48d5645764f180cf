//! The paging-structure cache: where walks may start below the root.
//!
//! It holds tables, never pages, under the tags of the [`Iotlb`](crate::Iotlb): renewing a tag
//! there drops what is cached under it here as well. Only tables that a successful walk passed
//! are cached, so no entry stands for one that is not present. A miss of the IOTLB that hits here
//! loads one entry instead of four.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use vm_iommu_pagetable::{
    Nested, NestedFault, NestedWalk, Position, Translation, Visited, WalkFault, Walker,
};
use vm_iommu_spec::{Access, Iova, PhysAddr};

use crate::set::Key;
use crate::sync::{AtomicU64, Ordering};
use crate::{GuestRam, Space, Tag};

/// How large a paging-structure cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkCacheConfig {
    /// Number of sets of three tables, rounded up to a power of two. 0 turns the cache off.
    pub sets: usize,
}

impl Default for WalkCacheConfig {
    fn default() -> Self {
        Self { sets: 512 }
    }
}

/// What a paging-structure cache did since it was made. Lookups are counted without
/// synchronisation: threads that look up at the same moment may be counted as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WalkCacheCounters {
    /// Walks that began below the root.
    pub hits: u64,
    /// Walks that began at the root.
    pub misses: u64,
    /// Tables that made room for others.
    pub evictions: u64,
    /// Invalidations of ranges and of everything; those of tags are the IOTLB's.
    pub invalidations: u64,
}

/// Leave to cache the tables that a walk passes, given before the walk: an invalidation in between
/// voids it.
#[derive(Clone, Copy, Debug)]
pub struct WalkToken {
    tag: u64,
    generation: u64,
    invalidations: u64,
}

/// Three lines of two words: where the table is, and what the entries above it permit.
type Set = crate::set::Set<3, 2>;

/// Generations before the numbers repeat; then the lines themselves are emptied.
const GENERATIONS: u64 = 1 << 16;
/// The bits of an address that even a table of level 1 translates; in a key, they hold generation
/// and level.
const PREFIX_MASK: u64 = !0x1f_ffff;
const LEVEL_SHIFT: u32 = 16;
/// The number of tables up to which each is looked for by itself; above it, every set is searched.
const PROBED_TABLES: u64 = 64;
/// Levels of tables that may be cached: 1 to 6.
const LEVELS: u8 = 7;

/// The paging-structure cache of a unit.
///
/// A unit that drops a range from both caches drops it here first: a walk that began at a table
/// which is gone then finds its leave to fill the IOTLB void.
pub struct WalkCache {
    sets: Box<[Set]>,
    /// Bit n is set if a table of level n may be cached.
    levels: AtomicU64,
    generation: AtomicU64,
    /// Held while a generation begins.
    turn: Mutex<()>,
    /// Begun invalidations; raised before anything is removed.
    invalidations: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

impl WalkCache {
    /// An empty cache.
    pub fn new(config: WalkCacheConfig) -> Arc<Self> {
        let sets = match config.sets {
            0 => 0,
            sets => sets.next_power_of_two(),
        };
        Arc::new(Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
            levels: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            turn: Mutex::default(),
            invalidations: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        })
    }

    /// The lowest cached table of `tag` on the way to `address`, and leave to cache those below
    /// it.
    pub fn lookup(&self, tag: &Tag, address: Iova) -> (Option<Position>, WalkToken) {
        let token = WalkToken {
            invalidations: self.invalidations.load(Ordering::Acquire),
            generation: self.generation.load(Ordering::Acquire),
            tag: tag.value(),
        };
        let mut levels = self.levels.load(Ordering::Acquire);
        while levels != 0 {
            let level = levels.trailing_zeros() as u8;
            levels &= levels - 1;
            let key = key(token.tag, token.generation, address, level);
            if let Some(set) = self.set(key, level)
                && let Some([table, rights]) = set.find(key)
            {
                count(&self.hits);
                let position = Position::from_parts(PhysAddr(table), level, rights);
                return (Some(position), token);
            }
        }
        count(&self.misses);
        (None, token)
    }

    /// Translates `address` of `space` for `access` with the tables at `root` from where the cache
    /// knows the way, and caches the tables below, unless the space was invalidated meanwhile.
    ///
    /// # Errors
    /// As [`Walker::translate`]; a fault never rests on what was cached.
    pub fn translate<F: Walker>(
        &self,
        ram: &GuestRam,
        space: &Space,
        format: &F,
        root: PhysAddr,
        address: Iova,
        access: Access,
    ) -> Result<Translation, WalkFault> {
        let (cached, token) = self.lookup(space.tag(), address);
        let (page, visited) = ram.tables(|tables| match cached {
            // No table below this one is left to be cached.
            Some(cached) if cached.level() == 1 => {
                let outcome = format.translate_from(tables, cached, root, address, access);
                outcome.map(|page| (page, None))
            }
            cached => {
                let cached = cached.unwrap_or(format.root(root));
                let outcome = format.walk_from(tables, cached, root, address, access);
                outcome.map(|walk| (walk.translation, Some((cached, walk.visited))))
            }
        })?;
        if let Some((cached, visited)) = visited
            && !space.is_stale()
        {
            self.keep(token, format, root, cached, address, &visited);
        }
        Ok(page)
    }

    /// The same through two stages. Only tables of the first are cached, as the addresses that the
    /// second translates: what the second says of them is asked anew, so an invalidation of the
    /// second stage alone concerns none of them. It drops them all the same, where it renews the
    /// tag, since other memory may be there then.
    ///
    /// # Errors
    /// As [`Nested::translate`]; a fault never rests on what was cached.
    #[expect(clippy::result_large_err, reason = "it is what the walk yields")]
    pub fn translate_nested<F: Walker, S: Walker>(
        &self,
        ram: &GuestRam,
        space: &Space,
        (first, first_root): (&F, PhysAddr),
        (second, second_root): (&S, PhysAddr),
        address: Iova,
        access: Access,
    ) -> Result<NestedWalk<Translation>, NestedFault> {
        let (cached, token) = self.lookup(space.tag(), address);
        let (page, visited) = ram.tables(|memory| {
            let nested = Nested {
                first,
                second,
                second_root,
                memory,
            };
            match cached {
                Some(cached) if cached.level() == 1 => nested
                    .translate_from(cached, first_root, address, access)
                    .map(|page| (page, None)),
                cached => {
                    let cached = cached.unwrap_or(first.root(first_root));
                    let outcome = nested.walk_from(cached, first_root, address, access);
                    outcome.map(|walk| (walk.translation(), Some((cached, walk.first.visited))))
                }
            }
        })?;
        if let Some((cached, visited)) = visited
            && !space.is_stale()
        {
            self.keep(token, first, first_root, cached, address, &visited);
        }
        Ok(page)
    }

    /// Caches the tables below `cached` that a successful walk visited.
    #[inline]
    fn keep<F: Walker>(
        &self,
        token: WalkToken,
        format: &F,
        root: PhysAddr,
        cached: Position,
        address: Iova,
        visited: &Visited,
    ) {
        // What failed from the cached table was walked again from the root.
        let begun = visited.iter().next().map(|step| step.level);
        let start = if begun == Some(cached.level()) {
            cached
        } else {
            format.root(root)
        };
        let positions = format.positions(start, address, visited);
        self.insert(token, address, positions);
    }

    /// Caches `positions`, which a successful walk of `address` passed, unless an invalidation
    /// began since the lookup.
    pub fn insert(
        &self,
        token: WalkToken,
        address: Iova,
        positions: impl IntoIterator<Item = Position>,
    ) {
        for position in positions {
            let level = position.level();
            if !(1..LEVELS).contains(&level) {
                continue;
            }
            let key = key(token.tag, token.generation, address, level);
            let Some(set) = self.set(key, level) else {
                return;
            };
            let data = [position.table().0, position.rights()];
            // Under the lock of the set: an invalidation that begins after this check finds it.
            let void = || {
                if self.levels.load(Ordering::SeqCst) >> level & 1 == 0 {
                    self.levels.fetch_or(1 << level, Ordering::SeqCst);
                }
                self.invalidations.load(Ordering::SeqCst) != token.invalidations
                    || self.generation.load(Ordering::SeqCst) != token.generation
            };
            if set.insert(key, data, void) {
                self.evictions.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Drops everything.
    pub fn invalidate_all(&self) {
        self.invalidations.fetch_add(1, Ordering::SeqCst);
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
    }

    /// Drops every table of `tag` that translates an address from `first` to `last`: for an
    /// invalidation without the hint that only leaves changed (IH=0; AMD: PDE=1).
    pub fn invalidate_range(&self, tag: &Tag, first: Iova, last: Iova) {
        self.invalidations.fetch_add(1, Ordering::SeqCst);
        let value = tag.value();
        let overlaps = |key: Key| {
            let (from, to) = range_of(key);
            key.tag == value && from <= last.0 && to >= first.0
        };
        let levels = self.levels.load(Ordering::SeqCst);
        let present = || (1..LEVELS).filter(move |level| levels >> level & 1 != 0);
        let tables = present().map(|level| (last.0 >> reach(level)) - (first.0 >> reach(level)));
        if tables.fold(0, u64::saturating_add) > PROBED_TABLES {
            self.sets.iter().for_each(|set| set.remove(overlaps));
            return;
        }
        for level in present() {
            for table in first.0 >> reach(level)..=last.0 >> reach(level) {
                let key = key(value, 0, Iova(table << reach(level)), level);
                if let Some(set) = self.set(key, level) {
                    set.remove(overlaps);
                }
            }
        }
    }

    /// What the cache did so far.
    pub fn counters(&self) -> WalkCacheCounters {
        WalkCacheCounters {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            invalidations: self.invalidations.load(Ordering::Relaxed),
        }
    }

    /// The set of a table; none if the cache is off. Independent of the generation.
    #[inline]
    fn set(&self, key: Key, level: u8) -> Option<&Set> {
        let index = ((key.word & PREFIX_MASK) >> reach(level))
            .wrapping_add(u64::from(level) << 5)
            .wrapping_add(key.tag.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.sets
            .get(index as usize & self.sets.len().wrapping_sub(1))
    }
}

/// Counts, without the cost of an atomic addition.
#[inline]
fn count(counter: &AtomicU64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

/// How many of an address's lower bits a table of `level` translates.
const fn reach(level: u8) -> u32 {
    let reach = 12 + 9 * level as u32;
    if reach > 63 { 63 } else { reach }
}

#[inline]
fn key(tag: u64, generation: u64, address: Iova, level: u8) -> Key {
    let prefix = address.0 >> reach(level) << reach(level);
    Key {
        tag,
        word: prefix | (u64::from(level) << LEVEL_SHIFT) | (generation % GENERATIONS),
    }
}

/// The first and the last address that the table of a key translates.
fn range_of(key: Key) -> (u64, u64) {
    let level = (key.word >> LEVEL_SHIFT) as u8 & 7;
    let first = key.word & PREFIX_MASK;
    (first, first | ((1 << reach(level)) - 1))
}
