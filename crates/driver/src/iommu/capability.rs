//! What units and devices can do.

use alloc::vec::Vec;

use vm_iommu_spec::RequesterId;

/// Whose driver it is: a domain serves only units of the same kind (Linux `domain->owner`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnitKind {
    /// Intel VT-d.
    Vtd,
    /// AMD-Vi.
    Amdvi,
    /// No hardware: the driver itself is all there is.
    Mock,
}

/// What a unit can do (Linux `iommu_capable` and the `iommu_device` of it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// DMA is coherent with the caches of processors (`IOMMU_CAP_CACHE_COHERENCY`).
    pub coherent: bool,
    /// A domain can be made to force snooping (`IOMMU_CAP_ENFORCE_CACHE_COHERENCY`).
    pub enforce_coherency: bool,
    /// Interrupts of devices are remapped, so that a device can raise only its own.
    pub isolated_msi: bool,
    /// Paging domains can track which pages were written (`IOMMU_CAP_DIRTY_TRACKING`).
    pub dirty_tracking: bool,
    /// Paging domains can be parents of nested ones.
    pub nesting: bool,
    /// Devices can ask for pages.
    pub page_requests: bool,
    /// Width in bits of PASIDs; 0 if requests with PASID are not served.
    pub pasid_bits: u8,
    /// The page sizes of paging domains: bit n stands for `1 << n` bytes.
    pub page_sizes: u64,
    /// Width in bits of the addresses that paging domains translate, at most.
    pub input_width: u8,
    /// Width in bits of the addresses that they translate to.
    pub output_width: u8,
}

/// A device as the bus describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Who it is: the key for all further calls.
    pub requester: RequesterId,
    /// Under which other identifiers its requests may arrive, as behind a PCI bridge.
    pub aliases: Vec<RequesterId>,
    /// Width in bits of the PASIDs that it can use; 0 if it has no PASID capability.
    pub pasid_bits: u8,
    /// It has address translation services.
    pub ats: bool,
    /// It can ask for pages.
    pub pri: bool,
    /// It is a virtual function; its page requests are those of its physical function.
    pub virtual_function: bool,
}

impl DeviceInfo {
    /// A device without aliases and capabilities.
    pub const fn new(requester: RequesterId) -> Self {
        Self {
            requester,
            aliases: Vec::new(),
            pasid_bits: 0,
            ats: false,
            pri: false,
            virtual_function: false,
        }
    }
}

/// What a device can do at its unit: the lesser of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCapabilities {
    /// Width in bits of its PASIDs; 0 if it has none.
    pub pasid_bits: u8,
    /// It translates addresses for itself, so it is parked in a reset.
    pub ats: bool,
    /// It can ask for pages.
    pub page_requests: bool,
    /// It is a virtual function that asks for pages.
    pub virtual_function_pri: bool,
}
