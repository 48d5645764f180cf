//! Addresses for memory in the space that units put out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_iommu_spec::PhysAddr;

use super::space::Ports;
use super::{Backing, BackingId, HostRange, Run};
use crate::Errno;
use crate::caller::PAGE_SIZE;
use crate::counts::RangeCount;

/// Memory gets addresses in pieces of this size and alignment, so that pages which are adjacent
/// in it are adjacent there, and as aligned, for tables to use large pages.
const CHUNK: u64 = 1 << 30;

/// What is pinned, and at which physical address a unit finds it.
///
/// The same page has one address, whoever pinned it and by whichever way. Addresses are given out
/// from a range that the embedder keeps free of other memory.
#[derive(Debug)]
pub struct Frames {
    range: Range<u64>,
    state: Mutex<State>,
    ports: Ports,
}

#[derive(Default)]
struct State {
    chunks: HashMap<(BackingId, u64), Chunk>,
    /// Which backing is at the chunk of a number.
    taken: BTreeMap<u64, (BackingId, u64)>,
    /// Numbers below `next` that are free.
    free: BTreeSet<u64>,
    next: u64,
}

struct Chunk {
    number: u64,
    backing: Arc<dyn Backing>,
    /// By page of the chunk.
    pins: RangeCount,
}

/// A piece of pinned memory.
#[derive(Clone)]
pub(crate) struct Placed {
    pub(crate) address: PhysAddr,
    pub(crate) run: Run,
}

impl Frames {
    /// Gives out addresses from `range`; what of it is not a whole GiB stays unused.
    pub fn new(range: Range<PhysAddr>) -> Self {
        let start = range
            .start
            .0
            .checked_next_multiple_of(CHUNK)
            .unwrap_or(u64::MAX);
        Self {
            range: start..range.end.0.max(start),
            state: Mutex::default(),
            ports: Ports::default(),
        }
    }

    /// Pins whole pages; yields where they are.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`] if there are no more addresses; then nothing is pinned.
    pub(crate) fn pin(&self, run: &Run) -> Result<Vec<Placed>, Errno> {
        let end = run.offset.checked_add(run.length).ok_or(Errno::EFAULT)?;
        let mut state = self.lock();
        let mut placed = Vec::new();
        let mut offset = run.offset;
        while offset < end {
            let length = (end - offset).min(CHUNK - offset % CHUNK);
            let piece = Run {
                length,
                backing: Arc::clone(&run.backing),
                offset,
            };
            match state.place(&self.range, piece) {
                Ok(piece) => placed.push(piece),
                Err(error) => {
                    for piece in &placed {
                        state.remove(&piece.run);
                    }
                    return Err(error);
                }
            }
            offset += length;
        }
        Ok(placed)
    }

    /// Takes back what [`pin`](Self::pin) did for a piece that it yielded, or a part of one.
    /// When it returns, no device reaches what is pinned by nobody any more. The caller must not
    /// be inside an epoch.
    pub(crate) fn unpin(&self, run: &Run) {
        let removed = self.lock().remove(run);
        if removed.is_bare {
            self.ports.forget();
        }
        // Only now may it go.
        drop(removed.backing);
    }

    /// The ports of devices that reach this memory.
    pub(super) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// How often a page is pinned.
    #[cfg(any(test, feature = "selftest"))]
    pub(crate) fn pins(&self, backing: BackingId, offset: u64) -> u64 {
        let state = self.lock();
        let chunk = state.chunks.get(&(backing, offset / CHUNK));
        chunk.map_or(0, |chunk| chunk.pins.at(offset % CHUNK / PAGE_SIZE))
    }

    /// Where a page is, if it is pinned.
    #[cfg(any(test, feature = "selftest"))]
    pub(crate) fn address(&self, backing: BackingId, offset: u64) -> Option<PhysAddr> {
        let state = self.lock();
        let chunk = state.chunks.get(&(backing, offset / CHUNK))?;
        (chunk.pins.at(offset % CHUNK / PAGE_SIZE) > 0)
            .then(|| PhysAddr(self.range.start + chunk.number * CHUNK + offset % CHUNK))
    }

    /// Which memory is at a physical address, and where in it; `None` if none is pinned there.
    pub fn find(&self, address: PhysAddr) -> Option<(Arc<dyn Backing>, u64)> {
        let place = address.0.checked_sub(self.range.start)?;
        let state = self.lock();
        let key = state.taken.get(&(place / CHUNK))?;
        let chunk = state.chunks.get(key)?;
        (chunk.pins.at(place % CHUNK / PAGE_SIZE) > 0)
            .then(|| (Arc::clone(&chunk.backing), key.1 * CHUNK + place % CHUNK))
    }

    /// Where this process reaches the `length` bytes at a physical address, if all are pinned, in
    /// one piece, and directly reachable.
    pub fn host(&self, address: PhysAddr, length: u64) -> Option<HostRange> {
        let place = address.0.checked_sub(self.range.start)?;
        let last = address.last_byte(length)?.0 - self.range.start;
        if place / CHUNK != last / CHUNK {
            return None;
        }
        let state = self.lock();
        let key = state.taken.get(&(place / CHUNK))?;
        let chunk = state.chunks.get(key)?;
        let pages = place % CHUNK / PAGE_SIZE..=last % CHUNK / PAGE_SIZE;
        if !chunk.pins.holes(pages).is_empty() {
            return None;
        }
        chunk.backing.host(key.1 * CHUNK + place % CHUNK, length)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn place(&mut self, range: &Range<u64>, run: Run) -> Result<Placed, Errno> {
        let key = (run.backing.id(), run.offset / CHUNK);
        if !self.chunks.contains_key(&key) {
            let number = self.free.first().copied().unwrap_or(self.next);
            if number >= (range.end - range.start) / CHUNK {
                return Err(Errno::ENOMEM);
            }
            self.free.remove(&number);
            self.next = self.next.max(number + 1);
            let backing = Arc::clone(&run.backing);
            self.chunks.insert(
                key,
                Chunk {
                    number,
                    backing,
                    pins: RangeCount::default(),
                },
            );
            self.taken.insert(number, key);
        }
        let chunk = self.chunks.get_mut(&key).ok_or(Errno::ENOMEM)?;
        chunk.pins.add(pages(&run));
        let address = PhysAddr(range.start + chunk.number * CHUNK + run.offset % CHUNK);
        Ok(Placed { address, run })
    }

    fn remove(&mut self, run: &Run) -> Removed {
        let key = (run.backing.id(), run.offset / CHUNK);
        let Some(chunk) = self.chunks.get_mut(&key) else {
            return Removed::default();
        };
        let mut removed = Removed {
            is_bare: !chunk.pins.remove(pages(run)).is_empty(),
            backing: None,
        };
        if chunk.pins.is_empty() {
            let number = chunk.number;
            removed.backing = self.chunks.remove(&key).map(|chunk| chunk.backing);
            self.taken.remove(&number);
            self.free.insert(number);
        }
        removed
    }
}

/// What the end of a pin left.
#[derive(Default)]
struct Removed {
    /// A page is pinned by nobody any more.
    is_bare: bool,
    /// No page of this is pinned any more.
    backing: Option<Arc<dyn Backing>>,
}

fn pages(run: &Run) -> RangeInclusive<u64> {
    let first = run.offset % CHUNK / PAGE_SIZE;
    first..=first + run.length.div_ceil(PAGE_SIZE).max(1) - 1
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}
