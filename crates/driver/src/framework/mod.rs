//! A driver as a framework sees it: [`crate::iommu`] over any unit that a [`Hardware`] drives.
//!
//! Neither VT-d's legacy mode nor AMD-Vi's host tables as they are used here have PASIDs, nested
//! translation, dirty flags or page requests; what asks for one of them is refused as unsupported.

mod domain;
mod hardware;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_iommu_spec::{Access, DomainId, MSI_WINDOW, Pasid, RequesterId};

use self::domain::UnitDomain;
pub use self::hardware::Hardware;
use crate::iommu::{
    Capabilities, DeviceCapabilities, DeviceInfo, Domain, DomainKind, HardwareInfo, Iommu,
    IommuError, PagingOptions, Reach, RegionKind, ReservedRegion, UnitKind, UserData,
};

/// A unit behind the interface that all units have.
pub struct UnitIommu<U> {
    shared: Arc<Shared<U>>,
}

/// What domains lead back to.
pub(super) struct Shared<U>(Mutex<Inner<U>>);

pub(super) struct Inner<U> {
    pub(super) unit: U,
    regions: BTreeMap<RequesterId, Vec<ReservedRegion>>,
    devices: BTreeMap<RequesterId, Known>,
    /// The pass-through domain of devices that were released so.
    released: Option<DomainId>,
    /// Domains that could not be destroyed when they were dropped.
    pub(super) lingering: Vec<DomainId>,
    /// Buses whose context table could not be given back.
    untidy: BTreeSet<u8>,
}

/// A device that was probed.
struct Known {
    info: DeviceInfo,
    /// What it is on: kept, so that it is not destroyed meanwhile.
    domain: Option<Arc<dyn Domain>>,
}

impl Known {
    /// The source ids of its requests.
    fn sources(&self) -> Vec<RequesterId> {
        sources(&self.info)
    }
}

fn sources(info: &DeviceInfo) -> Vec<RequesterId> {
    let own = [info.requester];
    own.into_iter()
        .chain(info.aliases.iter().copied())
        .collect()
}

impl<U> fmt::Debug for UnitIommu<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitIommu").finish_non_exhaustive()
    }
}

impl<U> Shared<U> {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner<U>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<U: Hardware> UnitIommu<U> {
    /// Takes over a unit that is up and translates. Its domains and context entries are the
    /// framework's from then on.
    pub fn new(unit: U) -> Self {
        Self {
            shared: Arc::new(Shared(Mutex::new(Inner {
                unit,
                regions: BTreeMap::new(),
                devices: BTreeMap::new(),
                released: None,
                lingering: Vec::new(),
                untidy: BTreeSet::new(),
            }))),
        }
    }

    /// Says that firmware reserves a region for a device: an RMRR, or an IVMD. To be said before the
    /// device is probed.
    pub fn reserve(&self, device: RequesterId, region: ReservedRegion) {
        let mut inner = self.shared.lock();
        inner.regions.entry(device).or_default().push(region);
    }

    /// Calls `use_unit` with the unit, for what a framework has no part in: faults and
    /// interrupts. Domains and context entries must stay as they are.
    pub fn with_unit<R>(&self, use_unit: impl FnOnce(&mut U) -> R) -> R {
        use_unit(&mut self.shared.lock().unit)
    }

    fn domain(&self, id: DomainId, kind: DomainKind) -> Arc<dyn Domain> {
        Arc::new(UnitDomain::new(Arc::clone(&self.shared), id, kind))
    }
}

impl<U: Hardware> Inner<U> {
    /// Puts requests of several source ids on a domain, or blocks them, or does so for none of
    /// them.
    fn put_all(
        &mut self,
        sources: &[RequesterId],
        domain: Option<DomainId>,
    ) -> Result<(), IommuError> {
        let mut done: Vec<(RequesterId, Option<DomainId>)> = Vec::new();
        for &source in sources {
            let before = self.unit.domain_of(source);
            if let Err(error) = self.unit.put(source, domain) {
                for (source, before) in done.into_iter().rev() {
                    if self.unit.put(source, before).is_err() {
                        // Blocked is the next best; the error is reported as it is.
                        let _ = self.unit.put(source, None);
                    }
                }
                return Err(error);
            }
            done.push((source, before));
        }
        Ok(())
    }

    /// Of some source ids, those that no device has.
    fn unshared(&self, of: &[RequesterId]) -> Vec<RequesterId> {
        let used: Vec<RequesterId> = self.devices.values().flat_map(Known::sources).collect();
        of.iter()
            .copied()
            .filter(|source| !used.contains(source))
            .collect()
    }

    /// Gives back the context tables of buses on which no device is known.
    fn tidy(&mut self, buses: impl Iterator<Item = u8>) {
        for bus in buses {
            let mut others = self.devices.values().flat_map(Known::sources);
            if others.any(|source| source.bus() == bus) {
                self.untidy.remove(&bus);
                continue;
            }
            match self.unit.retire_bus(bus) {
                Ok(()) | Err(IommuError::Busy) => self.untidy.remove(&bus),
                // An empty table that stays does no harm.
                Err(_) => self.untidy.insert(bus),
            };
        }
    }

    /// Prepares the source ids of a device, and blocks those that no device has yet.
    fn take_on(&mut self, sources: &[RequesterId]) -> Result<(), IommuError> {
        for &source in sources {
            self.unit.prepare(source)?;
        }
        let unshared = self.unshared(sources);
        self.put_all(&unshared, None)
    }

    /// Gives back what could not be given back before.
    fn sweep(&mut self) {
        let untidy = mem::take(&mut self.untidy);
        self.tidy(untidy.into_iter());
        let lingering = mem::take(&mut self.lingering);
        for id in lingering {
            if self.unit.destroy_domain(id).is_err() {
                self.lingering.push(id);
            }
        }
    }

