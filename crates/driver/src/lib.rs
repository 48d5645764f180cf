//! The software that drives a remapping unit as a kernel would.
//!
//! Registers are reached through [`RegisterBus`], tables through
//! [`TableMemory`](vm_iommu_pagetable::TableMemory); nothing here knows what is behind either. A
//! unit may be a real one, an emulated one in the same process, or a list of accesses that
//! another processor will perform.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod bus;

pub use bus::{RegisterBus, SpinBudget, TimedOut, Until, WaitError};
