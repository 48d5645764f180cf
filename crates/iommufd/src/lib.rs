//! iommufd in user space: who may have a device do DMA, and to what, enforced by a unit that
//! really walks tables.
//!
//! Units are reached only through [`vm_iommu_driver::iommu`].
#![deny(missing_docs)]

mod caller;
mod counts;
mod errno;
mod ioas;
pub mod memory;
mod object;
pub mod ownership;
#[cfg(feature = "selftest")]
pub mod selftest;
pub mod server;
mod system;
pub mod uapi;

pub use caller::{
    Caller, CallerFile, Capability, ContextFile, NewFile, PAGE_SIZE, Place, Process, ProcessId,
    Readiness, Reply, Waker,
};
pub use errno::Errno;
pub use object::{
    Access, AccessUser, BoundDevice, Context, FaultQueue, Hwpt, Mapping, PageRequest, PageResponse,
    PinnedPage, Respond,
};
pub use system::{System, SystemConfig};
