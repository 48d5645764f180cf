//! Host memory behind physical addresses.

mod dirty;
mod map;
mod pin;
mod ram;
mod tables;

use std::ptr::NonNull;
use std::sync::Arc;

use vm_iommu_spec::{FaultReason, PhysAddr};

use crate::DmaPort;

pub use self::dirty::DirtyPages;
pub use self::ram::GuestRam;
pub use self::tables::TableView;

/// A run of host memory behind a physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRange {
    /// The first physical address of the run.
    pub start: PhysAddr,
    /// Its length in bytes, not 0.
    pub len: u64,
    /// Where the run begins in this process.
    pub host: NonNull<u8>,
}

// SAFETY: the pointer is a plain number here; what may be done with it is the contract of
// `OutputSpace`, which does not depend on the thread.
unsafe impl Send for HostRange {}
// SAFETY: as above.
unsafe impl Sync for HostRange {}

/// Where a unit's output addresses live: guest RAM, or another unit's domain.
///
/// # Safety
/// A range that [`resolve`](Self::resolve) yields must be `len` bytes of mapped memory, readable
/// and writable and shared with the guest (never referenced as Rust memory), until the implementor
/// told the [attached](Self::attach) ports to [forget](DmaPort::forget) it and drained their
/// epochs, or is dropped.
pub unsafe trait OutputSpace: Send + Sync {
    /// The longest run of host memory that contains `address`.
    ///
    /// # Errors
    /// [`FaultReason::NotMemory`] if no memory is there.
    fn resolve(&self, address: PhysAddr) -> Result<HostRange, FaultReason>;

    /// Which memory it is: two spaces of the same number resolve addresses alike, and have the same
    /// ports told of changes.
    fn identity(&self) -> usize {
        (&raw const *self).cast::<()>().addr()
    }

    /// Makes a port known that resolves addresses here from now on.
    fn attach(&self, _port: &Arc<DmaPort>) {}

    /// Whether writes are logged. While they are, nothing may be cached for writing but the 4-KiB
    /// page of an address that was [marked](Self::mark_written) since the lookup that missed.
    fn logs_writes(&self) -> bool {
        false
    }

    /// Logs that the `len` bytes from `address`, at least 1, are about to be written. The writer
    /// is inside an epoch.
    fn mark_written(&self, _address: PhysAddr, _len: u64) {}
}
