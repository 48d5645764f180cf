//! The mock unit.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_iommu_driver::iommu::{
    Capabilities, DeviceCapabilities, DeviceInfo, Domain, HardwareInfo, Iommu, IommuError,
    PagingOptions, Reach, ReservedRegion, UnitKind, UserData, Viommu, ViommuRequest,
};
use vm_iommu_spec::{Pasid, RequesterId};

use super::PASID_BITS;
use super::domain::{Format, Identity, MockDomain};
use super::nested::{Description, NestedDomain};
use super::viommu::MockViommu;

/// Linux `IOMMU_HW_INFO_TYPE_SELFTEST`.
const HW_INFO: u32 = 0xfeed_beef;
const HW_INFO_REGISTER: u32 = 0xdead_beef;
/// How many caches a device has.
pub(super) const CACHES: usize = 4;
/// What is in them at first.
const CACHE_DEFAULT: u32 = 0x00ba_ddad;
/// The PASID whose second write fails, for replacements that must be undone.
const FAILING: u32 = 1024;

/// A unit that keeps books and has no hardware: nothing goes through it.
#[derive(Debug, Default)]
pub struct MockUnit {
    devices: Arc<Devices>,
}

/// The devices of a unit, which its vIOMMUs know as well.
#[derive(Debug, Default)]
pub(super) struct Devices(Mutex<HashMap<RequesterId, Endpoint>>);

#[derive(Debug)]
pub(super) struct Endpoint {
    pasid_bits: u8,
    /// Its tables cannot track what is written.
    no_dirty: bool,
    caches: [u32; CACHES],
    reach: BTreeMap<Option<Pasid>, Reach>,
    /// The next write of the failing PASID fails.
    armed: bool,
}

impl Devices {
    fn lock(&self) -> MutexGuard<'_, HashMap<RequesterId, Endpoint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties one cache of a device, or all.
    pub(super) fn invalidate(&self, device: RequesterId, index: Option<usize>) {
        if let Some(endpoint) = self.lock().get_mut(&device) {
            match index {
                Some(index) => endpoint
                    .caches
                    .get_mut(index)
                    .into_iter()
                    .for_each(|c| *c = 0),
                None => endpoint.caches = [0; CACHES],
            }
        }
    }
}

impl MockUnit {
    fn lock(&self) -> MutexGuard<'_, HashMap<RequesterId, Endpoint>> {
        self.devices.lock()
    }

    pub(super) fn set_no_dirty(&self, device: RequesterId) {
        if let Some(endpoint) = self.lock().get_mut(&device) {
            endpoint.no_dirty = true;
        }
    }

    pub(super) fn has_no_dirty(&self, device: RequesterId) -> bool {
        self.lock()
            .get(&device)
            .is_some_and(|endpoint| endpoint.no_dirty)
    }

    pub(super) fn cache(&self, device: RequesterId, index: usize) -> Option<u32> {
        self.lock().get(&device)?.caches.get(index).copied()
    }

    /// The domain that requests reach.
    pub(super) fn domain(
        &self,
        device: RequesterId,
        pasid: Option<Pasid>,
    ) -> Option<Arc<dyn Domain>> {
        match self.lock().get(&device)?.reach.get(&pasid)? {
            Reach::Domain(domain) => Some(Arc::clone(domain)),
            Reach::Blocked => None,
        }
    }
}

