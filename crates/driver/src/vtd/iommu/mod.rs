//! The driver as a framework sees it: [`crate::iommu`] over a [`Unit`].
//!
//! Legacy mode has no PASIDs, no nested translation, no dirty flags and no page requests; what
//! asks for one of them is refused as unsupported.

mod domain;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_iommu_pagetable::{EditError, Levels, TableMemory};
use vm_iommu_spec::vtd::registers::GlobalBits;
use vm_iommu_spec::{Access, DomainId, MSI_WINDOW, Pasid, RequesterId};

use self::domain::VtdDomain;
use super::{Error, Unit};
use crate::iommu::{
    Capabilities, DeviceCapabilities, DeviceInfo, Domain, DomainKind, HardwareInfo, Iommu,
    IommuError, PagingOptions, Reach, RegionKind, ReservedRegion, UnitKind, UserData,
};
use crate::{Pages, RegisterBus};

/// `IOMMU_HW_INFO_TYPE_INTEL_VTD`.
const HW_INFO_VTD: u32 = 1;

/// A VT-d unit in legacy mode, behind the interface that all units have.
pub struct VtdIommu<B, M, P> {
    shared: Arc<Shared<B, M, P>>,
}

/// What domains lead back to.
pub(super) struct Shared<B, M, P>(Mutex<Inner<B, M, P>>);

pub(super) struct Inner<B, M, P> {
    pub(super) unit: Unit<B, M, P>,
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

impl<B, M, P> fmt::Debug for VtdIommu<B, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VtdIommu").finish_non_exhaustive()
    }
}

impl<B, M, P> Shared<B, M, P> {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner<B, M, P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B, M, P> VtdIommu<B, M, P>
where
    B: RegisterBus + Send + 'static,
    M: TableMemory + 'static,
    P: Pages + Send + 'static,
{
    /// Takes over a unit that is up and translates. Its domains and context entries are the
    /// framework's from then on.
    pub fn new(unit: Unit<B, M, P>) -> Self {
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

    /// Says that firmware reserves a region for a device: an RMRR. To be said before the device is
    /// probed.
    pub fn reserve(&self, device: RequesterId, region: ReservedRegion) {
        let mut inner = self.shared.lock();
        inner.regions.entry(device).or_default().push(region);
    }

    /// Calls `use_unit` with the unit, for what a framework has no part in: faults and
    /// interrupts. Domains and context entries must stay as they are.
    pub fn with_unit<R>(&self, use_unit: impl FnOnce(&mut Unit<B, M, P>) -> R) -> R {
        use_unit(&mut self.shared.lock().unit)
    }

    fn domain(&self, id: DomainId, kind: DomainKind) -> Arc<dyn Domain> {
        Arc::new(VtdDomain::new(Arc::clone(&self.shared), id, kind))
    }
}

impl<B: RegisterBus, M: TableMemory, P: Pages> Inner<B, M, P> {
    /// Puts requests of a source id on a domain, or blocks them.
    fn put(&mut self, source: RequesterId, domain: Option<DomainId>) -> Result<(), Error> {
        match domain {
            Some(domain) => self.unit.attach(source, domain),
            None => self.unit.detach(source),
        }
    }

    /// The same for several, or for none of them.
    fn put_all(
        &mut self,
        sources: &[RequesterId],
        domain: Option<DomainId>,
    ) -> Result<(), IommuError> {
        let mut done: Vec<(RequesterId, Option<DomainId>)> = Vec::new();
        for &source in sources {
            let before = self.unit.domain_of(source);
            if let Err(error) = self.put(source, domain) {
                for (source, before) in done.into_iter().rev() {
                    if self.put(source, before).is_err() {
                        // Blocked is the next best; the error is reported as it is.
                        let _ = self.put(source, None);
                    }
                }
                return Err(error.into());
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
                Ok(()) | Err(Error::BusInUse(_)) => self.untidy.remove(&bus),
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
        if self.released.is_none() && self.unit.extended_capability().pass_through() {
            self.released = Some(self.unit.create_pass_through_domain()?);
        }
        Ok(self.released)
    }

    fn levels(&self) -> Option<Levels> {
        let widths = self.unit.capability().adjusted_widths() & 0b1110;
        Levels::from_agaw(widths.checked_ilog2()? as u8)
    }

    /// Width in bits of the addresses that paging domains translate.
    fn input_width(&self) -> u8 {
        let limit = self.unit.capability().maximum_width() + 1;
        self.levels()
            .map_or(0, |levels| levels.address_width().min(limit))
    }

    fn page_sizes(&self) -> u64 {
        let large = u64::from(self.unit.capability().second_stage_large_pages());
        1 << 12 | (large & 1) << 21 | (large >> 1 & 1) << 30
    }
}

impl<B, M, P> Iommu for VtdIommu<B, M, P>
where
    B: RegisterBus + Send + 'static,
    M: TableMemory + 'static,
    P: Pages + Send + 'static,
{
    fn kind(&self) -> UnitKind {
        UnitKind::Vtd
    }

    fn capabilities(&self) -> Capabilities {
        let inner = self.shared.lock();
        let unit = &inner.unit;
        Capabilities {
            // A unit whose walks are not coherent is not driven at all.
            coherent: true,
            enforce_coherency: unit.extended_capability().snoop_control(),
            isolated_msi: unit.enabled().contains(GlobalBits::INTERRUPT_REMAPPING),
            dirty_tracking: false,
            nesting: false,
            page_requests: false,
            pasid_bits: 0,
            page_sizes: inner.page_sizes(),
            input_width: inner.input_width(),
            output_width: unit.host_address_width,
        }
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
            ats: known.info.ats && inner.unit.extended_capability().device_tlb(),
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
        let id = inner.unit.create_pass_through_domain()?;
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
        let levels = inner.levels().ok_or(IommuError::Unsupported)?;
        let id = inner.unit.create_domain(levels)?;
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
            Reach::Domain(domain) => VtdDomain::id_in(domain, &self.shared).map(|_| ()),
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
                Some(VtdDomain::id_in(domain, &self.shared)?),
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
        if kind != 0 && kind != HW_INFO_VTD {
            return Err(IommuError::Unsupported);
        }
        let inner = self.shared.lock();
        if !inner.devices.contains_key(&device) {
            return Err(IommuError::NoDevice);
        }
        // struct iommu_hw_info_vtd: flags, reserved, cap_reg, ecap_reg.
        let registers = [
            0,
            inner.unit.capability().into_bits(),
            inner.unit.extended_capability().into_bits(),
        ];
        Ok(HardwareInfo {
            kind: HW_INFO_VTD,
            bytes: registers.into_iter().flat_map(u64::to_le_bytes).collect(),
        })
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
