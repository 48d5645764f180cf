//! The AMD-Vi remapping unit.
//!
//! [`AmdVi`] behaves as the specification of AMD's I/O virtualization technology says: device
//! table, host (v1) and guest (v2) translation and the one over the other, commands, the event,
//! PPR and GA logs, and interrupt remapping. It knows its registers, guest memory and the traits
//! of `vm-iommu-dma`; who maps the registers, who delivers interrupts and who runs leftover work
//! is the embedder's affair. [`AmdViFunction`] is the PCI function by which a guest finds it,
//! [`ivrs`] the ACPI table.
//!
//! ```
//! use std::sync::Arc;
//! use vm_iommu_amdvi::{AmdVi, AmdViConfig};
//! use vm_iommu_dma::{DmaPort, Epochs, GuestRam, Upstream};
//! use vm_iommu_spec::Iova;
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
//! let ram = GuestRam::new(memory);
//! let epochs = Arc::new(Epochs::default());
//! let unit = AmdVi::new(AmdViConfig::default(), ram.clone(), Arc::clone(&epochs), Arc::new(()))?;
//!
//! let mut upstream = Upstream::direct(ram);
//! upstream.epochs = epochs;
//! upstream.remapper = Some(unit.clone());
//! let port = DmaPort::new(upstream);
//! port.set_bus_master(true);
//!
//! // The unit is disabled after reset, so addresses are physical.
//! port.handle().write(Iova(0x2000), b"hello").unwrap();
//!
//! // The guest puts a device table at 0x1000, whose entry for 0000:00:00.0 is valid and permits
//! // nothing, and enables the unit.
//! port.handle().write(Iova(0x1000), &[3]).unwrap();
//! unit.mmio_write(0x00, &0x1000_u64.to_le_bytes());
//! unit.mmio_write(0x18, &1_u64.to_le_bytes());
//! let refused = port.handle().write(Iova(0x2000), b"hello").unwrap_err();
//! assert_eq!(refused.fault.reason.to_string(), "no write permission (IO_PAGE_FAULT)");
//! # Ok::<(), vm_iommu_amdvi::ConfigError>(())
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod command;
mod config;
mod control;
mod device_table;
mod event;
mod explain;
mod function;
mod guest;
mod inspect;
mod interrupt;
pub mod ivrs;
mod logs;
mod ranges;
mod registers;
mod ring;
mod state;
mod translate;
mod unit;

pub use config::{AmdViConfig, ConfigError, Feature};
pub use explain::{Explanation, Outcome, WalkStep, WalkTable};
pub use function::AmdViFunction;
pub use inspect::{InspectedDevice, InspectedEntry, InspectedRing, Inspection};
pub use interrupt::LocalInterrupt;
pub use logs::PageRequester;
pub use state::AmdViState;
pub use unit::AmdVi;
pub use vm_iommu_dma::unit::{
    CacheCounters, IgnoredAccess, InspectedFault, InspectedRegister, Progress, Register,
    StateError, UnitInterrupts,
};

#[cfg(test)]
mod tests;
