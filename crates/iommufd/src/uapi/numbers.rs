//! The numbers of the calls.

use iommufd_bindings as bindings;

/// The first number; those below are VFIO's.
pub(super) const BASE: u32 = bindings::IOMMUFD_CMD_BASE;
/// How many numbers there are: up to that of the tests, if they are there.
pub(super) const COUNT: u32 = if cfg!(feature = "selftest") { 33 } else { 22 };

/// `_IO(IOMMUFD_TYPE, number)`: the size is in the structure.
pub(crate) const fn request(number: u32) -> u32 {
    (bindings::IOMMUFD_TYPE as u32) << 8 | number
}

macro_rules! requests {
    ($($name:ident $number:expr;)*) => {
        $(
            #[doc = concat!("The request number `", stringify!($name), "`.")]
            pub const $name: u32 = request($number);
        )*
    };
}

requests! {
    IOMMU_DESTROY bindings::IOMMUFD_CMD_DESTROY;
    IOMMU_IOAS_ALLOC bindings::IOMMUFD_CMD_IOAS_ALLOC;
    IOMMU_IOAS_ALLOW_IOVAS bindings::IOMMUFD_CMD_IOAS_ALLOW_IOVAS;
    IOMMU_IOAS_COPY bindings::IOMMUFD_CMD_IOAS_COPY;
    IOMMU_IOAS_IOVA_RANGES bindings::IOMMUFD_CMD_IOAS_IOVA_RANGES;
    IOMMU_IOAS_MAP bindings::IOMMUFD_CMD_IOAS_MAP;
    IOMMU_IOAS_UNMAP bindings::IOMMUFD_CMD_IOAS_UNMAP;
    IOMMU_OPTION bindings::IOMMUFD_CMD_OPTION;
    IOMMU_VFIO_IOAS bindings::IOMMUFD_CMD_VFIO_IOAS;
    IOMMU_HWPT_ALLOC bindings::IOMMUFD_CMD_HWPT_ALLOC;
    IOMMU_GET_HW_INFO bindings::IOMMUFD_CMD_GET_HW_INFO;
    IOMMU_HWPT_SET_DIRTY_TRACKING bindings::IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING;
    IOMMU_HWPT_GET_DIRTY_BITMAP bindings::IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP;
    IOMMU_HWPT_INVALIDATE bindings::IOMMUFD_CMD_HWPT_INVALIDATE;
    IOMMU_FAULT_QUEUE_ALLOC bindings::IOMMUFD_CMD_FAULT_QUEUE_ALLOC;
    IOMMU_IOAS_MAP_FILE bindings::IOMMUFD_CMD_IOAS_MAP_FILE;
    IOMMU_VIOMMU_ALLOC bindings::IOMMUFD_CMD_VIOMMU_ALLOC;
    IOMMU_VDEVICE_ALLOC bindings::IOMMUFD_CMD_VDEVICE_ALLOC;
    IOMMU_IOAS_CHANGE_PROCESS bindings::IOMMUFD_CMD_IOAS_CHANGE_PROCESS;
    IOMMU_VEVENTQ_ALLOC bindings::IOMMUFD_CMD_VEVENTQ_ALLOC;
    IOMMU_HW_QUEUE_ALLOC bindings::IOMMUFD_CMD_HW_QUEUE_ALLOC;
    IOMMU_IOAS_NOIOMMU_GET_PA IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA;
}

/// Newer than the bindings.
const IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA: u32 = 0x95;

/// The structure of [`IOMMU_IOAS_NOIOMMU_GET_PA`], which the bindings lack.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct iommu_ioas_noiommu_get_pa {
    /// Its size in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// The address space.
    pub ioas_id: u32,
    /// Must be 0.
    pub __reserved: u32,
    /// The address to look up.
    pub iova: u64,
    /// How many bytes from there are of interest, and then how many are contiguous.
    pub length: u64,
    /// Where they are.
    pub out_phys: u64,
}
