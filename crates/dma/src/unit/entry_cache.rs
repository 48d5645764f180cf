//! Direct-mapped caches of table entries that lookups yield by value: interrupt remapping tables.

use std::sync::{Mutex, MutexGuard};

use super::{CacheCounters, lock};

/// Leave to insert what a load finds; void once an invalidation began.
#[derive(Clone, Copy, Debug)]
pub struct EntryToken(u64);

/// A cache of valid entries `V` by `K`, whose number as a `u64` selects the line.
pub struct EntryCache<K, V> {
    inner: Mutex<Lines<K, V>>,
}

struct Lines<K, V> {
    generation: u64,
    lines: Vec<Option<(K, V)>>,
    counters: CacheCounters,
}

impl<K: Copy + Eq + Into<u64>, V: Copy> EntryCache<K, V> {
    /// An empty cache of `capacity` entries; 0 turns it off.
    pub fn new(capacity: usize) -> Self {
        Self {
            inner: Mutex::new(Lines {
                generation: 0,
                lines: vec![None; capacity],
                counters: CacheCounters::default(),
            }),
        }
    }

    /// To be taken before the registers and tables are looked at.
    pub fn token(&self) -> EntryToken {
        EntryToken(self.inner().generation)
    }

    /// The cached entry.
    pub fn find(&self, key: K) -> Option<V> {
        let mut inner = self.inner();
        let found = inner
            .line(key)
            .and_then(|line| line.filter(|(cached, _)| *cached == key));
        match found {
            Some(_) => inner.counters.hits += 1,
            None => inner.counters.misses += 1,
        }
        found.map(|(_, entry)| entry)
    }

    /// Caches `entry`, unless an invalidation began since the token was taken.
    pub fn insert(&self, token: EntryToken, key: K, entry: V) {
        let mut inner = self.inner();
        if inner.generation != token.0 {
            return;
        }
        if let Some(line) = inner.line(key) {
            let old = line.replace((key, entry));
            if old.is_some_and(|(cached, _)| cached != key) {
                inner.counters.evictions += 1;
            }
        }
    }

    /// Drops the entries whose keys are `doomed`.
    pub fn invalidate(&self, doomed: impl Fn(K) -> bool) {
        let mut inner = self.inner();
        inner.generation = inner.generation.wrapping_add(1);
        inner.counters.invalidations += 1;
        for line in &mut inner.lines {
            if line.is_some_and(|(cached, _)| doomed(cached)) {
                *line = None;
            }
        }
    }

    /// What the cache did so far.
    pub fn counters(&self) -> CacheCounters {
        let inner = self.inner();
        CacheCounters {
            entries: inner.lines.iter().flatten().count() as u64,
            ..inner.counters
        }
    }

    fn inner(&self) -> MutexGuard<'_, Lines<K, V>> {
        lock(&self.inner)
    }
}

impl<K: Copy + Into<u64>, V> Lines<K, V> {
    fn line(&mut self, key: K) -> Option<&mut Option<(K, V)>> {
        let count = self.lines.len() as u64;
        let index = key.into().checked_rem(count)?;
        self.lines.get_mut(index as usize)
    }
}
