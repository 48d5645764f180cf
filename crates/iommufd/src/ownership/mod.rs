//! Exclusive ownership of DMA, by isolation group.
#![forbid(unsafe_code)]

mod error;
mod table;

pub use error::OwnershipError;
pub use table::{AddressSpace, SpaceId, Table, Target};

/// A security context: one open of the framework, that owns groups and address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(pub u64);
