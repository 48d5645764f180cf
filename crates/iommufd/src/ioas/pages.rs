//! Memory that was mapped, however often.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_iommu_driver::iommu::Domain;
use vm_iommu_spec::{Access, Iova, PhysAddr};

mod pinning;
mod runs;

use runs::Runs;

use super::Exported;
use crate::caller::PAGE_SIZE;
use crate::counts::RangeCount;
use crate::memory::{Account, Backing, Placed, Run};
use crate::{Errno, Process, ProcessId, System};

/// Where pages come from.
pub(crate) enum Source {
    /// From an address of a process, a multiple of the page size.
    Memory { address: u64 },
    /// From an offset of a file, a multiple of the page size.
    File {
        backing: Arc<dyn Backing>,
        start: u64,
    },
    /// From an offset of memory that a device exports, a multiple of the page size.
    Exported { memory: Arc<Exported>, start: u64 },
}

/// Pages that were mapped by one call, and all areas that show them (Linux `iopt_pages`).
///
/// A page is resolved and pinned while a domain or an access uses it, once, and is then the same
/// page whatever becomes of the process.
pub(crate) struct Pages {
    system: Arc<System>,
    source: Source,
    count: u64,
    writable: bool,
    state: Mutex<State>,
}

struct State {
    process: Arc<dyn Process>,
    account: Account,
    /// How many areas' domains and accesses use each page.
    users: RangeCount,
    /// The pages with users.
    runs: Runs,
    pinned: u64,
    /// Exported memory was taken back.
    revoked: bool,
    /// Where exported memory is mapped, to take it back.
    mapped: Vec<Mapped>,
}

struct Mapped {
    domain: Arc<dyn Domain>,
    slice: Slice,
    iova: u64,
}

/// Some bytes of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The first byte, from the first page.
    pub(crate) start: u64,
    /// How many, not 0.
    pub(crate) length: u64,
}

impl Slice {
    pub(crate) fn pages(self) -> RangeInclusive<u64> {
        self.start / PAGE_SIZE..=(self.start + self.length - 1) / PAGE_SIZE
    }
}

/// How pages are mapped in a domain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    pub(crate) access: Access,
    /// Whether more than a page may be mapped at once.
    pub(crate) large_pages: bool,
}

impl Pages {
    pub(crate) fn new(
        system: Arc<System>,
        source: Source,
        count: u64,
        writable: bool,
        process: Arc<dyn Process>,
        account: Account,
    ) -> Arc<Self> {
        let state = State {
            process,
            account,
            users: RangeCount::default(),
            runs: Runs::default(),
            pinned: 0,
            revoked: false,
            mapped: Vec::new(),
        };
        let pages = Self {
            system,
            source,
            count,
            writable,
            state: Mutex::new(state),
        };
        let pages = Arc::new(pages);
        if let Source::Exported { memory, .. } = &pages.source {
            memory.attach(&pages);
        }
        pages
    }

    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    pub(crate) fn is_file(&self) -> bool {
        matches!(self.source, Source::File { .. })
    }

    pub(crate) fn is_exported(&self) -> bool {
        matches!(self.source, Source::Exported { .. })
    }

    /// Where a byte is in its source, for choosing an address that is aligned as well.
    pub(crate) fn source_address(&self, start: u64) -> u64 {
        match &self.source {
            Source::Memory { address: base }
            | Source::File { start: base, .. }
            | Source::Exported { start: base, .. } => base.wrapping_add(start),
        }
    }

    /// Whether a slice is within the pages.
    pub(crate) fn contains(&self, slice: Slice) -> bool {
        slice
            .start
            .checked_add(slice.length - 1)
            .is_some_and(|last| last / PAGE_SIZE < self.count)
    }

    /// Pins a slice and maps it in a domain.
    ///
    /// # Errors
    /// [`Errno::EFAULT`], [`EINVAL`](Errno::EINVAL) past the end of a file,
    /// [`ENOMEM`](Errno::ENOMEM), what the domain says; then nothing has changed.
    pub(crate) fn fill(
        &self,
        domain: &Arc<dyn Domain>,
        iova: u64,
        slice: Slice,
        mode: Mode,
    ) -> Result<(), Errno> {
        let mut state = self.lock();
        if !state.revoked {
            self.pin_locked(&mut state, slice.pages())?;
            let mut at = iova;
            for (address, length) in state.runs.segments(slice) {
                if let Err(error) = map(domain.as_ref(), at, address, length, mode) {
                    unmap(domain.as_ref(), iova, at - iova);
                    self.unpin_locked(&mut state, slice.pages());
                    return Err(error);
                }
                at += length;
            }
        }
        if self.is_exported() {
            state.mapped.push(Mapped {
                domain: Arc::clone(domain),
                slice,
                iova,
            });
        }
        Ok(())
    }

