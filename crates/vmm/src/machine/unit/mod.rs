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
use vm_iommu_dma::{DmaRemapper, Epochs, GuestRam, InterruptRemapper};
use vm_iommu_pci::{BusId, DevFn, Fabric, FunctionId};
use vm_iommu_spec::RequesterId;
use vm_iommu_vtd::Vtd;

use super::MachineError;
use super::devices::Upstreams;
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

/// Whom the units' ACPI table names.
pub(super) struct Scope<'a> {
    /// Where the I/O APIC's interrupts come from.
    pub(super) ioapic: RequesterId,
    /// The functions of the root bus behind the first unit, or `None` if all are.
    pub(super) served: Option<&'a [RequesterId]>,
    /// The root ports of further units, in order.
    pub(super) ports: &'a [Port],
}

/// A root port, all behind which one unit serves.
pub(super) struct Port {
    /// The port itself, on the root bus.
    pub(super) requester: RequesterId,
    /// The number of the bus behind it.
    pub(super) bus: u8,
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

    /// Where the registers of the first such unit are, and how many bytes of them.
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

/// Adds the functions to the root bus of `fabric` that come with units. They reach memory and the
/// processors past these, but for those that are as others behind the first.
pub(super) fn add_functions(
    units: &[Unit],
    fabric: &Fabric,
    upstreams: &Upstreams,
) -> Result<Vec<OwnFunction>, MachineError> {
    let mut own = Vec::new();
    for (number, unit) in (0..).zip(units) {
        let Unit::AmdVi(unit) = unit else {
            continue;
        };
        if let Some(served) = upstreams.served.first().filter(|_| number == 0) {
            let smbus = SmBus::new(served.clone()).map_err(vm_iommu_pci::AddError::from)?;
            let place = DevFn::from_raw(layout::SMBUS_DEVICE << 3);
            fabric.add(BusId::ROOT, place, Arc::new(smbus))?;
        }
        let registers = layout::AMDVI + u64::from(number) * layout::UNIT_STRIDE;
        let function = amdvi::function(unit, registers, upstreams.direct.clone())?;
        let place = DevFn::from_raw(layout::AMDVI_FUNCTION + number);
        let id = fabric.add(BusId::ROOT, place, Arc::clone(&function) as _)?;
        own.push(OwnFunction { id, function });
    }
    Ok(own)
}

/// The ACPI table that tells a guest about the units that `config` describes, whose own functions
/// are `own`.
pub(super) fn table(
    units: &[Unit],
    config: &IommuConfig,
    own: &[OwnFunction],
    scope: &Scope<'_>,
) -> Option<Vec<u8>> {
    match (units.first()?, config) {
        (Unit::Vtd(unit), _) => Some(vtd::table(unit, scope)),
        (Unit::AmdVi(unit), IommuConfig::AmdVi(options)) => {
            let capabilities: Vec<u16> = own
                .iter()
                .map(|own| own.function.capability_offset())
                .collect();
            Some(amdvi::table(unit, options, &capabilities, scope))
        }
        (Unit::AmdVi(_), _) => None,
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
