#![no_main]
#![doc = "See [`vm_iommu_fuzz::pagetable::x86_64`]."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vm_iommu_fuzz::pagetable::x86_64(data));
