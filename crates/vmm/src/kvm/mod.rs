//! The machine as KVM sees it: memory slots, processors, CPUID. Nothing here knows a device.

mod counters;
mod cpuid;
mod error;
mod features;
mod kick;
#[cfg(test)]
mod tests;
mod topology;
mod vcpu;
mod vm;

pub use counters::{ExitCounters, ExitKind};
pub use cpuid::CpuModel;
pub use error::KvmError;
pub use features::{FeatureError, feature_names};
pub use kick::KickSignal;
pub use vcpu::{Crash, ExitHandler, Leave, Vcpu};
pub use vm::{IOAPIC_PINS, Vm};
