//! The driver of a unit in legacy mode, for a framework.

use vm_iommu_pagetable::{EditError, Levels, Mapping, TableMemory};
use vm_iommu_spec::vtd::registers::GlobalBits;
use vm_iommu_spec::{Access, DomainId, Iova, PhysAddr, RequesterId};

use super::{Error, Unit};
use crate::framework::{Hardware, UnitIommu};
use crate::iommu::{Capabilities, DomainKind, HardwareInfo, IommuError, UnitKind};
use crate::{Pages, RegisterBus};

/// A VT-d unit in legacy mode, behind the interface that all units have.
pub type VtdIommu<B, M, P> = UnitIommu<Unit<B, M, P>>;

/// `IOMMU_HW_INFO_TYPE_INTEL_VTD`.
const HW_INFO_VTD: u32 = 1;

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// The levels of paging domains.
    fn levels(&self) -> Option<Levels> {
        let widths = self.capability().adjusted_widths() & 0b1110;
        Levels::from_agaw(widths.checked_ilog2()? as u8)
    }
}

impl<B, M, P> Hardware for Unit<B, M, P>
where
    B: RegisterBus + Send + 'static,
    M: TableMemory + 'static,
    P: Pages + Send + 'static,
{
    const KIND: UnitKind = UnitKind::Vtd;

    fn capabilities(&self) -> Capabilities {
        let limit = self.capability().maximum_width() + 1;
        let large = u64::from(self.capability().second_stage_large_pages());
        Capabilities {
            // A unit whose walks are not coherent is not driven at all.
            coherent: true,
            enforce_coherency: self.extended_capability().snoop_control(),
            isolated_msi: self.enabled().contains(GlobalBits::INTERRUPT_REMAPPING),
            dirty_tracking: false,
            nesting: false,
            page_requests: false,
            pasid_bits: 0,
            page_sizes: 1 << 12 | (large & 1) << 21 | (large >> 1 & 1) << 30,
            input_width: self
                .levels()
                .map_or(0, |levels| levels.address_width().min(limit)),
            output_width: self.host_address_width,
        }
    }

    fn has_device_tlbs(&self) -> bool {
        self.extended_capability().device_tlb()
    }

    fn passes_through(&self) -> bool {
        self.extended_capability().pass_through()
    }

    fn hardware_info(&self) -> HardwareInfo {
        // struct iommu_hw_info_vtd: flags, reserved, cap_reg, ecap_reg.
        let registers = [
            0,
            self.capability().into_bits(),
            self.extended_capability().into_bits(),
        ];
        HardwareInfo {
            kind: HW_INFO_VTD,
            bytes: registers.into_iter().flat_map(u64::to_le_bytes).collect(),
        }
    }

    fn prepare(&mut self, source: RequesterId) -> Result<(), IommuError> {
        Ok(self.prepare(source)?)
    }

    fn retire_bus(&mut self, bus: u8) -> Result<(), IommuError> {
        Ok(self.retire_bus(bus)?)
    }

    fn domain_of(&self, source: RequesterId) -> Option<DomainId> {
        self.domain_of(source)
    }

    fn put(&mut self, source: RequesterId, domain: Option<DomainId>) -> Result<(), IommuError> {
        match domain {
            Some(domain) => self.attach(source, domain)?,
            None => self.detach(source)?,
        }
        Ok(())
    }

    fn create_domain(&mut self, kind: DomainKind) -> Result<DomainId, IommuError> {
        Ok(match kind {
            DomainKind::Identity => self.create_pass_through_domain()?,
            DomainKind::Paging => {
                let levels = self.levels().ok_or(IommuError::Unsupported)?;
                self.create_domain(levels)?
            }
            DomainKind::Nested => return Err(IommuError::Unsupported),
        })
    }

    fn destroy_domain(&mut self, domain: DomainId) -> Result<(), IommuError> {
        Ok(self.destroy_domain(domain)?)
    }

    fn map(&mut self, domain: DomainId, mapping: Mapping) -> Result<(), IommuError> {
        Ok(self.map_limited(domain, mapping)?)
    }

    fn unmap(&mut self, domain: DomainId, iova: Iova, length: u64) -> Result<u64, IommuError> {
        Ok(self.unmap(domain, iova, length)?)
    }

    fn output_of(&self, domain: DomainId, iova: Iova) -> Option<PhysAddr> {
        let mut accesses = [Access::READ, Access::WRITE].into_iter();
        accesses.find_map(|access| {
            let walk = self.walk(domain, iova, access).ok()?.ok()?;
            Some(walk.translation.output)
        })
    }

    fn enforce_coherency(&mut self, domain: DomainId) -> bool {
        self.enforce_snooping(domain).unwrap_or(false)
    }

    fn flush(&mut self, domain: DomainId) -> Result<(), IommuError> {
        Ok(self.flush(domain)?)
    }
}

impl From<Error> for IommuError {
    fn from(error: Error) -> Self {
        match error {
            Error::OutOfMemory | Error::Edit(EditError::OutOfTables) => Self::NoMemory,
            Error::OutOfDomains { .. } => Self::NoSpace,
            Error::Unsupported(_) => Self::Unsupported,
            Error::Edit(EditError::AlreadyMapped { .. }) => Self::Exists,
            Error::Edit(
                EditError::Misaligned { .. }
                | EditError::BeyondWidth { .. }
                | EditError::Output { .. }
                | EditError::Permissions { .. },
            )
            | Error::NoDomain(_)
            | Error::PassThrough(_) => Self::Invalid,
            Error::DomainInUse(_) | Error::BusInUse(_) => Self::Busy,
            _ => Self::Io,
        }
    }
}
