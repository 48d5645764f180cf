//! Pinning by pieces, and what callers' memory is behind pages.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{Pages, Source, State};
use crate::Errno;
use crate::caller::PAGE_SIZE;
use crate::memory::Run;

impl Pages {
    pub(super) fn pin_locked(
        &self,
        state: &mut State,
        pages: RangeInclusive<u64>,
    ) -> Result<(), Errno> {
        let fresh = state.users.add(pages.clone());
        for (index, piece) in fresh.iter().enumerate() {
            if let Err(error) = self.pin_piece(state, piece.clone()) {
                for piece in &fresh[..index] {
                    self.unpin_piece(state, piece.clone());
                }
                state.users.remove(pages);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) fn unpin_locked(&self, state: &mut State, pages: RangeInclusive<u64>) {
        for piece in state.users.remove(pages) {
            self.unpin_piece(state, piece);
        }
    }

    /// Resolves and pins pages that are not.
    fn pin_piece(&self, state: &mut State, pages: RangeInclusive<u64>) -> Result<(), Errno> {
        let count = pages.end() - pages.start() + 1;
        let runs = self.resolve(state, pages.clone())?;
        if !self.is_exported() {
            self.system
                .ledger()
                .charge(state.account, &state.process, count)?;
            state.pinned += count;
        }
        let mut at = *pages.start();
        for run in runs {
            match self.system.frames().pin(&run) {
                Ok(placed) => {
                    for piece in placed {
                        let length = piece.run.length;
                        state.runs.insert(at, piece);
                        at += length / PAGE_SIZE;
                    }
                }
                Err(error) => {
                    if let Some(last) = at.checked_sub(1).filter(|last| last >= pages.start()) {
                        self.drop_runs(state, *pages.start()..=last);
                    }
                    self.uncharge(state, count);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn unpin_piece(&self, state: &mut State, pages: RangeInclusive<u64>) {
        let count = pages.end() - pages.start() + 1;
        self.drop_runs(state, pages);
        self.uncharge(state, count);
    }

    pub(super) fn uncharge(&self, state: &mut State, count: u64) {
        if !self.is_exported() {
            state.pinned -= count;
            self.system
                .ledger()
                .credit(state.account, &state.process, count);
        }
    }

    /// Forgets where pages are.
    pub(super) fn drop_runs(&self, state: &mut State, pages: RangeInclusive<u64>) {
        for placed in state.runs.take(pages) {
            self.system.frames().unpin(&placed.run);
        }
    }

    /// Where pages are.
    pub(super) fn resolve(
        &self,
        state: &State,
        pages: RangeInclusive<u64>,
    ) -> Result<Vec<Run>, Errno> {
        let (offset, length) = (
            pages.start() * PAGE_SIZE,
            (pages.end() - pages.start() + 1) * PAGE_SIZE,
        );
        match &self.source {
            Source::Memory { address } => {
                let address = address.checked_add(offset).ok_or(Errno::EFAULT)?;
                let runs = state.process.resolve(address, length, self.writable)?;
                let sum: u64 = runs.iter().map(|run| run.length).sum();
                let whole = runs.iter().all(|r| (r.length | r.offset) % PAGE_SIZE == 0);
                if sum == length && whole {
                    Ok(runs)
                } else {
                    Err(Errno::EFAULT)
                }
            }
            Source::File { backing, start } => {
                let offset = start.checked_add(offset).ok_or(Errno::EINVAL)?;
                let end = offset.checked_add(length).ok_or(Errno::EINVAL)?;
                // The last page of a file is whole in memory.
                let size = backing.length().unwrap_or(0).next_multiple_of(PAGE_SIZE);
                if end > size {
                    return Err(Errno::EINVAL);
                }
                Ok(vec![Run {
                    length,
                    backing: Arc::clone(backing),
                    offset,
                }])
            }
            Source::Exported { memory, start } => {
                let offset = start.checked_add(offset).ok_or(Errno::EINVAL)?;
                Ok(vec![Run {
                    length,
                    backing: memory.backing(),
                    offset,
                }])
            }
        }
    }
}
