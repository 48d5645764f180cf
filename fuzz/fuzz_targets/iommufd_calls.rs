#![no_main]
#![doc = "See [`vm_iommu_fuzz::iommufd_calls`]."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vm_iommu_fuzz::iommufd_calls(data));
