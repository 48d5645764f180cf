#![no_main]
#![doc = "See [`vm_iommu_fuzz::vtd_unit`]."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vm_iommu_fuzz::vtd_unit(data));
