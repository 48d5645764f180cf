//! Objects as types, for those who call in Rust.

use std::ops::RangeInclusive;
use std::sync::Arc;

use vm_iommu_driver::iommu::PagingOptions;
use vm_iommu_spec::{Access, Iova};

use super::{BoundDevice, Context, HwptRequest, MapRequest, PageFaults};
use crate::ioas::BitmapRequest;
use crate::{Caller, Errno};

/// An address space of a context (IOAS). It stays when this is dropped, as long as the context.
#[derive(Clone, Debug)]
pub struct Ioas {
    context: Arc<Context>,
    id: u32,
}

/// A hardware page table of a context (HWPT). It stays when this is dropped, as long as the
/// context.
#[derive(Clone, Debug)]
pub struct HwPageTable {
    pub(super) context: Arc<Context>,
    pub(super) id: u32,
}

/// What a device can be attached to: an [`Ioas`], a [`HwPageTable`], or either by its number.
pub trait AttachTarget {
    /// Its number in the context.
    fn id(&self) -> u32;
}

impl AttachTarget for Ioas {
    fn id(&self) -> u32 {
        self.id
    }
}

impl AttachTarget for HwPageTable {
    fn id(&self) -> u32 {
        self.id
    }
}

impl AttachTarget for u32 {
    fn id(&self) -> u32 {
        *self
    }
}

impl Context {
    /// A new address space, that shows nothing.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`] if there are no more numbers.
    pub fn ioas(self: &Arc<Self>) -> Result<Ioas, Errno> {
        let id = self.create_ioas()?;
        self.publish(id);
        let context = Arc::clone(self);
        Ok(Ioas { context, id })
    }
}

impl Ioas {
    /// Its number in the context.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Maps `length` bytes of the caller's memory from `address`, at `iova` or anywhere; yields
    /// where. Nothing is pinned, nor looked for, until a device or an access uses it.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for what is not aligned, reserved addresses and no length;
    /// [`EEXIST`](Errno::EEXIST), [`ENOSPC`](Errno::ENOSPC), [`EOVERFLOW`](Errno::EOVERFLOW);
    /// [`EFAULT`](Errno::EFAULT) and [`ENOMEM`](Errno::ENOMEM) when it is pinned at once;
    /// [`ENOENT`](Errno::ENOENT) if the address space was destroyed.
    pub fn map(
        &self,
        caller: &dyn Caller,
        address: u64,
        length: u64,
        iova: Option<Iova>,
        access: Access,
    ) -> Result<Iova, Errno> {
        let request = self.request(length, iova, access)?;
        self.context.map(caller, address, request).map(Iova)
    }

    /// As [`map`](Self::map), from an offset of a file of the caller.
    ///
    /// # Errors
    /// As there; [`Errno::EBADF`], and [`EINVAL`](Errno::EINVAL) past the end of the file.
    pub fn map_file(
        &self,
        caller: &dyn Caller,
        descriptor: i32,
        start: u64,
        length: u64,
        iova: Option<Iova>,
        access: Access,
    ) -> Result<Iova, Errno> {
        let request = self.request(length, iova, access)?;
        self.context
            .map_file(caller, descriptor, start, request)
            .map(Iova)
    }

    /// Maps what is mapped in an address space of the same context: the same pages.
    ///
    /// # Errors
    /// As [`map`](Self::map); [`Errno::ENOENT`] unless all of it is mapped there,
    /// [`EPERM`](Errno::EPERM) to write what may only be read, [`EINVAL`](Errno::EINVAL) for an
    /// address space of another context.
    pub fn copy(
        &self,
        from: &Self,
        from_iova: Iova,
        length: u64,
        iova: Option<Iova>,
        access: Access,
    ) -> Result<Iova, Errno> {
        if !Arc::ptr_eq(&self.context, &from.context) {
            return Err(Errno::EINVAL);
        }
        let request = self.request(length, iova, access)?;
        self.context.copy(from.id, from_iova.0, request).map(Iova)
    }

    /// Unmaps whole areas; yields how many bytes that were. When it returns, no device uses them.
    ///
    /// # Errors
    /// [`Errno::ENOENT`] if an area would be split, [`EBUSY`](Errno::EBUSY) if one is locked,
    /// [`EDEADLK`](Errno::EDEADLK) if an access does not let go of pages.
    pub fn unmap(&self, range: RangeInclusive<Iova>) -> Result<u64, Errno> {
        self.context.unmap(self.id, range.start().0..=range.end().0)
    }

