//! Why a machine cannot be built.

use thiserror::Error;

use crate::acpi::AcpiError;
use crate::boot::BootError;
use crate::config::ConfigError;
use crate::io::BusError;
use crate::kvm::KvmError;
use crate::loader::LoadError;

/// Why a machine cannot be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The parts of the configuration do not fit together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// KVM does not run it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The kernel or a module cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The boot CPU cannot be prepared.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The ACPI tables cannot be written.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// Two devices claim the same addresses.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A device's interrupt has no pin.
    #[error("the I/O APIC has no pin {irq}")]
    NoPin {
        /// The pin's number.
        irq: u32,
    },
}
