//! The register file: what software may read and write where.

mod declared;
mod file;

pub(crate) use declared::declare;
pub(crate) use file::RegisterFile;
pub use file::{IgnoredAccess, Register};

#[cfg(test)]
mod tests;
