//! What KVM there is on this host, and what will therefore run where.
//!
//! Whether KVM runs a guest's instructions on the processor or interprets them shows in no
//! capability: it is measured, with a loop of known length.

mod capabilities;
mod measure;
mod report;
mod table;
#[cfg(test)]
mod tests;

pub use capabilities::Capability;
pub use measure::{KvmKind, MeasureError, Measurement, measure};
pub use report::{Cpu, Place, Report, Verdict, Workload, examine};
