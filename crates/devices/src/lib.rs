//! Emulated PCI devices that see a DMA handle and an MSI sink, never a unit.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod edu;
mod io_thread;
pub mod virtio_blk;

pub use edu::{Edu, EduConfig};
pub use io_thread::{IoThread, IoThreadError, QueueEvents};
pub use virtio_blk::VirtioBlk;
