//! The Intel VT-d remapping unit.
//!
//! [`Vtd`] behaves as the architecture specification says a unit in legacy mode does: root and
//! context tables, second-stage translation, queued invalidation, fault recording and interrupt
//! remapping. It knows its registers, guest memory and the traits of `vm-iommu-dma`; who maps the
//! registers, who delivers interrupts and who runs leftover work is the embedder's affair.
//!
//! ```
//! use std::sync::Arc;
//! use vm_iommu_dma::{DmaPort, Epochs, GuestRam, Upstream};
//! use vm_iommu_spec::Iova;
//! use vm_iommu_vtd::{Vtd, VtdConfig};
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
//! let ram = GuestRam::new(memory);
//! let epochs = Arc::new(Epochs::default());
//! let unit = Vtd::new(VtdConfig::default(), ram.clone(), Arc::clone(&epochs), Arc::new(()))?;
//!
//! let mut upstream = Upstream::direct(ram);
//! upstream.epochs = epochs;
//! upstream.remapper = Some(unit.clone());
//! let port = DmaPort::new(upstream);
//! port.set_bus_master(true);
//!
//! // Translation is disabled after reset, so addresses are physical.
//! port.handle().write(Iova(0x2000), b"hello").unwrap();
//!
//! // The guest enables translation, with the root table at 0, which holds no present entry.
//! unit.mmio_write(0x18, &0x8000_0000_u32.to_le_bytes());
//! let refused = port.handle().write(Iova(0x2000), b"hello").unwrap_err();
//! assert_eq!(refused.fault.reason.to_string(), "root entry not present (VT-d fault reason 0x01)");
//! # Ok::<(), vm_iommu_vtd::ConfigError>(())
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod command;
mod config;
mod context;
mod control;
pub mod dmar;
mod explain;
mod fault;
mod inspect;
mod interrupt;
mod invalidation;
mod registers;
mod state;
mod translate;
mod unit;

pub use config::{AddressWidths, ConfigError, Feature, VtdConfig};
pub use explain::{Explanation, Outcome, WalkStep, WalkTable};
pub use inspect::{
    InspectedContext, InspectedQueue, InspectedRecord, InspectedRequester, Inspection,
};
pub use registers::{IgnoredAccess, Register};
pub use state::VtdState;
pub use unit::Vtd;
pub use vm_iommu_dma::unit::{
    CacheCounters, InspectedFault, InspectedRegister, Progress, StateError, UnitInterrupts,
};

#[cfg(test)]
mod tests;
