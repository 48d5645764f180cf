//! A PCI Express fabric: config space, capabilities, bridges, BAR routing and isolation groups.
//!
//! A device implements [`PciFunction`] around a [`ConfigSpace`] that [`ConfigBuilder`] lays out.
//! A [`Fabric`] is one segment: a host bridge, root ports and bridges, and the functions behind
//! them. It answers config accesses (ECAM and ports CF8h/CFCh), routes memory and port accesses
//! by what the guest has programmed at that moment, keeps each function's
//! [`DmaPort`](vm_iommu_dma::DmaPort) up to date (requester id, bus mastering, reset), and says
//! which functions can be isolated from which ([`Fabric::groups`]).
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod address;
mod assign;
mod bar;
mod bridge;
mod builder;
mod capability;
mod config;
mod fabric;
mod function;
mod groups;
mod inspect;
mod interrupts;
mod intx;
mod layout;
mod observer;
mod ranges;
pub mod registers;
mod routes;
mod topology;
mod vector;

pub use address::{BusId, DevFn, FunctionId};
pub use assign::AssignError;
pub use bar::{Bar, BarState, Decode};
pub use bridge::Bridge;
pub use builder::{BuildError, ConfigBuilder, Identity};
pub use capability::{AcsFlags, MsixLayout, PortKind};
pub use config::{BridgeState, ConfigSpace, Effects};
pub use fabric::{AddError, Fabric};
pub use function::{Doorbell, PciFunction};
pub use groups::{AcsBasis, IsolationGroup};
pub use inspect::{BarReport, FabricState, FunctionState};
pub use interrupts::Interrupts;
pub use intx::IntxSink;
pub use observer::{BarMapping, FabricObserver, Windows};

#[cfg(test)]
mod tests;
