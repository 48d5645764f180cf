//! The vocabulary of the project and the bit layouts of the IOMMU specifications.
//!
//! Everything that more than one crate must agree on is declared here once: addresses, requester
//! and address-space identifiers, accesses, faults and interrupts, and, by vendor, the registers,
//! table entries, commands and records that units, drivers and payloads share.
//!
//! ```
//! use vm_iommu_spec::{Iova, RequesterId};
//!
//! let nic = RequesterId::new(0, 0x3a, 0, 1).unwrap();
//! assert_eq!(nic.to_string(), "0000:3a:00.1");
//! assert_eq!(Iova(0x1fff).checked_add(1), Some(Iova(0x2000)));
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(test)]
extern crate std;

mod access;
mod address;
pub mod amd;
mod fault;
mod id;
mod interrupt;
pub mod vtd;
pub mod x86_64;

pub use access::{Access, AddressType, DmaRequest};
pub use address::{Iova, PhysAddr};
pub use fault::{Fault, FaultReason};
pub use id::{DomainId, Pasid, RequesterId};
pub use interrupt::{
    DeliveryMode, DestinationMode, Interrupt, MSI_WINDOW, MsiMessage, TriggerMode,
};
