//! Intel VT-d: "Intel Virtualization Technology for Directed I/O", architecture specification.
//! Section numbers are those of revision 4.0 and later.

mod fault_reason;

pub use fault_reason::FaultReason;
