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
pub use queue::{QueueError, QueueLayout, VirtQueue};
pub use transport::{MAX_QUEUES, NewError, VirtioPci};

#[cfg(test)]
mod tests;
