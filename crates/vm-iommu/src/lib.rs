//! The IOMMU that a virtual machine monitor embeds.
//!
//! A unit stands between emulated PCI functions and guest memory. The functions move data through
//! [`dma::DmaHandle`]; the unit translates, checks and caches; the guest's own driver programs
//! the unit through its registers.
//!
//! ```
//! use std::sync::Arc;
//! use vm_iommu::dma::{DmaPort, Epochs, GuestRam, Upstream};
//! use vm_iommu::spec::Iova;
//! use vm_iommu::vtd::{Vtd, VtdConfig};
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)])?;
//! let ram = GuestRam::new(memory);
//! let epochs = Arc::new(Epochs::default());
//! // The unit; `()` discards its own interrupts.
//! let unit = Vtd::new(VtdConfig::default(), ram.clone(), epochs.clone(), Arc::new(()))?;
//! // A PCI function behind it.
//! let mut upstream = Upstream::direct(ram);
//! upstream.epochs = epochs;
//! upstream.remapper = Some(unit.clone());
//! let function = DmaPort::new(upstream);
//! function.set_bus_master(true);
//! function.handle().write(Iova(0x10_0000), b"untranslated: nobody enabled the unit yet")?;
//! // The guest reads GSTS_REG, from the page that the VMM maps to the unit.
//! let mut status = [0xff; 4];
//! unit.mmio_read(0x1c, &mut status);
//! assert_eq!(status, [0; 4]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

/// The AMD-Vi remapping unit.
#[cfg(feature = "amdvi")]
pub use vm_iommu_amdvi as amdvi;
/// What stands between a device and guest memory.
pub use vm_iommu_dma as dma;
/// I/O page tables.
pub use vm_iommu_pagetable as pagetable;
/// Config space, bridges and isolation groups.
pub use vm_iommu_pci as pci;
/// Addresses, requesters, faults, and the bit layouts of the specifications.
pub use vm_iommu_spec as spec;
/// The Intel VT-d remapping unit.
#[cfg(feature = "vtd")]
pub use vm_iommu_vtd as vtd;

/// The README's example must compile and run.
#[cfg(all(doctest, feature = "vtd"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
