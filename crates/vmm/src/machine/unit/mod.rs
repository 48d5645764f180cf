//! The remapping unit, of whichever kind: from options to registers in memory, a worker, and an
//! ACPI table.

mod vtd;
mod worker;

use std::sync::Arc;

use serde::Serialize;
use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};
use vm_iommu_dma::{DmaRemapper, Epochs, GuestRam, InterruptRemapper};
use vm_iommu_spec::RequesterId;
use vm_iommu_vtd::Vtd;

use super::MachineError;
use crate::config::IommuConfig;
use crate::interrupt::LocalApics;
use crate::layout;

pub(super) use worker::Worker;

/// Width of guest physical addresses in bits: what the 64-bit PCI window ends within.
const PHYSICAL_BITS: u8 = 39;

/// The machine's remapping unit.
#[derive(Clone)]
#[non_exhaustive]
pub enum Unit {
    /// An Intel VT-d unit.
    Vtd(Arc<Vtd>),
}

/// A unit as it stood when it was looked at. It serializes as the unit's own account under the
/// name of its kind.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum UnitInspection {
    /// Of an Intel VT-d unit.
    Vtd(Box<vm_iommu_vtd::Inspection>),
}

/// Whom a unit's ACPI table names.
pub(super) struct Scope<'a> {
    /// Where the I/O APIC's interrupts come from.
    pub(super) ioapic: RequesterId,
    /// The functions behind the unit, or `None` if all are.
    pub(super) served: Option<&'a [RequesterId]>,
}

/// What the machine asks of a unit.
pub(super) trait RemappingUnit: DmaRemapper + InterruptRemapper {
    /// Its kind, in a word.
    fn kind(&self) -> &'static str;

    /// Where its registers are, and how many bytes of them.
    fn registers(&self) -> (u64, u64);

    /// The guest reads `data.len()` bytes at `offset` of the registers.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// The guest writes `data` at `offset` of the registers.
    fn write(&self, offset: u64, data: &[u8]);

    /// Continues what could not be finished within a register write; whether something is left.
    fn step(&self) -> bool;

    /// Sets what is called when there is something for [`step`](Self::step).
    fn set_waker(&self, waker: Box<dyn Fn() + Send + Sync>);

    /// The ACPI table that tells a guest about it.
    fn table(&self, scope: &Scope<'_>) -> Vec<u8>;
}

impl Unit {
    /// The unit that `config` describes, if it describes one.
    pub(super) fn make(
        config: &IommuConfig,
        ram: &GuestRam,
        epochs: &Arc<Epochs>,
        apics: Arc<LocalApics>,
    ) -> Result<Option<Self>, MachineError> {
        Ok(match config {
            IommuConfig::None => None,
            IommuConfig::Vtd(options) => Some(Self::Vtd(vtd::make(options, ram, epochs, apics)?)),
        })
    }

    /// The unit, as the machine uses it.
    pub(super) fn remapping(&self) -> Arc<dyn RemappingUnit> {
        match self {
            Self::Vtd(unit) => Arc::clone(unit) as _,
        }
    }

    /// The unit as it stands now.
    #[must_use]
    pub fn inspect(&self) -> UnitInspection {
        match self {
            Self::Vtd(unit) => UnitInspection::Vtd(Box::new(unit.inspect())),
        }
    }
}

/// Who the I/O APIC's interrupts come from.
pub(super) fn ioapic_source(config: &IommuConfig) -> RequesterId {
    let id = match config {
        IommuConfig::Vtd(options) => options.ioapic_source,
        IommuConfig::None => layout::IOAPIC_SOURCE_ID,
    };
    RequesterId::from_source_id(0, id)
}

/// A unit's registers on the bus.
pub(super) struct Registers(pub(super) Arc<dyn RemappingUnit>);

impl DeviceMmio for Registers {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.write(offset, data);
    }
}
