//! The reference virtual machine monitor: a KVM machine whose devices sit behind the project's
//! remapping units.

#![deny(missing_docs)]

pub mod acpi;
pub mod boot;
pub mod config;
pub mod layout;
pub mod loader;
