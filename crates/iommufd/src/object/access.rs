//! Accesses: software that reads, writes and pins what is mapped, as a device would.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};

use vm_iommu_spec::{Access as Permission, PhysAddr};

use super::{Context, Object, State};
use crate::Errno;
use crate::caller::PAGE_SIZE;
use crate::ioas::{Area, Ioas, Pages, Slice};
use crate::memory::{BackingId, Placed, Run};

/// Who uses an [`Access`].
pub trait AccessUser: Send + Sync {
    /// Addresses are about to be unmapped: pages that were pinned there are to be unpinned before
    /// this returns, or soon after; otherwise the unmapping fails. No lock of the context is held.
    fn unmap(&self, iova: u64, length: u64);
}

/// An access to an address space. It ends when it is dropped; what it pinned is then unpinned.
pub struct Access {
    context: Arc<Context>,
    id: u32,
}

/// An access in the table of objects.
pub(crate) struct AccessObject {
    pub(crate) ioas: Option<u32>,
    /// The alignment of addresses that it needs.
    alignment: u64,
    /// Who is told of unmappings; an access without one forbids them.
    pub(crate) user: Option<Weak<dyn AccessUser>>,
    pinned: Vec<RangeInclusive<u64>>,
}

/// A page that is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedPage {
    /// Which memory it is of.
    pub backing: BackingId,
    /// Where in that, in bytes.
    pub offset: u64,
    /// Where units find it.
    pub address: PhysAddr,
}

impl Context {
    /// A new access that is attached to the address space of a number. `pins` says whether it
    /// will pin pages; then addresses and memory must be whole pages. `user` is told of
    /// unmappings.
    ///
    /// # Errors
    /// [`Errno::ENOENT`]; [`EADDRINUSE`](Errno::EADDRINUSE) if something is mapped that is not of
    /// whole pages.
    pub fn access(
        self: &Arc<Self>,
        ioas: u32,
        pins: bool,
        user: Weak<dyn AccessUser>,
    ) -> Result<Access, Errno> {
        let alignment = if pins { PAGE_SIZE } else { 1 };
        let id = self.create_access(ioas, alignment, Some(user))?;
        Ok(Access {
            context: Arc::clone(self),
            id,
        })
    }

    pub(super) fn create_access(
        &self,
        ioas: u32,
        alignment: u64,
        user: Option<Weak<dyn AccessUser>>,
    ) -> Result<u32, Errno> {
        let mut state = self.lock();
        state.objects.ioas(ioas)?;
        let object = AccessObject {
            ioas: None,
            alignment,
            user,
            pinned: Vec::new(),
        };
        let id = state.objects.insert(Object::Access(object))?;
        if let Err(error) = state.enter(id, ioas) {
            state.objects.remove(id);
            return Err(error);
        }
        // Only who made it may end it.
        state.objects.hold(id);
        state.objects.publish(id);
        Ok(id)
    }

    pub(super) fn end_access(&self, id: u32) {
        self.shared.end_access(id);
    }
}

impl super::Shared {
    pub(super) fn end_access(&self, id: u32) {
        let mut state = self.lock();
        if let Some(ioas) = state
            .objects
            .access_mut(id)
            .ok()
            .and_then(|access| access.ioas)
        {
            state.leave(id, ioas);
        }
        state.objects.remove(id);
    }
}

impl Access {
    /// Its number in the context.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Pins the pages at a range of addresses; yields them in order.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for no length, or for addresses that are being unmapped or not whole
    /// pages; [`EOVERFLOW`](Errno::EOVERFLOW), [`ENOENT`](Errno::ENOENT) unless all is mapped,
    /// [`EPERM`](Errno::EPERM) unless it may be read, or written; what pinning says.
    pub fn pin(&self, iova: u64, length: u64, write: bool) -> Result<Vec<PinnedPage>, Errno> {
        let placed = self
            .context
            .lock()
            .pin(self.id, iova, length, write, false)?;
        Ok(pages(&placed).collect())
    }

    /// Unpins the pages of a call to [`pin`](Self::pin), which must have been for exactly this
    /// range; otherwise nothing happens.
    pub fn unpin(&self, iova: u64, length: u64) {
        self.context.lock().unpin(self.id, iova, length, false);
    }

