//! Hardware page tables and address spaces, as far as ownership must know them.
//!
//! Calls are made with the group's lock held: an implementation may take its own locks, and calls
//! nothing of this module while it holds them.

use std::fmt::Debug;
use std::sync::Arc;

use vm_iommu_driver::iommu::{Domain, Iommu, ReservedRegion};
use vm_iommu_spec::{Pasid, RequesterId};

use super::{ContextId, OwnershipError};

/// An address space (IOAS) among all, of whichever context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u64);

/// A hardware page table (HWPT): a domain and what a context keeps about it. Two are the same if
/// they are one [`Arc`].
pub trait Table: Debug + Send + Sync {
    /// The context that it belongs to.
    fn context(&self) -> ContextId;

    /// The tables of the unit.
    fn domain(&self) -> Arc<dyn Domain>;

    /// The address space that it shows, directly or as a nested table's parent.
    fn space(&self) -> SpaceId;

    /// Whether it was made for PASIDs (`IOMMU_HWPT_ALLOC_PASID`).
    fn for_pasids(&self) -> bool;

    /// Whether page requests go to a fault queue.
    fn has_fault_queue(&self) -> bool {
        false
    }

    /// A device comes to use it: one more reason not to destroy it.
    fn begin_use(&self, device: RequesterId, pasid: Option<Pasid>);

    /// A device uses it no more. An automatic table dies with its last user.
    fn end_use(&self, device: RequesterId, pasid: Option<Pasid>);

    /// Reserves the regions of a device in the address space, until
    /// [`unreserve`](Self::unreserve). Relaxable ones are not among them.
    ///
    /// # Errors
    /// [`OwnershipError::AddressInUse`] if one of them meets what is mapped or an allowed range,
    /// [`OwnershipError::NoMemory`]; then none is reserved.
    fn reserve(
        &self,
        device: RequesterId,
        regions: &[ReservedRegion],
    ) -> Result<(), OwnershipError>;

    /// Gives back what was reserved for a device.
    fn unreserve(&self, device: RequesterId);

    /// Answers the open page requests of a device with INVALID: it has left the table.
    fn cancel_page_requests(&self, device: RequesterId, pasid: Option<Pasid>) {
        let _ = (device, pasid);
    }
}

/// An address space (IOAS) that finds a table for a device by itself.
pub trait AddressSpace: Debug + Send + Sync {
    /// The context that it belongs to.
    fn context(&self) -> ContextId;

    /// Its automatic tables, in the order in which they are tried.
    fn automatic_tables(&self) -> Vec<Arc<dyn Table>>;

    /// A new automatic table with all that is mapped, for a device of `unit`. It is among
    /// [`automatic_tables`](Self::automatic_tables) once it has a user, and dies with the last;
    /// if it never has one, when it is dropped.
    ///
    /// # Errors
    /// [`OwnershipError::NoMemory`], and what the unit refuses.
    fn create_automatic_table(
        &self,
        unit: &Arc<dyn Iommu>,
        device: RequesterId,
    ) -> Result<Arc<dyn Table>, OwnershipError>;
}

/// What a device is to be attached to.
#[derive(Clone, Debug)]
pub enum Target {
    /// This very table.
    Table(Arc<dyn Table>),
    /// One of the automatic tables of an address space.
    Space(Arc<dyn AddressSpace>),
}

impl Target {
    /// The context that it belongs to.
    pub fn context(&self) -> ContextId {
        match self {
            Self::Table(table) => table.context(),
            Self::Space(space) => space.context(),
        }
    }
}
