//! A unit with its driver.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Debug;

use vm_iommu_spec::{Pasid, RequesterId};

use super::{
    Capabilities, DeviceCapabilities, DeviceInfo, Domain, IommuError, PagingOptions,
    ReservedRegion, UnitKind, UserData, Viommu, ViommuRequest,
};

/// What a device, or one address space of it, is to reach.
#[derive(Clone, Debug)]
pub enum Reach {
    /// Nothing: each request is refused.
    Blocked,
    /// What the domain translates to.
    Domain(Arc<dyn Domain>),
}

impl Reach {
    /// Whether both are the same domain, or no domain.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Blocked, Self::Blocked) => true,
            (Self::Domain(a), Self::Domain(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// What a unit tells about itself in the format of its specification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HardwareInfo {
    /// Linux `enum iommu_hw_info_type`; 0 is none.
    pub kind: u32,
    /// The structure of that type.
    pub bytes: Vec<u8>,
}

/// A unit with its driver.
///
/// A device is known from [`probe_device`](Self::probe_device) on and blocked until its reach is
/// set. All domains are made for a device, and fit its unit.
pub trait Iommu: Debug + Send + Sync {
    /// The kind of unit.
    fn kind(&self) -> UnitKind;

    /// What the unit can do.
    fn capabilities(&self) -> Capabilities;

    /// Takes a device on. It is blocked, for all PASIDs too.
    ///
    /// # Errors
    /// [`IommuError::Exists`], [`Invalid`](IommuError::Invalid),
    /// [`NoMemory`](IommuError::NoMemory), [`Io`](IommuError::Io).
    fn probe_device(&self, info: &DeviceInfo) -> Result<(), IommuError>;

    /// Forgets a device. Its requests are refused from then on; with `pass_through` they pass
    /// through instead, where the unit can: firmware may still use it.
    ///
    /// # Errors
    /// [`IommuError::NoDevice`]; [`Io`](IommuError::Io) if the unit could not be told, then the
    /// device is still known and as it was.
    fn release_device(&self, device: RequesterId, pass_through: bool) -> Result<(), IommuError>;

    /// What a device can do here.
    ///
    /// # Errors
    /// [`IommuError::NoDevice`].
    fn device_capabilities(&self, device: RequesterId) -> Result<DeviceCapabilities, IommuError>;

    /// The addresses of a device that are not free, in ascending order.
    fn reserved_regions(&self, device: RequesterId) -> Vec<ReservedRegion>;

    /// A new domain that passes requests through.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`], [`NoSpace`](IommuError::NoSpace).
    fn identity_domain(&self, device: RequesterId) -> Result<Arc<dyn Domain>, IommuError>;

    /// A new domain that maps nothing yet, as wide as the unit allows. `data` is what a user says
    /// about it in the unit's own format.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for an option or data that the unit does not know,
    /// [`NoDevice`](IommuError::NoDevice), [`NoMemory`](IommuError::NoMemory),
    /// [`NoSpace`](IommuError::NoSpace), [`Io`](IommuError::Io).
    fn paging_domain(
        &self,
        device: RequesterId,
        options: PagingOptions,
        data: Option<UserData<'_>>,
    ) -> Result<Arc<dyn Domain>, IommuError>;

    /// A new domain that translates by a user's tables on top of `parent`.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`], [`Invalid`](IommuError::Invalid) and as
    /// [`paging_domain`](Self::paging_domain).
    fn nested_domain(
        &self,
        device: RequesterId,
        parent: &Arc<dyn Domain>,
        options: PagingOptions,
        data: UserData<'_>,
    ) -> Result<Arc<dyn Domain>, IommuError> {
        let _ = (device, parent, options, data);
        Err(IommuError::Unsupported)
    }

    /// Whether there are vIOMMUs of a type (Linux `enum iommu_viommu_type`).
    fn has_viommu(&self, device: RequesterId, kind: u32) -> bool {
        let _ = (device, kind);
        false
    }

    /// A new vIOMMU on top of a nesting parent.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for a type that the unit has not; what it says otherwise.
    fn viommu(
        &self,
        device: RequesterId,
        parent: &Arc<dyn Domain>,
        request: ViommuRequest<'_>,
    ) -> Result<Arc<dyn Viommu>, IommuError> {
        let _ = (device, parent, request);
        Err(IommuError::Unsupported)
    }

    /// Whether [`set_reach`](Self::set_reach) would take this, memory and the unit's answers
    /// aside. Changes nothing.
    ///
    /// # Errors
    /// [`IommuError::NoDevice`]; [`Unsupported`](IommuError::Unsupported) for a PASID where there
    /// are none; [`Invalid`](IommuError::Invalid) for a domain of another unit, or one that is
    /// wider than the device's unit or lacks something that it needs.
    fn check_reach(
        &self,
        device: RequesterId,
        pasid: Option<Pasid>,
        reach: &Reach,
    ) -> Result<(), IommuError>;

    /// Sets what requests of a device reach: those without PASID, or those with `pasid`. For
    /// requests without PASID no table is missing any more: it needs no memory.
    ///
    /// While this runs, a request is answered by what was set before, by `reach`, or refused.
    /// When it returned `Ok`, only by `reach`.
    ///
    /// # Errors
    /// As [`check_reach`](Self::check_reach), [`IommuError::NoMemory`] and
    /// [`Io`](IommuError::Io). All but the last are found before the first store; after an error,
    /// what was set before is in force again, unless the unit does not answer any more: then
    /// requests are refused.
    fn set_reach(
        &self,
        device: RequesterId,
        pasid: Option<Pasid>,
        reach: &Reach,
    ) -> Result<(), IommuError>;

    /// What the unit tells about itself; `kind` asks for one format, 0 for the unit's own.
    ///
    /// # Errors
    /// [`IommuError::Unsupported`] for a format that the unit has not,
    /// [`NoDevice`](IommuError::NoDevice).
    fn hardware_info(&self, device: RequesterId, kind: u32) -> Result<HardwareInfo, IommuError> {
        let _ = device;
        match kind {
            0 => Ok(HardwareInfo::default()),
            _ => Err(IommuError::Unsupported),
        }
    }
}
