//! One set of a cache: a few lines behind a sequence lock.
//!
//! Readers take nothing: they read the version, the lines, and the version again. A writer makes
//! the version odd while it changes lines; a reader that meets an odd or changed version has
//! missed.

use crate::sync::{AtomicU64, Ordering, fence, relax, sequential};

/// What identifies a line: the tag of the address space, and the address with what else the cache
/// tells lines apart by, in bits that its addresses have at zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) tag: u64,
    pub(crate) word: u64,
}

#[derive(Debug)]
struct Line<const WORDS: usize> {
    /// 0 in an empty line; no address space has tag 0.
    tag: AtomicU64,
    word: AtomicU64,
    data: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Line<WORDS> {
    #[inline]
    fn key(&self) -> Key {
        Key {
            tag: self.tag.load(Ordering::Relaxed),
            word: self.word.load(Ordering::Relaxed),
        }
    }
}

/// A set of `WAYS` lines, each with `WORDS` words of data.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Set<const WAYS: usize, const WORDS: usize> {
    version: AtomicU64,
    lines: [Line<WORDS>; WAYS],
}

impl<const WAYS: usize, const WORDS: usize> Default for Set<WAYS, WORDS> {
    fn default() -> Self {
        let line = |()| Line {
            tag: AtomicU64::new(0),
            word: AtomicU64::new(0),
            data: [(); WORDS].map(|()| AtomicU64::new(0)),
        };
        Self {
            version: AtomicU64::new(0),
            lines: [(); WAYS].map(line),
        }
    }
}

impl<const WAYS: usize, const WORDS: usize> Set<WAYS, WORDS> {
    /// The data of the line with this key; none while a writer is at work.
    #[inline]
    pub(crate) fn find(&self, key: Key) -> Option<[u64; WORDS]> {
        let version = self.version.load(Ordering::Acquire);
        let line = self.lines.iter().find(|line| line.key() == key)?;
        let data = line
            .data
            .each_ref()
            .map(|word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version)
            .then_some(data)
    }

    /// Writes a line unless `void` says, under the lock, that it must not be. Whether another
    /// line had to go.
    pub(crate) fn insert(&self, key: Key, data: [u64; WORDS], void: impl FnOnce() -> bool) -> bool {
        self.locked(|version| {
            if void() {
                return false;
            }
            let same = self.lines.iter().position(|line| line.key() == key);
            let empty = || self.lines.iter().position(|line| line.key().tag == 0);
            let (way, evicted) = match same.or_else(empty) {
                Some(way) => (way, false),
                None => ((version / 2) as usize % WAYS, true),
            };
            let line = &self.lines[way];
            line.tag.store(key.tag, Ordering::Relaxed);
            line.word.store(key.word, Ordering::Relaxed);
            for (word, data) in line.data.iter().zip(data) {
                word.store(data, Ordering::Relaxed);
            }
            evicted
        })
    }

    /// Empties every line that `doomed` names. The caller raised a count before, which writers
    /// check under the lock: one that this does not see at work sees the count.
    pub(crate) fn remove(&self, doomed: impl Fn(Key) -> bool) {
        let present = |line: &Line<WORDS>| line.key().tag != 0 && doomed(line.key());
        sequential();
        let version = self.version.load(Ordering::SeqCst);
        if version.is_multiple_of(2) && !self.lines.iter().any(present) {
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) == version {
                return;
            }
        }
        self.locked(|_| {
            for line in self.lines.iter().filter(|line| present(line)) {
                line.tag.store(0, Ordering::Relaxed);
            }
        });
    }

    /// Runs `change` with the version odd. Held for a few stores only.
    fn locked<R>(&self, change: impl FnOnce(u64) -> R) -> R {
        let mut spins = 0;
        let mut version = self.version.load(Ordering::Relaxed);
        loop {
            if !version.is_multiple_of(2) {
                relax(&mut spins);
                version = self.version.load(Ordering::Relaxed);
                continue;
            }
            match self.version.compare_exchange_weak(
                version,
                version + 1,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(found) => version = found,
            }
        }
        sequential();
        fence(Ordering::Release);
        let result = change(version);
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
        result
    }
}
