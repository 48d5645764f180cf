//! Domains: what a device's addresses translate to.

use core::any::Any;
use core::fmt::Debug;
use core::ops::RangeInclusive;

use vm_iommu_spec::{Access, Iova, PhysAddr};

use super::{IommuError, UnitKind};

/// What a domain does with requests (Linux `iommu_domain.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DomainKind {
    /// Passes them through untranslated.
    Identity,
    /// Translates them by tables that the driver edits.
    Paging,
    /// Translates them by a user's tables, and the result by those of a parent.
    Nested,
}

/// What a paging domain is to be able to do (Linux `IOMMU_HWPT_ALLOC_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PagingOptions {
    /// It can be the parent of nested domains.
    pub nest_parent: bool,
    /// Written pages can be tracked.
    pub dirty_tracking: bool,
    /// It can be used by a device that also uses PASIDs, and for a PASID.
    pub pasid: bool,
}

/// What a user says about a domain in a format of the unit's own, as the uAPI has it.
#[derive(Clone, Copy, Debug)]
pub struct UserData<'a> {
    /// Linux `enum iommu_hwpt_data_type`, or `iommu_hwpt_invalidate_data_type`.
    pub kind: u32,
    /// The structure of that type.
    pub bytes: &'a [u8],
}

/// Which addresses a domain translates, and in which units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The addresses that can be mapped.
    pub aperture: RangeInclusive<Iova>,
    /// The page sizes: bit n stands for `1 << n` bytes. The lowest is the alignment of all that
    /// is mapped.
    pub page_sizes: u64,
}

/// One set of tables of a unit, and what is mapped in them.
///
/// It is made by [`Iommu`](super::Iommu) and known to the driver that made it as [`Any`]. Dropping
/// the last reference frees its tables; no device is on it then.
///
/// The calls with a default exist only where the unit can do it; elsewhere they answer
/// [`IommuError::Unsupported`].
pub trait Domain: Any + Debug + Send + Sync {
    /// The kind of unit whose tables these are.
    fn unit_kind(&self) -> UnitKind;

    /// What it does with requests.
    fn kind(&self) -> DomainKind;

    /// What can be mapped.
    fn geometry(&self) -> Geometry;

    /// What the domain was made to be able to do.
    fn options(&self) -> PagingOptions {
        PagingOptions::default()
    }

    /// Maps `length` bytes from `iova` to memory from `output`, all multiples of the smallest
    /// page; nothing may be mapped there.
    ///
    /// # Errors
    /// [`IommuError::Exists`], [`Invalid`](IommuError::Invalid),
    /// [`NoMemory`](IommuError::NoMemory), [`Io`](IommuError::Io); then nothing of the range is
    /// mapped.
    fn map(
        &self,
        iova: Iova,
        output: PhysAddr,
        length: u64,
        access: Access,
    ) -> Result<(), IommuError> {
        let _ = (iova, output, length, access);
        Err(IommuError::Unsupported)
    }

    /// As [`map`](Self::map) of multiples of 4 KiB, with no larger page than that.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    fn map_in_small_pages(
        &self,
        iova: Iova,
        output: PhysAddr,
        length: u64,
        access: Access,
    ) -> Result<(), IommuError> {
        const SIZE: u64 = 4096;
        for done in (0..length).step_by(SIZE as usize) {
            let (iova, output) = (Iova(iova.0 + done), PhysAddr(output.0 + done));
            if let Err(error) = self.map(iova, output, SIZE, access) {
                if done > 0 {
                    self.unmap(Iova(iova.0 - done), done)?;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Unmaps what is mapped of `length` bytes from `iova` and yields how many bytes that were.
    /// When it returns, no request uses what was mapped.
    ///
    /// # Errors
    /// [`IommuError::Invalid`] and [`NoMemory`](IommuError::NoMemory) where a larger page is to be
    /// split: then all is still mapped. [`Io`](IommuError::Io): a part may be unmapped, and may
    /// still be reached until a later change or [`flush`](Self::flush) succeeded.
    fn unmap(&self, iova: Iova, length: u64) -> Result<u64, IommuError> {
        let _ = (iova, length);
        Err(IommuError::Unsupported)
    }

    /// What an address translates to, by the tables.
    fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr> {
        let _ = iova;
        None
    }

    /// Forces DMA to be coherent whatever the device asks for; whether it is.
    fn enforce_cache_coherency(&self) -> bool {
        false
    }

    /// Begins or ends to track which pages are written.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`], [`Io`](IommuError::Io).
    fn set_dirty_tracking(&self, enable: bool) -> Result<(), IommuError> {
        let _ = enable;
        Err(IommuError::Unsupported)
    }

    /// Calls `dirty` with the first address and the size in bytes of each page in `length` bytes
    /// from `iova` that was written, and forgets that it was if `clear`. A write after
    /// [`flush`](Self::flush) is found again.
    ///
    /// # Errors
    /// [`IommuError::Invalid`], [`Unsupported`](IommuError::Unsupported),
    /// [`Io`](IommuError::Io).
    fn read_and_clear_dirty(
        &self,
        iova: Iova,
        length: u64,
        clear: bool,
        dirty: &mut dyn FnMut(Iova, u64),
    ) -> Result<(), IommuError> {
        let _ = (iova, length, clear, dirty);
        Err(IommuError::Unsupported)
    }

    /// Has the unit forget all that it cached of the tables. When it returns, no request uses it.
    ///
    /// # Errors
    /// [`IommuError::Io`].
    fn flush(&self) -> Result<(), IommuError> {
        Ok(())
    }

    /// Invalidates what a user changed in the tables of a nested domain: `entries` requests of
    /// `data.bytes.len() / entries` bytes each. Yields how many were carried out, and why the next
    /// one was not.
    fn invalidate_user(&self, data: UserData<'_>, entries: u32) -> (u32, Result<(), IommuError>) {
        let _ = (data, entries);
        (0, Err(IommuError::Unsupported))
    }
}
