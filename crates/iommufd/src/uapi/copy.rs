//! Structures as bytes.

use std::mem::MaybeUninit;

use iommufd_bindings as iommufd;
use vfio_bindings::bindings::vfio;

/// A structure of the interface: integers alone, without gaps between them, so that it is any
/// bytes and any bytes are it.
///
/// # Safety
/// The type is `repr(C)`, all its fields are integers or of such a type, and there is no padding.
pub unsafe trait Plain: Copy + Sized {
    /// The structure that some bytes are; what they lack is 0.
    fn from_bytes(bytes: &[u8]) -> Self {
        let mut value = MaybeUninit::<Self>::zeroed();
        let length = bytes.len().min(size_of::<Self>());
        // SAFETY: `length` is within both. Any bytes are a value of the type.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), length);
            value.assume_init()
        }
    }

    /// Its bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let start: *const u8 = std::ptr::from_ref(self).cast();
        // SAFETY: the type has no padding, so all of its bytes are initialised.
        unsafe { std::slice::from_raw_parts(start, size_of::<Self>()) }.to_vec()
    }
}

macro_rules! plain {
    ($($type:ty)*) => {
        $(
            // SAFETY: a structure of the kernel's interface, which has explicit reserved fields in
            // place of padding.
            unsafe impl Plain for $type {}
        )*
    };
}

plain! {
    iommufd::iommu_destroy
    iommufd::iommu_ioas_alloc
    iommufd::iommu_ioas_allow_iovas
    iommufd::iommu_ioas_copy
    iommufd::iommu_ioas_iova_ranges
    iommufd::iommu_ioas_map
    iommufd::iommu_ioas_map_file
    iommufd::iommu_ioas_unmap
    iommufd::iommu_ioas_change_process
    iommufd::iommu_iova_range
    iommufd::iommu_option
    iommufd::iommu_vfio_ioas
    iommufd::iommu_hwpt_alloc
    iommufd::iommu_hw_info
    iommufd::iommu_hwpt_set_dirty_tracking
    iommufd::iommu_hwpt_get_dirty_bitmap
    iommufd::iommu_hwpt_invalidate
    iommufd::iommu_hwpt_pgfault
    iommufd::iommu_hwpt_page_response
    iommufd::iommu_fault_alloc
    iommufd::iommu_viommu_alloc
    iommufd::iommu_vdevice_alloc
    iommufd::iommu_veventq_alloc
    iommufd::iommufd_vevent_header
    iommufd::iommu_hw_queue_alloc
    super::iommu_ioas_noiommu_get_pa
    vfio::vfio_iommu_type1_info
    vfio::vfio_iommu_type1_dma_map
    vfio::vfio_info_cap_header
    vfio::vfio_iova_range
    vfio::vfio_iommu_type1_info_dma_avail
}
