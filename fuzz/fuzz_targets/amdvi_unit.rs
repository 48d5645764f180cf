#![no_main]
#![doc = "See [`vm_iommu_fuzz::amdvi_unit`]."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vm_iommu_fuzz::amdvi_unit(data));