    /// Reads what is mapped.
    ///
    /// # Errors
    /// As [`pin`](Self::pin).
    pub fn read(&self, iova: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let length = buffer.len() as u64;
        let mut rest = buffer;
        for run in self.memory(iova, length, false)? {
            let (part, tail) = rest
                .split_at_mut_checked(run.length as usize)
                .ok_or(Errno::EFAULT)?;
            run.backing.read(run.offset, part)?;
            rest = tail;
        }
        Ok(())
    }

    /// Writes what is mapped.
    ///
    /// # Errors
    /// As [`pin`](Self::pin).
    pub fn write(&self, iova: u64, buffer: &[u8]) -> Result<(), Errno> {
        let mut rest = buffer;
        for run in self.memory(iova, buffer.len() as u64, true)? {
            let (part, tail) = rest
                .split_at_checked(run.length as usize)
                .ok_or(Errno::EFAULT)?;
            run.backing.write(run.offset, part)?;
            rest = tail;
        }
        Ok(())
    }

    /// Leaves the address space for that of another number. Pages of the old one are unpinned by
    /// the user, who is told of an unmapping of all.
    ///
    /// # Errors
    /// [`Errno::ENOENT`], [`EADDRINUSE`](Errno::EADDRINUSE) as for a new access.
    pub fn replace(&self, ioas: u32) -> Result<(), Errno> {
        let user = {
            let mut state = self.context.lock();
            state.objects.ioas(ioas)?;
            let object = state.objects.access_mut(self.id)?;
            if object.ioas == Some(ioas) {
                return Ok(());
            }
            let user = object.user.as_ref().and_then(Weak::upgrade);
            state.check_entry(self.id, ioas)?;
            user
        };
        if let Some(user) = user {
            user.unmap(0, u64::MAX);
        }
        let mut state = self.context.lock();
        state.objects.ioas(ioas)?;
        if let Some(old) = state.objects.access_mut(self.id)?.ioas {
            state.leave(self.id, old);
        }
        state.enter(self.id, ioas)
    }

    fn memory(&self, iova: u64, length: u64, write: bool) -> Result<Vec<Run>, Errno> {
        let pieces: Vec<(Arc<Pages>, Slice)> = {
            let state = self.context.lock();
            let (range, ioas) = state.reach(self.id, iova, length)?;
            let areas = ioas.contiguous(&range)?;
            areas.iter().try_for_each(|area| permit(area, write))?;
            areas
                .iter()
                .map(|area| (Arc::clone(&area.pages), area.slice_at(&range)))
                .collect()
        };
        let mut runs = Vec::new();
        for (pages, slice) in pieces {
            if write && !pages.writable() {
                return Err(Errno::EPERM);
            }
            runs.extend(pages.memory(slice)?);
        }
        Ok(runs)
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.context.end_access(self.id);
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AccessObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessObject")
            .field("ioas", &self.ioas)
            .finish_non_exhaustive()
    }
}

/// The pages of pinned pieces.
fn pages(placed: &[Placed]) -> impl Iterator<Item = PinnedPage> + '_ {
    placed.iter().flat_map(|piece| {
        (0..piece.run.length / PAGE_SIZE).map(move |index| PinnedPage {
            backing: piece.run.backing.id(),
            offset: piece.run.offset + index * PAGE_SIZE,
            address: PhysAddr(piece.address.0 + index * PAGE_SIZE),
        })
    })
}

