//! Virtio devices on a PCI fabric: the transport of virtio 1.2, section 4.1 (modern only), over
//! split queues that reach memory through a [`DmaHandle`](vm_iommu_dma::DmaHandle).
//!
//! A device type implements [`VirtioDevice`]; [`VirtioPci`] makes a PCI function of it. Nothing
//! here has a thread: a kick sets a queue's event ([`VirtioPci::event`]), and whoever waits for it
//! calls [`VirtioPci::process_queue`].
//!
//! What a guest writes is hostile. A chain is read once, into a bounded list ([`Chain`]), and
//! used from there; a chain that is no request is given back unserved; a ring that cannot be used
//! stops the device until the driver resets it.
//!
//! ```
//! use std::sync::Arc;
//! use vm_iommu_dma::{DmaPort, GuestRam, Upstream};
//! use vm_iommu_virtio::{
//!     DeviceType, Features, Progress, QueueError, Served, VirtQueue, VirtioDevice, VirtioPci,
//! };
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! /// Fills each buffer's first bytes with what it was told to.
//! struct Constant([u8; 8]);
//!
//! impl VirtioDevice for Constant {
//!     fn device_type(&self) -> DeviceType {
//!         DeviceType::ENTROPY
//!     }
//!     fn name(&self) -> &str {
//!         "constant"
//!     }
//!     fn class_code(&self) -> u32 {
//!         0xff_0000
//!     }
//!     fn features(&self) -> Features {
//!         Features::empty()
//!     }
//!     fn queue_sizes(&self) -> &[u16] {
//!         &[64]
//!     }
//!     fn config_len(&self) -> u16 {
//!         0
//!     }
//!     fn read_config(&self, _offset: u16, _data: &mut [u8]) {}
//!     fn activate(&self, _features: Features) {}
//!     fn process(&self, _index: u16, queue: &mut VirtQueue) -> Result<Served, QueueError> {
//!         queue.serve(16, |dma, chain| {
//!             match chain.writable.cursor().write(dma, &self.0) {
//!                 Ok(()) => 8,
//!                 Err(_) => 0,
//!             }
//!         })
//!     }
//!     fn reset(&self) {}
//! }
//!
//! let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
//! let port = DmaPort::new(Upstream::direct(GuestRam::new(memory)));
//! let function = VirtioPci::new(Arc::new(Constant([7; 8])), port, Features::INDIRECT_DESC).unwrap();
//! // Now a fabric gives it to a guest. No driver has enabled the queue yet:
//! assert_eq!(function.process_queue(0), Progress::Idle);
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod buffer;
mod chain;
mod device;
mod features;
mod log_budget;
mod queue;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
mod transport;

pub use buffer::{Buffer, BufferError, Cursor};
pub use chain::{Chain, ChainError};
pub use device::{DeviceType, Progress, Served, VirtioDevice};
pub use features::Features;
pub use log_budget::LogBudget;
pub use queue::{QueueControl, QueueError, QueueLayout, VirtQueue};
pub use transport::{MAX_QUEUES, NewError, VirtioPci};

#[cfg(test)]
mod tests;
