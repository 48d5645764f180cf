//! Following where BARs are mapped.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::{Decode, Doorbell, FunctionId, PciFunction};

/// A run of addresses that now leads to a BAR.
#[derive(Clone)]
pub struct BarMapping {
    /// The function, by its place in the fabric.
    pub id: FunctionId,
    /// The function.
    pub function: Arc<dyn PciFunction>,
    /// The BAR, 0 to 5.
    pub bar: u8,
    /// The address space.
    pub decode: Decode,
    /// The first address.
    pub address: u64,
    /// Length in bytes.
    pub len: u64,
    /// How far into the BAR the run begins, in bytes: not 0 where a bridge's window or another
    /// BAR cuts it.
    pub offset: u64,
}

impl BarMapping {
    /// The function's doorbells that lie in the run, each with its address.
    pub fn doorbells(&self) -> Vec<(u64, Doorbell)> {
        let doorbells = self.function.doorbells().into_iter();
        doorbells
            .filter(|doorbell| doorbell.bar == self.bar)
            .filter_map(|doorbell| {
                let offset = doorbell.offset.checked_sub(self.offset)?;
                let end = offset.checked_add(u64::from(doorbell.len.max(1)))?;
                (end <= self.len).then_some((self.address + offset, doorbell))
            })
            .collect()
    }
}

impl fmt::Debug for BarMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BarMapping")
            .field("id", &self.id)
            .field("bar", &self.bar)
            .field("decode", &self.decode)
            .field("address", &format_args!("{:#x}", self.address))
            .field("len", &self.len)
            .field("offset", &self.offset)
            .finish()
    }
}

/// Whoever keeps something at the addresses where BARs lie, such as ioeventfds.
///
/// Called in order, one call at a time; it may access the fabric, and a config write from here
/// takes effect after it returned.
pub trait FabricObserver: Send + Sync {
    /// The addresses lead to the BAR from now on.
    fn mapped(&self, mapping: &BarMapping);

    /// The addresses are about to lead there no more.
    fn unmapped(&self, mapping: &BarMapping);
}

/// The ranges of a machine's address spaces that its host bridge forwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Windows {
    /// Memory below 4 GiB.
    pub memory32: std::ops::RangeInclusive<u64>,
    /// Memory above 4 GiB.
    pub memory64: std::ops::RangeInclusive<u64>,
    /// I/O ports.
    pub io: std::ops::RangeInclusive<u16>,
}
