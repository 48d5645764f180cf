//! Registers (section 11.4, "Register Descriptions").
//!
//! [`offset`] says where they are; the other items are their contents.

mod capability;
mod control;
mod event;
mod invalidation;
pub mod offset;

pub use capability::{Capability, ExtendedCapability, Version};
pub use control::{GlobalBits, InterruptTableAddress, RootTableAddress, TableMode};
pub use event::{EventControl, FaultStatus, InvalidationStatus};
pub use invalidation::{
    ContextCommand, Granularity, InvalidateAddress, IotlbInvalidate, QueueAddress, QueueError,
    QueueErrorRecord, QueuePointer,
};
