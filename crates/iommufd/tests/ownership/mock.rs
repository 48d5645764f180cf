//! A unit without hardware: it remembers what it was told.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vm_iommu_driver::iommu::{
    Capabilities, DeviceCapabilities, DeviceInfo, Domain, DomainKind, Geometry, Iommu, IommuError,
    PagingOptions, Reach, ReservedRegion, UnitKind, UserData,
};
use vm_iommu_spec::{Access, Iova, Pasid, PhysAddr, RequesterId};

use crate::faults::Faults;
use crate::machine::{IDENTITY, Machine, REQUESTERS, direct_regions};

static NEXT_UNIT: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
pub struct MockUnit {
    id: u64,
    kind: UnitKind,
    pub capabilities: Capabilities,
    faults: Arc<Faults>,
    devices: Mutex<BTreeMap<RequesterId, Known>>,
    /// Devices that were released so that they pass through.
    passing: Mutex<Vec<RequesterId>>,
    /// Devices that take no domain.
    pub refusing: Mutex<Vec<RequesterId>>,
}

#[derive(Debug)]
struct Known {
    info: DeviceInfo,
    reach: BTreeMap<Option<Pasid>, Arc<dyn Domain>>,
}

impl MockUnit {
    pub fn new(kind: UnitKind, faults: &Arc<Faults>) -> Self {
        Self {
            id: NEXT_UNIT.fetch_add(1, Ordering::Relaxed),
            kind,
            capabilities: Capabilities {
                coherent: true,
                enforce_coherency: true,
                isolated_msi: true,
                dirty_tracking: false,
                nesting: false,
                page_requests: true,
                pasid_bits: 10,
                page_sizes: 1 << 12,
                input_width: 48,
                output_width: 52,
            },
            faults: Arc::clone(faults),
            devices: Mutex::default(),
            passing: Mutex::default(),
            refusing: Mutex::default(),
        }
    }

    /// The label that a device reads.
    pub fn observe(&self, device: RequesterId, pasid: Option<Pasid>) -> Option<u64> {
        if pasid.is_none() && self.passing.lock().unwrap().contains(&device) {
            return Some(IDENTITY);
        }
        let devices = self.devices.lock().unwrap();
        let domain = devices.get(&device)?.reach.get(&pasid)?;
        Some(mock_domain(domain)?.label.load(Ordering::SeqCst))
    }

    pub fn domain(&self, kind: DomainKind) -> Arc<dyn Domain> {
        Arc::new(MockDomain {
            unit: self.id,
            unit_kind: self.kind,
            kind,
            label: AtomicU64::new(if kind == DomainKind::Identity {
                IDENTITY
            } else {
                0
            }),
            mapped: Mutex::default(),
            faults: Arc::clone(&self.faults),
        })
    }

    fn strike(&self, error: IommuError) -> Result<(), IommuError> {
        if self.faults.strikes() {
            Err(error)
        } else {
            Ok(())
        }
    }
}

#[derive(Debug)]
pub struct MockDomain {
    unit: u64,
    unit_kind: UnitKind,
    kind: DomainKind,
    pub label: AtomicU64,
    mapped: Mutex<BTreeMap<Iova, PhysAddr>>,
    faults: Arc<Faults>,
}

pub fn mock_domain(domain: &Arc<dyn Domain>) -> Option<&MockDomain> {
    let domain: &dyn Any = &**domain;
    domain.downcast_ref()
}

impl Domain for MockDomain {
    fn unit_kind(&self) -> UnitKind {
        self.unit_kind
    }

    fn kind(&self) -> DomainKind {
        self.kind
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            aperture: Iova(0)..=Iova((1 << 48) - 1),
            page_sizes: 1 << 12,
        }
    }

    fn map(&self, iova: Iova, output: PhysAddr, length: u64, _: Access) -> Result<(), IommuError> {
        if self.faults.strikes() {
            return Err(IommuError::NoMemory);
        }
        assert_eq!(length, 1 << 12, "regions are mapped by pages");
        let mut mapped = self.mapped.lock().unwrap();
        match mapped.insert(iova, output) {
            None => Ok(()),
            Some(_) => Err(IommuError::Exists),
        }
    }

    fn unmap(&self, iova: Iova, length: u64) -> Result<u64, IommuError> {
        self.mapped.lock().unwrap().remove(&iova);
        Ok(length)
    }

    fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr> {
        self.mapped.lock().unwrap().get(&iova).copied()
    }
}

