#![no_main]
#![doc = "See [`vm_iommu_fuzz::pagetable::amd_v1`]."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vm_iommu_fuzz::pagetable::amd_v1(data));
