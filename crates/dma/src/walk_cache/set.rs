//! One set of the cache: a few lines behind a sequence lock, as those of the IOTLB.

use crate::sync::{AtomicU64, Ordering, fence, relax, sequential};

/// Lines in a set: with the version, two cache lines.
const WAYS: usize = 3;

/// What identifies a line: the tag of the address space, and the upper bits of the address with
/// level and generation below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) tag: u64,
    pub(super) word: u64,
}

/// Where a table is, and what the entries above it permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) address: u64,
    pub(super) rights: u64,
}

#[derive(Debug, Default)]
struct Line {
    /// 0 in an empty line; no address space has tag 0.
    tag: AtomicU64,
    word: AtomicU64,
    address: AtomicU64,
    rights: AtomicU64,
}

impl Line {
    #[inline]
    fn key(&self) -> Key {
        Key {
            tag: self.tag.load(Ordering::Relaxed),
            word: self.word.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Set {
    version: AtomicU64,
    lines: [Line; WAYS],
}

impl Set {
    /// The table of the line with this key; none while a writer is at work.
    #[inline]
    pub(super) fn find(&self, key: Key) -> Option<Table> {
        let version = self.version.load(Ordering::Acquire);
        let line = self.lines.iter().find(|line| line.key() == key)?;
        let table = Table {
            address: line.address.load(Ordering::Relaxed),
            rights: line.rights.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        (version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version)
            .then_some(table)
    }

    /// Writes a line unless `void` says, under the lock, that it must not be. Whether another
    /// line had to go.
    pub(super) fn insert(&self, key: Key, table: Table, void: impl FnOnce() -> bool) -> bool {
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
            line.address.store(table.address, Ordering::Relaxed);
            line.rights.store(table.rights, Ordering::Relaxed);
            evicted
        })
    }

    /// Empties every line that `doomed` names. The caller raised a count before, which writers
    /// check under the lock: one that this does not see at work sees the count.
    pub(super) fn remove(&self, doomed: impl Fn(Key) -> bool) {
        let present = |line: &Line| line.key().tag != 0 && doomed(line.key());
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
