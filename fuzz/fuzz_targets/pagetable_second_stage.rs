#![no_main]
#![doc = "See [`vm_iommu_fuzz::pagetable::second_stage`]."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vm_iommu_fuzz::pagetable::second_stage(data));
