//! The vocabulary and the bit layouts of the IOMMU specifications.
#![no_std]
