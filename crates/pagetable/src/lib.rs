//! I/O page tables: walkers as hardware has them, editors as drivers have them.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod memory;

pub use memory::{BadAddress, TableMemory};
