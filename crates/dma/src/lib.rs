//! What stands between a device and guest memory.
//!
//! A device owns a [`DmaHandle`]; every byte it moves goes through it. The handle asks the shared
//! [`Iotlb`], and on a miss the unit, a [`DmaRemapper`]; the unit's output address is resolved by
//! an [`OutputSpace`] to host memory. While an access runs, from its lookup to the end of its
//! copy, the handle is inside an epoch: an invalidation is reported complete only after every
//! older epoch ended ([`Epochs`]).
//!
//! ```
//! use std::sync::Arc;
//! use vm_iommu_dma::{DmaPort, GuestRam, Upstream};
//! use vm_iommu_spec::Iova;
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
//! // No remapper: the device's addresses are guest physical addresses.
//! let port = DmaPort::new(Upstream::direct(GuestRam::new(memory)));
//! port.set_bus_master(true);
//! let device = port.handle();
//! device.write(Iova(0x2000), b"hello").unwrap();
//! let mut bytes = [0; 5];
//! device.read(Iova(0x2000), &mut bytes).unwrap();
//! assert_eq!(&bytes, b"hello");
//! ```
#![deny(missing_docs)]

mod acknowledge;
mod atc;
mod barrier;
mod epoch;
mod handle;
mod interrupt;
mod iotlb;
mod memory;
mod observer;
mod port;
#[cfg(any(test, feature = "vm-memory-iommu"))]
mod port_iommu;
mod remapper;
mod session;
mod set;
mod space;
mod sync;
pub mod unit;
mod walk_cache;

pub use acknowledge::{Acknowledgement, Awaited};
pub use atc::{Atc, AtcConfig, AtcCounters, AtcHandle, AtcPage};
pub use epoch::{Drain, DrainCounters, EpochSlot, Epochs};
pub use handle::{DmaHandle, Partial};
pub use interrupt::{DiscardMsi, InterruptRemapper, MsiSink, MsiVector, RouteSink};
pub use iotlb::{FillToken, Iotlb, IotlbConfig, IotlbCounters, IotlbEntry};
pub use memory::{DirtyPages, GuestRam, HostRange, OutputSpace, TableView};
pub use observer::{Mapping, MappingObserver, Observation};
pub use port::{DmaPort, Upstream};
#[cfg(any(test, feature = "vm-memory-iommu"))]
pub use port_iommu::PortIommu;
pub use remapper::{DeviceTlb, DmaRemapper, Translation};
pub use session::{DmaSession, Slices, UntilError};
pub use space::{Space, Tag};
pub use walk_cache::{WalkCache, WalkCacheConfig, WalkCacheCounters, WalkToken};

pub use vm_iommu_pagetable::{AttributeFlags, Attributes};

#[cfg(test)]
mod tests;
