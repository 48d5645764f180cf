//! Why a machine cannot be built.

use thiserror::Error;

use vm_iommu_devices::IoThreadError;
use vm_iommu_devices::virtio_blk::OpenError;
use vm_iommu_pci::{AddError, AssignError};
use vm_iommu_virtio::NewError;

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
    /// The unit's options describe no unit.
    #[error("no such VT-d unit: {0}")]
    Vtd(#[from] vm_iommu_vtd::ConfigError),
    /// The unit's options describe no unit.
    #[error("no such AMD-Vi unit: {0}")]
    AmdVi(#[from] vm_iommu_amdvi::ConfigError),
    /// A disk image cannot be used.
    #[error(transparent)]
    Disk(#[from] OpenError),
    /// A virtio device cannot be made.
    #[error("virtio: {0}")]
    Virtio(#[from] NewError),
    /// A device's thread cannot be made.
    #[error(transparent)]
    Thread(#[from] IoThreadError),
    /// A function has no place on its bus.
    #[error(transparent)]
    Add(#[from] AddError),
    /// The functions' BARs do not fit the windows.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// A bus has no such device number.
    #[error("a PCI bus has no device number {number}")]
    NoPlace {
        /// The number.
        number: u8,
    },
    /// A device's interrupt has no pin.
    #[error("the I/O APIC has no pin {irq}")]
    NoPin {
        /// The pin's number.
        irq: u32,
    },
}
