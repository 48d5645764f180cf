//! The driver for a framework: host tables of four levels.

use vm_iommu_pagetable::{EditError, Mapping, TableMemory};
use vm_iommu_spec::{Access, DomainId, Iova, PhysAddr, RequesterId};

use super::{Error, Unit};
use crate::framework::{Hardware, UnitIommu};
use crate::iommu::{Capabilities, DomainKind, HardwareInfo, IommuError, UnitKind};
use crate::{Pages, RegisterBus};

/// An AMD-Vi unit, behind the interface that all units have.
pub type AmdViIommu<B, M, P> = UnitIommu<Unit<B, M, P>>;

/// `IOMMU_HW_INFO_TYPE_AMD`.
const HW_INFO_AMD: u32 = 4;

/// The levels of paging domains. Tables of six would reach all 64-bit addresses, for two loads
/// more in each walk.
const LEVELS: u8 = 4;

/// Width in bits of the addresses that as many levels translate.
const WIDTH: u8 = 12 + 9 * LEVELS;

impl<B, M, P> Hardware for Unit<B, M, P>
where
    B: RegisterBus + Send + 'static,
    M: TableMemory + 'static,
    P: Pages + Send + 'static,
{
    const KIND: UnitKind = UnitKind::Amdvi;

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            coherent: true,
            // Entries have FC set.
            enforce_coherency: true,
            isolated_msi: self.interrupts.is_some(),
            dirty_tracking: false,
            nesting: false,
            page_requests: false,
            pasid_bits: 0,
            // Every power of two: an entry says the size of its page.
            page_sizes: (1 << WIDTH) - (1 << 12),
            input_width: if self.host_levels() == 0 { 0 } else { WIDTH },
            output_width: self.physical_address_width,
        }
    }

    fn has_device_tlbs(&self) -> bool {
        self.iotlb_support
    }

    fn passes_through(&self) -> bool {
        true
    }

    fn hardware_info(&self) -> HardwareInfo {
        // struct iommu_hw_info_amd: efr, efr2.
        let registers = [self.feature().into_bits(), self.feature2().into_bits()];
        HardwareInfo {
            kind: HW_INFO_AMD,
            bytes: registers.into_iter().flat_map(u64::to_le_bytes).collect(),
        }
    }

    fn prepare(&mut self, source: RequesterId) -> Result<(), IommuError> {
        self.entry_of(source)?;
        Ok(())
    }

    fn retire_bus(&mut self, _bus: u8) -> Result<(), IommuError> {
        // The device table is one for all buses.
        Ok(())
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
            DomainKind::Paging => self.create_domain(LEVELS)?,
            DomainKind::Nested => return Err(IommuError::Unsupported),
        })
    }

    fn destroy_domain(&mut self, domain: DomainId) -> Result<(), IommuError> {
        Ok(self.destroy_domain(domain)?)
    }

    fn map(&mut self, domain: DomainId, mapping: Mapping) -> Result<(), IommuError> {
        let Mapping { iova, length, .. } = mapping;
        // The driver's own tables would grow.
        if iova
            .last_byte(length)
            .is_none_or(|last| last.0 >> WIDTH != 0)
        {
            return Err(Error::Edit(EditError::BeyondWidth { iova, length }).into());
        }
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
        self.domains.contains_key(&domain)
    }

    fn flush(&mut self, domain: DomainId) -> Result<(), IommuError> {
        Ok(self.flush(domain)?)
    }
}

impl From<Error> for IommuError {
    fn from(error: Error) -> Self {
        match error {
            Error::OutOfMemory | Error::Edit(EditError::OutOfTables) => Self::NoMemory,
            Error::OutOfDomains => Self::NoSpace,
            Error::Unsupported(_) => Self::Unsupported,
            Error::Edit(EditError::AlreadyMapped { .. }) => Self::Exists,
            Error::Edit(
                EditError::Misaligned { .. }
                | EditError::BeyondWidth { .. }
                | EditError::Output { .. }
                | EditError::Permissions { .. },
            )
            | Error::NoDomain(_)
            | Error::BeyondDeviceTable(_)
            | Error::PassThrough(_) => Self::Invalid,
            Error::DomainInUse(_) => Self::Busy,
            _ => Self::Io,
        }
    }
}
