//! What the drivers of all units have in common.

use vm_iommu_pagetable::Mapping;
use vm_iommu_spec::{DomainId, Iova, PhysAddr, RequesterId};

use crate::iommu::{Capabilities, DomainKind, HardwareInfo, IommuError, UnitKind};

/// A unit with its driver, which does as it is told. Errors are as [`Iommu`](crate::iommu::Iommu)
/// and [`Domain`](crate::iommu::Domain) have them.
pub trait Hardware: Send + 'static {
    /// The kind of unit.
    const KIND: UnitKind;

    /// What the unit can do.
    fn capabilities(&self) -> Capabilities;

    /// Whether devices may keep translations of the unit's.
    fn has_device_tlbs(&self) -> bool;

    /// Whether it can pass requests through.
    fn passes_through(&self) -> bool;

    /// What the unit tells about itself.
    fn hardware_info(&self) -> HardwareInfo;

    /// Makes sure that [`put`](Self::put) needs no memory for requests of a source id.
    ///
    /// # Errors
    /// [`IommuError::Invalid`] if the unit does not serve it, [`NoMemory`](IommuError::NoMemory),
    /// [`Io`](IommuError::Io).
    fn prepare(&mut self, source: RequesterId) -> Result<(), IommuError>;

    /// Gives back what was prepared for a bus of which no source id is on a domain.
    ///
    /// # Errors
    /// [`IommuError::Busy`] if one is, [`Io`](IommuError::Io).
    fn retire_bus(&mut self, bus: u8) -> Result<(), IommuError>;

    /// The domain that requests of a source id are on; none if they are blocked.
    fn domain_of(&self, source: RequesterId) -> Option<DomainId>;

    /// Puts requests of a source id on a domain, or blocks them.
    ///
    /// # Errors
    /// [`IommuError::Io`]; they are then on the domain that they were on, or blocked.
    fn put(&mut self, source: RequesterId, domain: Option<DomainId>) -> Result<(), IommuError>;

    /// A new domain, which passes requests through or maps nothing yet.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`], [`NoSpace`](IommuError::NoSpace),
    /// [`NoMemory`](IommuError::NoMemory).
    fn create_domain(&mut self, kind: DomainKind) -> Result<DomainId, IommuError>;

    /// Gives back a domain and its tables.
    ///
    /// # Errors
    /// [`IommuError::Busy`], [`Io`](IommuError::Io); the domain then still exists.
    fn destroy_domain(&mut self, domain: DomainId) -> Result<(), IommuError>;

    /// [`Domain::map`](crate::iommu::Domain::map), with pages as large as the mapping allows; its
    /// attributes are the driver's to set.
    ///
    /// # Errors
    /// As there.
    fn map(&mut self, domain: DomainId, mapping: Mapping) -> Result<(), IommuError>;

    /// [`Domain::unmap`](crate::iommu::Domain::unmap).
    ///
    /// # Errors
    /// As there.
    fn unmap(&mut self, domain: DomainId, iova: Iova, length: u64) -> Result<u64, IommuError>;

    /// What an address translates to, by the tables.
    fn output_of(&self, domain: DomainId, iova: Iova) -> Option<PhysAddr>;

    /// Forces DMA to be coherent; whether it is.
    fn enforce_coherency(&mut self, domain: DomainId) -> bool;

    /// [`Domain::flush`](crate::iommu::Domain::flush).
    ///
    /// # Errors
    /// As there.
    fn flush(&mut self, domain: DomainId) -> Result<(), IommuError>;
}
