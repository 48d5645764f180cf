//! Registers: those of the PCI capability block (section 3.2) and those in the register window
//! (section 3.4).
//!
//! [`offset`] says where the latter are; the other items are their contents.

mod base;
mod capability;
mod control;
mod feature;
mod interrupt;
pub mod offset;
mod status;

pub use base::{DeviceTableBase, ExclusionBase, RingBase};
pub use capability::{BaseAddressLow, CapabilityHeader, DeviceRange, Miscellaneous};
pub use control::Control;
pub use feature::{ExtendedFeature, ExtendedFeature2};
pub use interrupt::{PprAutoResponse, PprOverflowEarly, XtInterruptControl};
pub use status::{HardwareEventStatus, Status};
