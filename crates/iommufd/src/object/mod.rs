//! The objects of a context.
//!
//! They name each other by the numbers that the context gives them, and count who uses them; an
//! object with users cannot be destroyed. Locks are taken in this order: a group's
//! ([`ownership`](crate::ownership)), a context's, an address space's pages', a unit driver's.
//! Callers' memory is read and written without a context's lock.

mod access;
mod bind;
mod context;
mod device;
mod event_queue;
mod fault_queue;
mod handle;
mod hw_queue;
mod hwpt;
mod ioas;
mod shared_pages;
mod space;
mod table;
mod teardown;
mod viommu;
mod virtual_machine;

pub use access::{Access, AccessUser, PinnedPage};
pub use bind::BoundDevice;
pub use context::Context;
pub(crate) use context::{Shared, State};
#[cfg(feature = "selftest")]
pub(crate) use device::Change;
pub(crate) use device::DeviceObject;
pub(crate) use event_queue::EventQueue;
pub use event_queue::VirtualEvent;
pub use fault_queue::{FaultQueue, PageRequest, PageRequests, PageResponse, Respond};
pub use handle::{AttachTarget, HwPageTable, Ioas};
pub(crate) use hw_queue::HwQueueObject;
pub use hwpt::Hwpt;
pub(crate) use hwpt::{HwptKind, HwptRequest};
pub(crate) use ioas::{IoasObject, MapRequest};
pub use shared_pages::Mapping;
pub(crate) use table::{Object, Objects};
pub(crate) use viommu::{VdeviceObject, ViommuObject};
pub use virtual_machine::{HardwareQueue, PageFaults, VirtualDevice, VirtualEvents, VirtualIommu};