    /// Undoes a [`fill`](Self::fill), or a part of one.
    pub(crate) fn unfill(&self, domain: &Arc<dyn Domain>, iova: u64, slice: Slice) {
        let mut state = self.lock();
        if self.is_exported() {
            state
                .mapped
                .retain(|m| !(Arc::ptr_eq(&m.domain, domain) && m.iova == iova));
        }
        if !state.revoked {
            unmap(domain.as_ref(), iova, slice.length);
            self.unpin_locked(&mut state, slice.pages());
        }
    }

    /// Takes exported memory back from all domains, for good.
    pub(crate) fn revoke(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.revoked, true) {
            return;
        }
        let mapped: Vec<_> = state
            .mapped
            .iter()
            .map(|m| (Arc::clone(&m.domain), m.iova, m.slice))
            .collect();
        for (domain, iova, slice) in mapped {
            unmap(domain.as_ref(), iova, slice.length);
            self.unpin_locked(&mut state, slice.pages());
        }
    }

    /// Pins a slice for an access; yields where its pages are.
    ///
    /// # Errors
    /// As [`fill`](Self::fill); [`Errno::EINVAL`] for exported memory.
    pub(crate) fn pin(&self, slice: Slice) -> Result<Vec<Placed>, Errno> {
        if self.is_exported() {
            return Err(Errno::EINVAL);
        }
        let mut state = self.lock();
        self.pin_locked(&mut state, slice.pages())?;
        let whole = Slice {
            start: slice.pages().start() * PAGE_SIZE,
            length: (slice.pages().end() - slice.pages().start() + 1) * PAGE_SIZE,
        };
        Ok(state.runs.placed(whole))
    }

    /// Undoes a [`pin`](Self::pin).
    pub(crate) fn unpin(&self, slice: Slice) {
        let mut state = self.lock();
        self.unpin_locked(&mut state, slice.pages());
    }

    /// The memory of a slice, for a copy: pages that are not pinned are resolved for it alone.
    ///
    /// # Errors
    /// As [`pin`](Self::pin).
    pub(crate) fn memory(&self, slice: Slice) -> Result<Vec<Run>, Errno> {
        if self.is_exported() {
            return Err(Errno::EINVAL);
        }
        let state = self.lock();
        let mut runs: Vec<(u64, Run)> = state
            .runs
            .with_start(slice)
            .map(|(start, placed)| (start, placed.run))
            .collect();
        for hole in state.users.holes(slice.pages()) {
            let first = (hole.start() * PAGE_SIZE).max(slice.start);
            let last = (hole.end() * PAGE_SIZE + PAGE_SIZE - 1).min(slice.start + slice.length - 1);
            let mut start = hole.start() * PAGE_SIZE;
            for run in self.resolve(&state, hole.clone())? {
                let (begin, end) = (start.max(first), (start + run.length - 1).min(last));
                if begin <= end {
                    let offset = run.offset + (begin - start);
                    let piece = Run {
                        length: end - begin + 1,
                        backing: run.backing,
                        offset,
                    };
                    runs.push((begin, piece));
                }
                start += run.length;
            }
        }
        runs.sort_unstable_by_key(|(start, _)| *start);
        Ok(runs.into_iter().map(|(_, run)| run).collect())
    }

    /// In whose name pages are pinned, and how many.
    pub(crate) fn charged_to(&self) -> (ProcessId, Account, u64) {
        let state = self.lock();
        (state.process.id(), state.account, state.pinned)
    }

    /// Moves what is pinned to another process, which was charged already.
    pub(crate) fn move_to(&self, process: &Arc<dyn Process>) {
        let mut state = self.lock();
        if state.pinned > 0 && state.process.id() != process.id() {
            self.system
                .ledger()
                .credit(state.account, &state.process, state.pinned);
        }
        state.process = Arc::clone(process);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(state.users.is_empty(), "pages are still used");
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

fn map(
    domain: &dyn Domain,
    iova: u64,
    address: PhysAddr,
    length: u64,
    mode: Mode,
) -> Result<(), Errno> {
    let iova = Iova(iova);
    let mapped = match mode.large_pages {
        true => domain.map(iova, address, length, mode.access),
        false => domain.map_in_small_pages(iova, address, length, mode.access),
    };
    Ok(mapped?)
}

fn unmap(domain: &dyn Domain, iova: u64, length: u64) {
    if length == 0 {
        return;
    }
    if let Err(error) = domain.unmap(Iova(iova), length) {
        log::error!("{length:#x} bytes at {iova:#x} could not be unmapped: {error}");
    }
}
