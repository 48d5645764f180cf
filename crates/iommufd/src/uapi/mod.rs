//! The interface of `/dev/iommu`: calls by number, structures in the caller's memory.
//!
//! Structures and numbers are those of Linux 7.3. A structure begins with its size, by which old
//! and new callers are told apart: what a caller leaves out is zero, and what it adds must be.

mod call;
mod copy;
mod device;
mod hwpt;
mod ioas;
mod numbers;
mod option;
mod queues;
mod vfio;
mod viommu;

use std::sync::Arc;

pub(crate) use call::Call;
pub use copy::Plain;
#[cfg(feature = "selftest")]
pub(crate) use numbers::request;
pub use numbers::*;

use crate::caller::Reply;
use crate::{Caller, Context, Errno};

/// The number that is in an ioctl request.
const fn number(request: u32) -> u32 {
    request & 0xff
}

impl Context {
    /// Carries out a call of `ioctl`: `request` is its second argument, `argument` the third.
    ///
    /// # Errors
    /// What the manual of the call says; [`Errno::ENOTTY`] for an unknown one.
    pub fn ioctl(
        self: &Arc<Self>,
        caller: &dyn Caller,
        request: u32,
        argument: u64,
    ) -> Result<Reply, Errno> {
        let nr = number(request);
        if !(BASE..BASE + COUNT).contains(&nr) {
            return self.vfio(caller, request, argument);
        }
        let mut size = [0; 4];
        caller.read(argument, &mut size)?;
        let call = Call {
            context: self,
            caller,
            argument,
            size: u32::from_le_bytes(size),
        };
        match request {
            IOMMU_DESTROY => self.uapi_destroy(&call),
            IOMMU_IOAS_ALLOC => self.uapi_ioas_alloc(&call),
            IOMMU_IOAS_ALLOW_IOVAS => self.uapi_ioas_allow_iovas(&call),
            IOMMU_IOAS_COPY => self.uapi_ioas_copy(&call),
            IOMMU_IOAS_IOVA_RANGES => self.uapi_ioas_iova_ranges(&call),
            IOMMU_IOAS_MAP => self.uapi_ioas_map(&call),
            IOMMU_IOAS_UNMAP => self.uapi_ioas_unmap(&call),
            IOMMU_OPTION => self.uapi_option(&call),
            IOMMU_VFIO_IOAS => self.uapi_vfio_ioas(&call),
            IOMMU_HWPT_ALLOC => self.uapi_hwpt_alloc(&call),
            IOMMU_GET_HW_INFO => self.uapi_get_hw_info(&call),
            IOMMU_HWPT_SET_DIRTY_TRACKING => self.uapi_set_dirty_tracking(&call),
            IOMMU_HWPT_GET_DIRTY_BITMAP => self.uapi_get_dirty_bitmap(&call),
            IOMMU_HWPT_INVALIDATE => self.uapi_invalidate(&call),
            IOMMU_FAULT_QUEUE_ALLOC => self.uapi_fault_queue_alloc(&call),
            IOMMU_IOAS_MAP_FILE => self.uapi_ioas_map_file(&call),
            IOMMU_VIOMMU_ALLOC => self.uapi_viommu_alloc(&call),
            IOMMU_VDEVICE_ALLOC => self.uapi_vdevice_alloc(&call),
            IOMMU_IOAS_CHANGE_PROCESS => self.uapi_ioas_change_process(&call),
            IOMMU_VEVENTQ_ALLOC => self.uapi_veventq_alloc(&call),
            IOMMU_HW_QUEUE_ALLOC => self.uapi_hw_queue_alloc(&call),
            IOMMU_IOAS_NOIOMMU_GET_PA => self.uapi_noiommu_get_pa(&call),
            #[cfg(feature = "selftest")]
            crate::selftest::IOMMU_TEST_CMD => crate::selftest::ioctl(&call),
            _ => Err(Errno::ENOTTY),
        }
    }
}
