//! The remapping unit, of whichever kind: from options to registers in memory, a worker, and an
//! ACPI table.

mod amdvi;
mod vtd;
mod worker;

use std::sync::Arc;

use serde::Serialize;
use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};
use vm_iommu_amdvi::{AmdVi, AmdViFunction};
use vm_iommu_dma::{DmaRemapper, Epochs, GuestRam, InterruptRemapper, Upstream};
use vm_iommu_pci::{BusId, DevFn, Fabric, FunctionId};
use vm_iommu_spec::RequesterId;
use vm_iommu_vtd::Vtd;

use super::MachineError;
use super::smbus::SmBus;
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
    /// An AMD-Vi unit.
    AmdVi(Arc<AmdVi>),
}

/// A unit as it stood when it was looked at. It serializes as the unit's own account under the
/// name of its kind.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum UnitInspection {
    /// Of an Intel VT-d unit.
    Vtd(Box<vm_iommu_vtd::Inspection>),
    /// Of an AMD-Vi unit.
    AmdVi(Box<vm_iommu_amdvi::Inspection>),
}

/// Whom a unit's ACPI table names.
pub(super) struct Scope<'a> {
    /// Where the I/O APIC's interrupts come from.
    pub(super) ioapic: RequesterId,
    /// The functions behind the unit, or `None` if all are.
    pub(super) served: Option<&'a [RequesterId]>,
}

/// The PCI function of a unit that has one. No unit serves it.
pub(super) struct OwnFunction {
    pub(super) id: FunctionId,
    function: Arc<AmdViFunction>,
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
            IommuConfig::AmdVi(options) => {
                Some(Self::AmdVi(amdvi::make(options, ram, epochs, apics)?))
            }
        })
    }

    /// The unit, as the machine uses it.
    pub(super) fn remapping(&self) -> Arc<dyn RemappingUnit> {
        match self {
            Self::Vtd(unit) => Arc::clone(unit) as _,
            Self::AmdVi(unit) => Arc::clone(unit) as _,
        }
    }

    /// Adds the functions to the root bus of `fabric` that come with the unit. They reach memory
    /// and the processors past it, through `direct`, but for those that are as others behind
    /// `served`.
    pub(super) fn add_functions(
        &self,
        fabric: &Fabric,
        direct: &Upstream,
        served: &Upstream,
    ) -> Result<Option<OwnFunction>, MachineError> {
        match self {
            Self::Vtd(_) => Ok(None),
            Self::AmdVi(unit) => {
                let smbus = SmBus::new(served.clone()).map_err(vm_iommu_pci::AddError::from)?;
                let place = DevFn::from_raw(layout::SMBUS_DEVICE << 3);
                fabric.add(BusId::ROOT, place, Arc::new(smbus))?;
                let function = amdvi::function(unit, direct.clone())?;
                let place = DevFn::from_raw(layout::AMDVI_FUNCTION);
                let id = fabric.add(BusId::ROOT, place, Arc::clone(&function) as _)?;
                Ok(Some(OwnFunction { id, function }))
            }
        }
    }

    /// The ACPI table that tells a guest about the unit that `config` describes, whose own
    /// function is `own`.
    pub(super) fn table(
        &self,
        config: &IommuConfig,
        own: Option<&OwnFunction>,
        scope: &Scope<'_>,
    ) -> Option<Vec<u8>> {
        match (self, config, own) {
            (Self::Vtd(unit), ..) => Some(vtd::table(unit, scope)),
            (Self::AmdVi(unit), IommuConfig::AmdVi(options), Some(own)) => {
                let capability = own.function.capability_offset();
                Some(amdvi::table(unit, options, capability, scope))
            }
            (Self::AmdVi(_), ..) => None,
        }
    }

    /// What a person calls its kind.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vtd(_) => "VT-d",
            Self::AmdVi(_) => "AMD-Vi",
        }
    }

    /// The unit as it stands now.
    #[must_use]
    pub fn inspect(&self) -> UnitInspection {
        match self {
            Self::Vtd(unit) => UnitInspection::Vtd(Box::new(unit.inspect())),
            Self::AmdVi(unit) => UnitInspection::AmdVi(Box::new(unit.inspect())),
        }
    }
}

/// Who the I/O APIC's interrupts come from.
pub(super) fn ioapic_source(config: &IommuConfig) -> RequesterId {
    let id = match config {
        IommuConfig::Vtd(options) => options.ioapic_source,
        IommuConfig::AmdVi(_) => u16::from(layout::SMBUS_DEVICE) << 3,
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
