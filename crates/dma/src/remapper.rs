//! What a unit answers about DMA.

use std::ops::RangeInclusive;
use std::sync::Arc;

use vm_iommu_pagetable::Attributes;
use vm_iommu_spec::{Access, DmaRequest, Fault, FaultReason, Iova, Pasid, PhysAddr, RequesterId};

use crate::{Acknowledgement, Iotlb, Space};

/// The outcome of a translation: where a page lies and what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The output address of the first byte of the page.
    pub output: PhysAddr,
    /// The size of the page, as a power of two in bytes: 12 is 4 KiB; from 12 to 63.
    pub page_shift: u8,
    /// What later requests may do with the page without asking again. Write is absent from a
    /// page that is writable, but whose dirty bit is still to be set.
    pub permissions: Access,
    /// What else the tables say of the page. None of it changes an access here, where all memory is
    /// the host's ordinary memory, except that of a device's own cache; see
    /// [`UNTRANSLATED_ONLY`](vm_iommu_pagetable::AttributeFlags::UNTRANSLATED_ONLY).
    pub attributes: Attributes,
}

/// A unit's DMA remapping, asked on a miss only.
///
/// Both calls come from device threads inside an epoch; they must take no lock that is held while
/// the unit waits for a drain.
pub trait DmaRemapper: Send + Sync {
    /// The address space of a requester, through the context cache.
    ///
    /// `request` is the access that asks: its fault names it, and is recorded unless it is a probe.
    ///
    /// # Errors
    /// The fault, once recorded.
    fn bind(&self, request: &DmaRequest) -> Result<Arc<Space>, Fault>;

    /// Translates the page of `request` in `space`, by walking tables.
    ///
    /// # Errors
    /// The fault, once recorded.
    fn translate(&self, space: &Space, request: &DmaRequest) -> Result<Translation, Fault>;

    /// The translation cache that the unit invalidates.
    fn iotlb(&self) -> &Arc<Iotlb>;

    /// The fault of a request in the interrupt address range that is no interrupt, once recorded
    /// where the unit's specification says so. It is refused whatever this answers, and may come
    /// from outside of an epoch.
    fn refuse_in_interrupt_range(&self, request: &DmaRequest) -> Fault {
        request.fault(FaultReason::InterruptRange)
    }
}

/// The translation cache that a device keeps for itself (Address Translation Services).
pub trait DeviceTlb: Send + Sync {
    /// Drops every translation of `range`, for `pasid` if named. `done` is dropped when the device
    /// uses none of them any more, accesses in its own epochs aside; the unit waits for it, until
    /// its embedder says that the time is over. Must not block.
    fn invalidate(
        &self,
        requester: RequesterId,
        pasid: Option<Pasid>,
        range: RangeInclusive<Iova>,
        done: Acknowledgement,
    );
}