impl Iommu for MockUnit {
    fn kind(&self) -> UnitKind {
        self.kind
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn probe_device(&self, info: &DeviceInfo) -> Result<(), IommuError> {
        self.strike(IommuError::NoMemory)?;
        let mut devices = self.devices.lock().unwrap();
        if devices.contains_key(&info.requester) {
            return Err(IommuError::Exists);
        }
        let known = Known {
            info: info.clone(),
            reach: BTreeMap::new(),
        };
        devices.insert(info.requester, known);
        let mut passing = self.passing.lock().unwrap();
        passing.retain(|device| *device != info.requester);
        Ok(())
    }

    fn release_device(&self, device: RequesterId, pass_through: bool) -> Result<(), IommuError> {
        self.strike(IommuError::Io)?;
        let mut devices = self.devices.lock().unwrap();
        devices.remove(&device).ok_or(IommuError::NoDevice)?;
        if pass_through {
            self.passing.lock().unwrap().push(device);
        }
        Ok(())
    }

    fn device_capabilities(&self, device: RequesterId) -> Result<DeviceCapabilities, IommuError> {
        let devices = self.devices.lock().unwrap();
        let info = &devices.get(&device).ok_or(IommuError::NoDevice)?.info;
        Ok(DeviceCapabilities {
            pasid_bits: info.pasid_bits.min(self.capabilities.pasid_bits),
            ats: info.ats,
            page_requests: info.pri,
            virtual_function_pri: info.pri && info.virtual_function,
        })
    }

    fn reserved_regions(&self, device: RequesterId) -> Vec<ReservedRegion> {
        direct_regions(device)
    }

    fn identity_domain(&self, _: RequesterId) -> Result<Arc<dyn Domain>, IommuError> {
        self.strike(IommuError::NoMemory)?;
        Ok(self.domain(DomainKind::Identity))
    }

    fn paging_domain(
        &self,
        _: RequesterId,
        _: PagingOptions,
        _: Option<UserData<'_>>,
    ) -> Result<Arc<dyn Domain>, IommuError> {
        self.strike(IommuError::NoMemory)?;
        Ok(self.domain(DomainKind::Paging))
    }

    fn check_reach(
        &self,
        device: RequesterId,
        pasid: Option<Pasid>,
        reach: &Reach,
    ) -> Result<(), IommuError> {
        if pasid.is_some() && self.device_capabilities(device)?.pasid_bits == 0 {
            return Err(IommuError::Unsupported);
        }
        match reach {
            Reach::Domain(domain)
                if mock_domain(domain).is_none_or(|domain| domain.unit != self.id) =>
            {
                Err(IommuError::Invalid)
            }
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
        self.strike(IommuError::Io)?;
        let refuses = self.refusing.lock().unwrap().contains(&device);
        if refuses && matches!(reach, Reach::Domain(_)) {
            return Err(IommuError::Io);
        }
        let mut devices = self.devices.lock().unwrap();
        let known = devices.get_mut(&device).ok_or(IommuError::NoDevice)?;
        match reach {
            Reach::Blocked => known.reach.remove(&pasid),
            Reach::Domain(domain) => known.reach.insert(pasid, Arc::clone(domain)),
        };
        Ok(())
    }
}

/// A machine with nothing but mock units.
pub struct MockMachine {
    faults: Arc<Faults>,
    unit: Arc<MockUnit>,
    foreign: Arc<MockUnit>,
}

impl Machine for MockMachine {
    const PASIDS: bool = true;

    fn new() -> Self {
        let faults = Arc::new(Faults::default());
        Self {
            unit: Arc::new(MockUnit::new(UnitKind::Mock, &faults)),
            foreign: Arc::new(MockUnit::new(UnitKind::Mock, &faults)),
            faults,
        }
    }

    fn unit(&self) -> Arc<dyn Iommu> {
        Arc::clone(&self.unit) as Arc<dyn Iommu>
    }

    fn foreign_domain(&self) -> Arc<dyn Domain> {
        self.foreign.domain(DomainKind::Paging)
    }

    fn label(&self, domain: &Arc<dyn Domain>, label: u64) -> bool {
        let domain = mock_domain(domain).expect("one of ours");
        domain.label.store(label, Ordering::SeqCst);
        true
    }

    fn observe(&self, device: RequesterId, pasid: Option<Pasid>) -> Option<u64> {
        self.unit.observe(device, pasid)
    }

    fn faults(&self) -> &Faults {
        &self.faults
    }

    fn footprint(&self) -> Vec<u64> {
        let devices = self.unit.devices.lock().unwrap();
        let known = REQUESTERS
            .iter()
            .filter_map(|requester| devices.get(requester));
        known
            .flat_map(|known| [known.info.requester.raw().into(), known.reach.len() as u64])
            .collect()
    }
}