impl Iommu for MockUnit {
    fn kind(&self) -> UnitKind {
        UnitKind::Mock
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            coherent: true,
            enforce_coherency: false,
            isolated_msi: true,
            dirty_tracking: true,
            nesting: true,
            page_requests: true,
            pasid_bits: PASID_BITS,
            page_sizes: Format::Default.page_sizes(),
            input_width: 56,
            output_width: 51,
        }
    }

    fn probe_device(&self, info: &DeviceInfo) -> Result<(), IommuError> {
        let endpoint = Endpoint {
            pasid_bits: info.pasid_bits.min(PASID_BITS),
            no_dirty: false,
            caches: [CACHE_DEFAULT; CACHES],
            reach: BTreeMap::new(),
            armed: false,
        };
        match self.lock().insert(info.requester, endpoint) {
            None => Ok(()),
            Some(_) => Err(IommuError::Exists),
        }
    }

    fn release_device(&self, device: RequesterId, _: bool) -> Result<(), IommuError> {
        self.lock()
            .remove(&device)
            .map(|_| ())
            .ok_or(IommuError::NoDevice)
    }

    fn device_capabilities(&self, device: RequesterId) -> Result<DeviceCapabilities, IommuError> {
        let devices = self.lock();
        let endpoint = devices.get(&device).ok_or(IommuError::NoDevice)?;
        Ok(DeviceCapabilities {
            pasid_bits: endpoint.pasid_bits,
            ats: false,
            page_requests: true,
            virtual_function_pri: false,
        })
    }

    fn reserved_regions(&self, _: RequesterId) -> Vec<ReservedRegion> {
        Vec::new()
    }

    fn identity_domain(&self, _: RequesterId) -> Result<Arc<dyn Domain>, IommuError> {
        Ok(Arc::new(Identity))
    }

    fn paging_domain(
        &self,
        device: RequesterId,
        options: PagingOptions,
        data: Option<UserData<'_>>,
    ) -> Result<Arc<dyn Domain>, IommuError> {
        if options.dirty_tracking && self.has_no_dirty(device) {
            return Err(IommuError::Unsupported);
        }
        let format = match data {
            None => Format::Default,
            Some(data) => Description::read(data)?.format()?,
        };
        Ok(Arc::new(MockDomain::new(format, options)))
    }

    fn nested_domain(
        &self,
        _: RequesterId,
        _: &Arc<dyn Domain>,
        options: PagingOptions,
        data: UserData<'_>,
    ) -> Result<Arc<dyn Domain>, IommuError> {
        Ok(Arc::new(NestedDomain::new(
            Description::read(data)?,
            options,
            None,
        )))
    }

    fn check_reach(
        &self,
        device: RequesterId,
        pasid: Option<Pasid>,
        reach: &Reach,
    ) -> Result<(), IommuError> {
        let Reach::Domain(domain) = reach else {
            return Ok(());
        };
        let domain = domain.as_ref() as &dyn Any;
        if pasid.is_some() {
            return Ok(());
        }
        let tracks = domain
            .downcast_ref::<MockDomain>()
            .is_some_and(MockDomain::tracks);
        if tracks && self.has_no_dirty(device) {
            return Err(IommuError::Invalid);
        }
        let nested = domain.downcast_ref::<NestedDomain>();
        match nested.and_then(NestedDomain::viommu) {
            Some(viommu) if !viommu.has_device(device) => Err(IommuError::NotFound),
            _ => Ok(()),
        }
    }

    fn set_reach(
        &self,
        device: RequesterId,
        pasid: Option<Pasid>,
        reach: &Reach,
    ) -> Result<(), IommuError> {
        self.check_reach(device, pasid, reach)?;
        let mut devices = self.lock();
        let endpoint = devices.get_mut(&device).ok_or(IommuError::NoDevice)?;
        if pasid.is_some_and(|pasid| pasid.raw() == FAILING) {
            let blocks = matches!(reach, Reach::Blocked);
            if !blocks && std::mem::take(&mut endpoint.armed) {
                return Err(IommuError::NoMemory);
            }
            endpoint.armed = !blocks;
        }
        endpoint.reach.insert(pasid, reach.clone());
        Ok(())
    }

    fn hardware_info(&self, _: RequesterId, kind: u32) -> Result<HardwareInfo, IommuError> {
        if kind != 0 && kind != HW_INFO {
            return Err(IommuError::Unsupported);
        }
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&HW_INFO_REGISTER.to_le_bytes());
        Ok(HardwareInfo {
            kind: HW_INFO,
            bytes,
        })
    }

    fn has_viommu(&self, _: RequesterId, kind: u32) -> bool {
        kind == MockViommu::KIND
    }

    fn viommu(
        &self,
        _: RequesterId,
        parent: &Arc<dyn Domain>,
        request: ViommuRequest<'_>,
    ) -> Result<Arc<dyn Viommu>, IommuError> {
        MockViommu::create(Arc::clone(parent), Arc::clone(&self.devices), request)
    }
}
