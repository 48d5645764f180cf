//! iommufd in user space: who may have a device do DMA, and to what, enforced by a unit that
//! really walks tables.
//!
//! Units are reached only through [`vm_iommu_driver::iommu`].
//!
//! A [`Context`] is one open of `/dev/iommu`. It is used by types, [`Ioas`], [`HwPageTable`],
//! [`BoundDevice`], [`Access`], or by the calls of the kernel's interface, [`Context::ioctl`]; both
//! act on the same objects.
//!
//! ```
//! use vm_iommu_spec::Iova;
//! use vm_iommufd::{System, SystemConfig};
//!
//! # fn main() -> Result<(), vm_iommufd::Errno> {
//! let context = System::new(SystemConfig::default()).open();
//! let ioas = context.ioas()?;
//! assert_eq!(ioas.usable()?, [Iova(0)..=Iova(u64::MAX)]);
//! ioas.destroy()?;
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

mod caller;
mod counts;
mod errno;
mod ioas;
mod limit;
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
    Access, AccessUser, AttachTarget, BoundDevice, Context, FaultQueue, HardwareQueue, HwPageTable,
    Hwpt, Ioas, Mapping, PageFaults, PageRequest, PageRequests, PageResponse, PinnedPage, Respond,
    VirtualDevice, VirtualEvent, VirtualEvents, VirtualIommu,
};
pub use system::{System, SystemConfig};
