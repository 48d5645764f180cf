//! Where a program's memory is.
//!
//! A [`Process`](crate::Process) says which [`Backing`] is behind its addresses; what is mapped
//! for devices is kept as runs of backings, so it does not depend on the process once it is
//! pinned. [`Frames`] gives each backing addresses in the space that units put out, so that the
//! same page has the same address however it was found.

mod backing;
mod file;
mod frames;
mod guard;
mod host;
mod ledger;
mod space;

pub use backing::{Backing, BackingId, HostRange, Run};
pub use file::FileBacking;
pub use frames::Frames;
pub(crate) use frames::Placed;
pub use guard::guard_truncation;
pub use host::HostProcess;
pub use ledger::Pins;
pub(crate) use ledger::{Account, Ledger};
pub use space::FrameSpace;

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;
