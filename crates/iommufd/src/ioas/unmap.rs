//! Unmapping and splitting.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{Area, Ioas, Slice};
use crate::Errno;

/// How far an unmapping came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unmap {
    /// All is unmapped.
    Done,
    /// Accesses must let go of these addresses first; then it goes on.
    Notify(RangeInclusive<u64>),
}

impl Ioas {
    /// Unmaps whole areas from `start` to `last`, as far as accesses let it. `start` moves to
    /// where it is to go on, `unmapped` grows by the bytes that were unmapped.
    ///
    /// # Errors
    /// [`Errno::EBUSY`] if an area is locked, [`ENOENT`](Errno::ENOENT) if one would be split.
    /// What was unmapped before stays so.
    pub(crate) fn unmap(
        &mut self,
        start: &mut u64,
        last: u64,
        unmapped: &mut u64,
    ) -> Result<Unmap, Errno> {
        while *start <= last {
            let meeting = match self.area_at(*start) {
                Some(area) => Some(area.first),
                None => self
                    .areas
                    .range(*start..=last)
                    .next()
                    .map(|(first, _)| *first),
            };
            let Some(area) = meeting.and_then(|first| self.areas.get_mut(&first)) else {
                break;
            };
            if area.locks > 0 {
                return Err(Errno::EBUSY);
            }
            if area.first < *start || area.last() > last {
                return Err(Errno::ENOENT);
            }
            if area.accesses > 0 {
                area.closing = true;
                *start = area.first;
                return Ok(Unmap::Notify(area.range()));
            }
            let first = area.first;
            if let Some(area) = self.areas.remove(&first) {
                self.domains.values().for_each(|domain| area.unfill(domain));
                self.give(area.range());
                *unmapped += area.slice.length;
                match area.last().checked_add(1) {
                    Some(next) => *start = next,
                    None => break,
                }
            }
        }
        Ok(Unmap::Done)
    }

    /// Splits the area around `iova`, if there is one, so that it ends there.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`] if the context has too many areas, [`EBUSY`](Errno::EBUSY) while it is being
    /// unmapped, [`EOPNOTSUPP`](Errno::EOPNOTSUPP) for exported
    /// memory, [`EINVAL`](Errno::EINVAL) if the place is not aligned, pages are in use by an access
    /// or large pages may be mapped.
    pub(crate) fn split(&mut self, iova: u64) -> Result<(), Errno> {
        let Some(area) = self.area_at(iova) else {
            return Ok(());
        };
        if iova == area.first || iova == area.last() {
            return Ok(());
        }
        if area.closing {
            return Err(Errno::EBUSY);
        }
        if area.pages.is_exported() {
            return Err(Errno::EOPNOTSUPP);
        }
        let length = iova - area.first + 1;
        let start = area.slice.start + length;
        if ((iova + 1) | start) & (self.alignment - 1) != 0 || area.accesses > 0 {
            return Err(Errno::EINVAL);
        }
        if !self.domains.is_empty() && self.large_pages {
            return Err(Errno::EINVAL);
        }
        let rest = Slice {
            start,
            length: area.slice.length - length,
        };
        let right = Area {
            first: iova + 1,
            pages: Arc::clone(&area.pages),
            slice: rest,
            access: area.access,
            accesses: 0,
            locks: area.locks,
            closing: false,
            room: area.room.another()?,
        };
        let first = area.first;
        if let Some(left) = self.areas.get_mut(&first) {
            left.slice.length = length;
        }
        self.areas.insert(right.first, right);
        Ok(())
    }
}
