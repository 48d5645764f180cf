//! A third opinion on page tables: the same tables and requests are put to QEMU's remapping units
//! and to ours, and every difference has to be a known one.
//!
//! A walker and its oracle were written by the same readers of the specification, and may share a
//! misreading; QEMU's units were written by others. Where the answers differ,
//! [`vtd::known::DIFFERENCES`] says why ours stands, and `docs/conformance/qemu-differences.md`
//! is generated from it.
#![deny(missing_docs)]

pub mod amd;
pub mod document;
pub mod ours;
pub mod qemu;
pub mod qtest;
pub mod random;
pub mod side;
pub mod vtd;
