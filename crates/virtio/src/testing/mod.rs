//! A driver's side for tests: memory behind a remapper, and the registers as a driver uses them.
//!
//! Panics on what no test expects.

mod machine;
mod remapper;

pub use machine::{Descriptor, Machine, Ring};
pub use remapper::{PageMap, RecordMsi};
