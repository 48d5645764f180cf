//! Intel VT-d: "Intel Virtualization Technology for Directed I/O", architecture specification.
//! Section numbers are those of revision 4.0 and later.

pub mod descriptor;
mod fault_reason;
mod fault_record;
mod irte;
pub mod registers;
mod second_stage;
mod tables;

pub use fault_reason::FaultReason;
pub use fault_record::FaultRecord;
pub use irte::{InterruptRequest, Irte, RemappableAddress};
pub use second_stage::SecondStageEntry;
pub use tables::{Context, ContextEntry, RootEntry, TableRules, TranslationType};

#[cfg(test)]
mod tests;
