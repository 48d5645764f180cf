//! The software that drives a remapping unit as a kernel would.
//!
//! Registers are reached through [`RegisterBus`], tables through
//! [`TableMemory`](vm_iommu_pagetable::TableMemory); nothing here knows what is behind either. A
//! unit may be a real one, an emulated one in the same process, or a list of accesses that
//! another processor will perform.
//!
//! An emulated unit in this process, and a device that reaches memory through it:
//!
//! ```
//! use std::sync::Arc;
//!
//! use vm_iommu_dma::{DiscardMsi, DmaPort, Epochs, GuestRam, Upstream};
//! use vm_iommu_driver::vtd::{Setup, Unit};
//! use vm_iommu_driver::{PagePool, RegisterBus, SpinBudget};
//! use vm_iommu_pagetable::Levels;
//! use vm_iommu_spec::{Access, Iova, PhysAddr, RequesterId};
//! use vm_iommu_vtd::{Vtd, VtdConfig};
//! use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
//!
//! struct Registers(Arc<Vtd>);
//!
//! impl RegisterBus for Registers {
//!     fn read32(&self, offset: u16) -> u32 {
//!         let mut data = [0; 4];
//!         self.0.mmio_read(offset.into(), &mut data);
//!         u32::from_le_bytes(data)
//!     }
//!     fn read64(&self, offset: u16) -> u64 {
//!         let mut data = [0; 8];
//!         self.0.mmio_read(offset.into(), &mut data);
//!         u64::from_le_bytes(data)
//!     }
//!     fn write32(&self, offset: u16, value: u32) {
//!         self.0.mmio_write(offset.into(), &value.to_le_bytes());
//!     }
//!     fn write64(&self, offset: u16, value: u64) {
//!         self.0.mmio_write(offset.into(), &value.to_le_bytes());
//!     }
//!     fn relax(&self) {
//!         let _ = self.0.step();
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ram = GuestRam::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)])?);
//! let epochs = Arc::new(Epochs::default());
//! let vtd = Vtd::new(VtdConfig::default(), ram.clone(), Arc::clone(&epochs), Arc::new(()))?;
//! let device = DmaPort::new(Upstream {
//!     output: Arc::new(ram.clone()),
//!     remapper: Some(Arc::clone(&vtd) as _),
//!     epochs,
//!     msi: Arc::new(DiscardMsi),
//! });
//! device.set_bus_master(true);
//!
//! let pages = PagePool::new(ram.clone(), PhysAddr(4 << 20)..PhysAddr(8 << 20));
//! let setup = Setup::new(SpinBudget(1_000_000));
//! let mut unit = Unit::start(Registers(vtd), ram.clone(), pages, &setup)?;
//! unit.enable_translation()?;
//! let domain = unit.create_domain(Levels::Four)?;
//! unit.map(domain, Iova(0x1234_5000), PhysAddr(0x10_0000), 0x1000, Access::READ)?;
//! unit.attach(RequesterId::from_raw(0), domain)?;
//!
//! ram.memory().write_obj(42_u8, GuestAddress(0x10_0007))?;
//! let mut byte = [0];
//! device.handle().read(Iova(0x1234_5007), &mut byte)?;
//! assert_eq!(byte, [42]);
//!
//! unit.unmap(domain, Iova(0x1234_5000), 0x1000)?;
//! assert!(device.handle().read(Iova(0x1234_5007), &mut byte).is_err());
//! assert_eq!(unit.take_faults().records.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! [`iommu`] is what a framework needs of any unit's driver.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod amdvi;
mod binding;
mod bus;
mod framework;
pub mod iommu;
mod pages;
pub mod vtd;

pub use bus::{RegisterBus, SpinBudget, TimedOut, Until, WaitError};
pub use framework::{Hardware, UnitIommu};
pub use pages::{PAGE_SIZE, PagePool, Pages};