    fn released_domain(&mut self) -> Result<Option<DomainId>, IommuError> {
        if self.released.is_none() && self.unit.passes_through() {
            self.released = Some(self.unit.create_domain(DomainKind::Identity)?);
        }
        Ok(self.released)
    }
}

impl<U: Hardware> Iommu for UnitIommu<U> {
    fn kind(&self) -> UnitKind {
        U::KIND
    }

    fn capabilities(&self) -> Capabilities {
        self.shared.lock().unit.capabilities()
    }

    fn probe_device(&self, info: &DeviceInfo) -> Result<(), IommuError> {
        let mut inner = self.shared.lock();
        if inner.devices.contains_key(&info.requester) {
            return Err(IommuError::Exists);
        }
        let sources = sources(info);
        if let Err(error) = inner.take_on(&sources) {
            inner.tidy(sources.iter().map(|source| source.bus()));
            return Err(error);
        }
        let known = Known {
            info: info.clone(),
            domain: None,
        };
        inner.devices.insert(info.requester, known);
        Ok(())
    }

    fn release_device(&self, device: RequesterId, pass_through: bool) -> Result<(), IommuError> {
        let mut inner = self.shared.lock();
        let known = inner.devices.remove(&device).ok_or(IommuError::NoDevice)?;
        let sources = known.sources();
        let unshared = inner.unshared(&sources);
        let outcome = match pass_through {
            true => inner.released_domain(),
            false => Ok(None),
        }
        .and_then(|domain| inner.put_all(&unshared, domain));
        if let Err(error) = outcome {
            inner.devices.insert(device, known);
            return Err(error);
        }
        inner.tidy(sources.iter().map(|source| source.bus()));
        // The last reference to a domain takes the lock.
        drop(inner);
        drop(known);
        Ok(())
    }

    fn device_capabilities(&self, device: RequesterId) -> Result<DeviceCapabilities, IommuError> {
        let inner = self.shared.lock();
        let known = inner.devices.get(&device).ok_or(IommuError::NoDevice)?;
        Ok(DeviceCapabilities {
            ats: known.info.ats && inner.unit.has_device_tlbs(),
            ..DeviceCapabilities::default()
        })
    }

    fn reserved_regions(&self, device: RequesterId) -> Vec<ReservedRegion> {
        let inner = self.shared.lock();
        let mut regions = inner.regions.get(&device).cloned().unwrap_or_default();
        regions.push(ReservedRegion {
            range: MSI_WINDOW,
            access: Access::WRITE,
            kind: RegionKind::Msi,
        });
        regions.sort_by_key(|region| *region.range.start());
        regions
    }

    fn identity_domain(&self, device: RequesterId) -> Result<Arc<dyn Domain>, IommuError> {
        let mut inner = self.shared.lock();
        if !inner.devices.contains_key(&device) {
            return Err(IommuError::NoDevice);
        }
        inner.sweep();
        let id = inner.unit.create_domain(DomainKind::Identity)?;
        drop(inner);
        Ok(self.domain(id, DomainKind::Identity))
    }

    fn paging_domain(
        &self,
        device: RequesterId,
        options: PagingOptions,
        data: Option<UserData<'_>>,
    ) -> Result<Arc<dyn Domain>, IommuError> {
        if options.nest_parent || options.dirty_tracking || data.is_some() {
            return Err(IommuError::Unsupported);
        }
        let mut inner = self.shared.lock();
        if !inner.devices.contains_key(&device) {
            return Err(IommuError::NoDevice);
        }
        inner.sweep();
        let id = inner.unit.create_domain(DomainKind::Paging)?;
        drop(inner);
        Ok(self.domain(id, DomainKind::Paging))
    }

    fn check_reach(
        &self,
        device: RequesterId,
        pasid: Option<Pasid>,
        reach: &Reach,
    ) -> Result<(), IommuError> {
        if pasid.is_some() {
            return Err(IommuError::Unsupported);
        }
        if !self.shared.lock().devices.contains_key(&device) {
            return Err(IommuError::NoDevice);
        }
        match reach {
            Reach::Blocked => Ok(()),
            Reach::Domain(domain) => UnitDomain::id_in(domain, &self.shared).map(|_| ()),
        }
    }

    fn set_reach(
        &self,
        device: RequesterId,
        pasid: Option<Pasid>,
        reach: &Reach,
    ) -> Result<(), IommuError> {
        self.check_reach(device, pasid, reach)?;
        let (id, domain) = match reach {
            Reach::Blocked => (None, None),
            Reach::Domain(domain) => (
                Some(UnitDomain::id_in(domain, &self.shared)?),
                Some(Arc::clone(domain)),
            ),
        };
        let mut inner = self.shared.lock();
        let known = inner.devices.get(&device).ok_or(IommuError::NoDevice)?;
        let sources = known.sources();
        inner.put_all(&sources, id)?;
        let known = inner.devices.get_mut(&device);
        let left = known.map(|known| mem::replace(&mut known.domain, domain));
        // The last reference to a domain takes the lock.
        drop(inner);
        drop(left);
        Ok(())
    }

    fn hardware_info(&self, device: RequesterId, kind: u32) -> Result<HardwareInfo, IommuError> {
        let inner = self.shared.lock();
        let info = inner.unit.hardware_info();
        if kind != 0 && kind != info.kind {
            return Err(IommuError::Unsupported);
        }
        if !inner.devices.contains_key(&device) {
            return Err(IommuError::NoDevice);
        }
        Ok(info)
    }
}
