//! The reference virtual machine monitor: a KVM machine whose devices sit behind the project's
//! remapping units.

#![deny(missing_docs)]

pub mod acpi;
pub mod boot;
pub mod cli;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod interrupt;
pub mod io;
pub mod kvm;
pub mod layout;
pub mod loader;
pub mod machine;
mod one_line;
pub mod report;
mod throttle;