fn permit(area: &Area, write: bool) -> Result<(), Errno> {
    if area.closing {
        return Err(Errno::EINVAL);
    }
    let wanted = if write {
        Permission::WRITE
    } else {
        Permission::READ
    };
    if area.access.contains(wanted) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

impl State {
    /// The address space that an access is attached to, for a range of it.
    fn reach(
        &self,
        access: u32,
        iova: u64,
        length: u64,
    ) -> Result<(RangeInclusive<u64>, &Ioas), Errno> {
        let reach = length.checked_sub(1).ok_or(Errno::EINVAL)?;
        let range = iova..=iova.checked_add(reach).ok_or(Errno::EOVERFLOW)?;
        let ioas = self.objects.access(access)?.ioas.ok_or(Errno::ENOENT)?;
        Ok((range, &self.objects.ioas(ioas)?.ioas))
    }

    /// Pins pages for an access; with `lock` they cannot be unmapped.
    pub(super) fn pin(
        &mut self,
        access: u32,
        iova: u64,
        length: u64,
        write: bool,
        lock: bool,
    ) -> Result<Vec<Placed>, Errno> {
        let (range, ioas) = self.reach(access, iova, length)?;
        let areas = ioas.contiguous(&range)?;
        let mut placed = Vec::new();
        let mut done: Vec<(u64, Arc<Pages>, Slice)> = Vec::new();
        let count = areas.len();
        for (index, area) in areas.into_iter().enumerate() {
            let slice = area.slice_at(&range);
            let whole = slice.start % PAGE_SIZE == 0
                && (index + 1 == count || (slice.start + slice.length) % PAGE_SIZE == 0);
            let result = if whole {
                permit(area, write)
            } else {
                Err(Errno::EINVAL)
            };
            let result = match result {
                Ok(()) if write && !area.pages.writable() => Err(Errno::EPERM),
                Ok(()) => area.pages.pin(slice),
                Err(error) => Err(error),
            };
            match result {
                Ok(pieces) => placed.extend(pieces),
                Err(error) => {
                    done.iter()
                        .for_each(|(_, pages, slice)| pages.unpin(*slice));
                    return Err(error);
                }
            }
            done.push((area.first, Arc::clone(&area.pages), slice));
        }
        let object = self.objects.access_mut(access)?;
        object.pinned.push(range);
        let ioas = object.ioas.ok_or(Errno::ENOENT)?;
        let object = self.objects.ioas_mut(ioas)?;
        for (first, _, _) in done {
            if let Some(area) = object.ioas.area_mut(first) {
                area.accesses += 1;
                area.locks += u32::from(lock);
            }
        }
        Ok(placed)
    }

    /// Undoes a [`pin`](Self::pin) of exactly this range.
    pub(super) fn unpin(&mut self, access: u32, iova: u64, length: u64, lock: bool) {
        let Ok(object) = self.objects.access_mut(access) else {
            return;
        };
        let Some(reach) = length.checked_sub(1) else {
            return;
        };
        let Some(last) = iova.checked_add(reach) else {
            return;
        };
        let range = iova..=last;
        let Some(index) = object.pinned.iter().position(|pinned| *pinned == range) else {
            return;
        };
        object.pinned.swap_remove(index);
        let Some(ioas) = object.ioas else { return };
        let Ok(object) = self.objects.ioas_mut(ioas) else {
            return;
        };
        let firsts: Vec<u64> = match object.ioas.contiguous(&range) {
            Ok(areas) => areas.into_iter().map(|area| area.first).collect(),
            Err(_) => return,
        };
        for first in firsts {
            if let Some(area) = object.ioas.area_mut(first) {
                area.accesses = area.accesses.saturating_sub(1);
                area.locks = area.locks.saturating_sub(u32::from(lock));
                area.pages.unpin(area.slice_at(&range));
            }
        }
    }

    /// Whether an access could enter an address space.
    fn check_entry(&mut self, access: u32, ioas: u32) -> Result<(), Errno> {
        let alignment = self.objects.access_mut(access)?.alignment;
        let ioas = &mut self.objects.ioas_mut(ioas)?.ioas;
        ioas.add_access(access, alignment)?;
        ioas.remove_access(access);
        Ok(())
    }

    /// Attaches an access to an address space.
    fn enter(&mut self, access: u32, ioas: u32) -> Result<(), Errno> {
        let alignment = self.objects.access_mut(access)?.alignment;
        self.objects
            .ioas_mut(ioas)?
            .ioas
            .add_access(access, alignment)?;
        self.objects.hold(ioas);
        let object = self.objects.access_mut(access)?;
        object.ioas = Some(ioas);
        Ok(())
    }

    /// Detaches an access, which unpins what it left pinned.
    pub(super) fn leave(&mut self, access: u32, ioas: u32) {
        let left = match self.objects.access_mut(access) {
            Ok(object) => object.pinned.clone(),
            Err(_) => Vec::new(),
        };
        for range in left {
            self.unpin(
                access,
                *range.start(),
                range.end() - range.start() + 1,
                false,
            );
        }
        if let Ok(object) = self.objects.access_mut(access) {
            object.ioas = None;
        }
        if let Ok(object) = self.objects.ioas_mut(ioas) {
            object.ioas.remove_access(access);
        }
        self.objects.release(ioas);
    }
}
