//! Intel VT-d: "Intel Virtualization Technology for Directed I/O", architecture specification.
//! Section numbers are those of revision 4.0 and later.

mod fault_reason;
mod second_stage;

pub use fault_reason::FaultReason;
pub use second_stage::SecondStageEntry;