    /// Confines automatic placement to some ranges, in place of those before; none is no limit.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if ranges are empty or meet, [`EADDRINUSE`](Errno::EADDRINUSE) if one
    /// meets a reserved one.
    pub fn allow(&self, ranges: &[RangeInclusive<Iova>]) -> Result<(), Errno> {
        let ranges: Vec<_> = ranges
            .iter()
            .map(|range| range.start().0..=range.end().0)
            .collect();
        self.context
            .lock()
            .objects
            .visible_ioas_mut(self.id)?
            .ioas
            .allow(&ranges)
    }

    /// The ranges that are not reserved, in ascending order.
    ///
    /// # Errors
    /// [`Errno::ENOENT`].
    pub fn usable(&self) -> Result<Vec<RangeInclusive<Iova>>, Errno> {
        let state = self.context.lock();
        let usable = state.objects.ioas(self.id)?.ioas.usable();
        Ok(usable
            .into_iter()
            .map(|range| Iova(*range.start())..=Iova(*range.end()))
            .collect())
    }

    /// Makes a table for a device that shows this address space; page requests go to `faults`.
    ///
    /// # Errors
    /// [`Errno::EOPNOTSUPP`] for an option that the unit lacks, [`EADDRINUSE`](Errno::EADDRINUSE)
    /// if something is mapped that the unit cannot map, [`ENOENT`](Errno::ENOENT); what pinning
    /// and the unit say.
    pub fn table(
        &self,
        device: &BoundDevice,
        options: PagingOptions,
        faults: Option<&PageFaults>,
    ) -> Result<HwPageTable, Errno> {
        if faults.is_some_and(|faults| !faults.is_of(&self.context)) {
            return Err(Errno::EINVAL);
        }
        let id = self.context.create_hwpt(&HwptRequest {
            device: device.id(),
            on: self.id,
            options,
            fault: faults.map(PageFaults::id),
            data: &|| Ok(None),
            has_data: false,
        })?;
        self.context.publish(id);
        let context = Arc::clone(&self.context);
        Ok(HwPageTable { context, id })
    }

    /// Destroys it.
    ///
    /// # Errors
    /// [`Errno::EBUSY`] while a table or an access uses it.
    pub fn destroy(&self) -> Result<(), Errno> {
        self.context.destroy(self.id)
    }

    fn request(
        &self,
        length: u64,
        iova: Option<Iova>,
        access: Access,
    ) -> Result<MapRequest, Errno> {
        if access.is_empty() || !(Access::READ | Access::WRITE).contains(access) {
            return Err(Errno::EINVAL);
        }
        let iova = iova.map(|iova| iova.0);
        Ok(MapRequest {
            ioas: self.id,
            iova,
            length,
            access,
        })
    }
}

impl HwPageTable {
    /// Its number in the context.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Begins or ends to track what is written through it; what was written before is forgotten.
    ///
    /// # Errors
    /// [`Errno::EOPNOTSUPP`] unless it was made for it.
    pub fn set_dirty_tracking(&self, enable: bool) -> Result<(), Errno> {
        self.context.set_dirty_tracking(self.id, enable)
    }

    /// Calls `dirty` with the first address of each `page_size` bytes of a range that were written
    /// since tracking began or the last call; they are forgotten if `clear`.
    ///
    /// # Errors
    /// [`Errno::EOPNOTSUPP`] unless it was made for it, [`EINVAL`](Errno::EINVAL) for a range that
    /// is not of whole pages of that size or not mapped.
    pub fn dirty(
        &self,
        range: RangeInclusive<Iova>,
        page_size: u64,
        clear: bool,
        mut dirty: impl FnMut(Iova),
    ) -> Result<(), Errno> {
        let iova = range.start().0;
        let length = range.end().0.wrapping_sub(iova).wrapping_add(1);
        let request = BitmapRequest {
            iova,
            length,
            page_size,
            clear,
        };
        self.context
            .dirty_bitmap(self.id, request, &mut |first, bits| {
                for bit in (0..bits.len() as u64 * 8)
                    .filter(|bit| bits[(bit / 8) as usize] >> (bit % 8) & 1 != 0)
                {
                    dirty(Iova(iova + (first + bit) * page_size));
                }
                Ok(())
            })
    }

    /// Destroys it.
    ///
    /// # Errors
    /// [`Errno::EBUSY`] while a device is on it, or a nested table.
    pub fn destroy(&self) -> Result<(), Errno> {
        self.context.destroy(self.id)
    }
}
