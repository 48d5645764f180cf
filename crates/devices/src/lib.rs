//! Emulated PCI devices that see a DMA handle and an MSI sink, never a unit.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod edu;

pub use edu::{Edu, EduConfig};
