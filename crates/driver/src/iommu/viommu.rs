//! A unit's part for one virtual machine.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt::Debug;

use vm_iommu_spec::{Iova, PhysAddr, RequesterId};

use super::{Domain, IommuError, PagingOptions, UserData};

/// Memory that a unit shares with the user of a [`Viommu`], who maps it.
pub trait SharedPages: Debug + Send + Sync {
    /// The offset by which the user asks for it.
    fn offset(&self) -> u64;

    /// Writes some bytes of it.
    ///
    /// # Errors
    /// [`IommuError::Invalid`] beyond its end, [`Io`](IommuError::Io).
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), IommuError>;
}

/// What a user asks a unit for, and what it may have from the framework.
pub struct ViommuRequest<'a> {
    /// Linux `enum iommu_viommu_type`.
    pub kind: u32,
    /// The structure of that type, which the unit may fill in; empty if the user gave none.
    pub data: &'a mut [u8],
    /// Makes memory of so many bytes, whole pages, that the user can map as long as the vIOMMU
    /// lives.
    pub share: &'a mut dyn FnMut(u64) -> Result<Box<dyn SharedPages>, IommuError>,
}

/// A unit's part for one virtual machine (Linux `iommufd_viommu_ops`): the caches, events and
/// queues that its devices share, on top of one nesting parent.
pub trait Viommu: Any + Debug + Send + Sync {
    /// A new nested domain, as [`Iommu::nested_domain`](super::Iommu::nested_domain).
    ///
    /// # Errors
    /// As there.
    fn nested_domain(
        &self,
        options: PagingOptions,
        data: UserData<'_>,
    ) -> Result<Arc<dyn Domain>, IommuError> {
        let _ = (options, data);
        Err(IommuError::Unsupported)
    }

    /// Takes on a device of the machine under the number that the guest knows it by.
    ///
    /// # Errors
    /// What the unit says.
    fn add_device(&self, device: RequesterId, virtual_id: u64) -> Result<(), IommuError> {
        let _ = (device, virtual_id);
        Ok(())
    }

    /// Forgets a device.
    fn remove_device(&self, device: RequesterId) {
        let _ = device;
    }

    /// Invalidates caches, as [`Domain::invalidate_user`].
    fn invalidate_user(&self, data: UserData<'_>, entries: u32) -> (u32, Result<(), IommuError>) {
        let _ = (data, entries);
        (0, Err(IommuError::Unsupported))
    }

    /// Whether there are queues of a type (Linux `enum iommu_hw_queue_type`).
    fn has_hw_queue(&self, kind: u32) -> bool {
        let _ = kind;
        false
    }

    /// Gives the unit memory of the machine for a queue that it works off by itself. Dropping
    /// what is returned ends that.
    ///
    /// # Errors
    /// What the unit says; [`IommuError::Unsupported`] without such queues.
    fn create_hw_queue(&self, request: HwQueueRequest) -> Result<Box<dyn HwQueue>, IommuError> {
        let _ = request;
        Err(IommuError::Unsupported)
    }
}

/// What a queue is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HwQueueRequest {
    /// Linux `enum iommu_hw_queue_type`.
    pub kind: u32,
    /// Which of the unit's queues.
    pub index: u32,
    /// Where it is for the machine: an address of the nesting parent.
    pub iova: Iova,
    /// Where it is in memory, in one piece.
    pub address: PhysAddr,
    /// Its size in bytes.
    pub length: u64,
}

/// A queue in a machine's memory that a unit works off.
pub trait HwQueue: Debug + Send + Sync {
    /// The index of another queue that must not end before this one.
    fn depends_on(&self) -> Option<u32> {
        None
    }
}
