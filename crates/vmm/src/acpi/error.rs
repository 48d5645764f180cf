//! Why the ACPI tables cannot be written.

use vm_memory::{GuestAddress, GuestMemoryError};

/// The ACPI tables cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcpiError {
    /// The area for tables is full.
    #[error("no room for an ACPI table of {size} bytes: {room} bytes are left")]
    NoRoom {
        /// Size of the table that does not fit, in bytes.
        size: usize,
        /// What is left of the area, in bytes.
        room: u64,
    },
    /// There is no RAM where the tables go.
    #[error("no RAM for the ACPI tables at {:#x}", address.0)]
    Memory {
        /// Where the table was to go.
        address: GuestAddress,
        /// What guest memory said.
        source: GuestMemoryError,
    },
    /// A foreign table has not even a header.
    #[error("an ACPI table of {given} bytes has no header")]
    TableTooShort {
        /// Its size in bytes.
        given: usize,
    },
    /// A foreign table's length field is wrong.
    #[error("ACPI table {signature} says that it has {stated} bytes, and has {given}")]
    TableLength {
        /// The table's signature.
        signature: String,
        /// Its length field.
        stated: u32,
        /// Its size in bytes.
        given: usize,
    },
    /// A foreign table's checksum is wrong.
    #[error("ACPI table {signature} sums up to {sum:#x}, not 0")]
    TableChecksum {
        /// The table's signature.
        signature: String,
        /// The sum of its bytes.
        sum: u8,
    },
}
