//! Why a boot CPU cannot be prepared.

use vm_memory::{GuestAddress, GuestMemoryError};

/// The tables of the boot CPU do not fit the machine's memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Guest memory has no RAM where a table belongs.
    #[error("no RAM for {what} at {:#x}", address.0)]
    NoMemory {
        /// Which table.
        what: &'static str,
        /// Where it was to go.
        address: GuestAddress,
        /// What guest memory said.
        source: GuestMemoryError,
    },
}
