#![no_main]
#![doc = "See [`vm_iommu_fuzz::pagetable::nested`]."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vm_iommu_fuzz::pagetable::nested(data));
