//! A unit in this process, behind its driver.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vm_iommu_amdvi::{AmdVi, AmdViConfig};
use vm_iommu_dma::{DiscardMsi, DmaHandle, DmaPort, DmaRemapper, Epochs, GuestRam, Upstream};
use vm_iommu_driver::iommu::{DeviceInfo, Domain, Iommu, PagingOptions};
use vm_iommu_driver::{Hardware, PagePool, Pages, RegisterBus, SpinBudget, UnitIommu, amdvi, vtd};
use vm_iommu_pagetable::{BadAddress, TableMemory};
use vm_iommu_spec::{Access, Iova, Pasid, PhysAddr, RequesterId};
use vm_iommu_vtd::{Vtd, VtdConfig};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::faults::Faults;
use crate::machine::{IDENTITY, Machine, REQUESTERS, direct_regions};

pub const RW: Access = Access::READ.union(Access::WRITE);

/// Where domains have their label.
pub const PROBE: Iova = Iova(0x20_0000);

/// Where the pages of labels begin.
const LABELS: u64 = 0x30_0000;
const TABLES: std::ops::Range<PhysAddr> = PhysAddr(8 << 20)..PhysAddr(16 << 20);

/// A unit's registers, and its count of refusals.
pub trait Registers: DmaRemapper + 'static {
    fn read(&self, offset: u64, data: &mut [u8]);
    fn write(&self, offset: u64, data: &[u8]);
    /// Lets the unit's worker go on.
    fn turn(&self);
    fn refused(&self) -> u64;
}

impl Registers for Vtd {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.mmio_read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.mmio_write(offset, data);
    }

    fn turn(&self) {
        let _ = self.step();
    }

    fn refused(&self) -> u64 {
        self.refused()
    }
}

impl Registers for AmdVi {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.mmio_read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.mmio_write(offset, data);
    }

    fn turn(&self) {
        let _ = self.step();
    }

    fn refused(&self) -> u64 {
        self.refused()
    }
}

/// Registers of which a write may be lost.
#[derive(Debug)]
pub struct FaultyBus<U>(Arc<U>, Arc<Faults>);

impl<U: Registers> RegisterBus for FaultyBus<U> {
    fn read32(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.0.read(offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn read64(&self, offset: u16) -> u64 {
        let mut data = [0; 8];
        self.0.read(offset.into(), &mut data);
        u64::from_le_bytes(data)
    }

    fn write32(&self, offset: u16, value: u32) {
        if !self.1.strikes() {
            self.0.write(offset.into(), &value.to_le_bytes());
        }
    }

    fn write64(&self, offset: u16, value: u64) {
        if !self.1.strikes() {
            self.0.write(offset.into(), &value.to_le_bytes());
        }
    }

    fn relax(&self) {
        self.0.turn();
    }
}

/// Memory of which a store may fail.
#[derive(Clone)]
pub struct FaultyMemory(GuestRam, Arc<Faults>);

impl FaultyMemory {
    fn strike(&self, address: PhysAddr) -> Result<(), BadAddress> {
        if self.1.strikes() {
            Err(BadAddress(address))
        } else {
            Ok(())
        }
    }
}

impl TableMemory for FaultyMemory {
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress> {
        self.0.load(address)
    }

    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress> {
        self.strike(address)?;
        self.0.compare_exchange(address, old, new)
    }

    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress> {
        self.strike(address)?;
        self.0.store(address, value)
    }

    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress> {
        self.strike(address)?;
        self.0.store_u32(address, value)
    }
}

/// Pages of which an allocation may fail, counted.
pub struct FaultyPages {
    pool: PagePool<GuestRam>,
    faults: Arc<Faults>,
    taken: Arc<AtomicU64>,
}

impl Pages for FaultyPages {
    fn allocate(&mut self, order: u8) -> Option<PhysAddr> {
        if self.faults.strikes() {
            return None;
        }
        let start = self.pool.allocate(order)?;
        self.taken.fetch_add(1 << order, Ordering::SeqCst);
        Some(start)
    }

    fn free(&mut self, start: PhysAddr, order: u8) {
        self.taken.fetch_sub(1 << order, Ordering::SeqCst);
        self.pool.free(start, order);
    }
}

/// A kind of unit, set up in some way.
pub trait Kind: Send + Sync + 'static {
    type Unit: Registers;
    type Driver: Hardware;
    fn unit(ram: GuestRam, epochs: Arc<Epochs>) -> Arc<Self::Unit>;
    fn driver(
        bus: FaultyBus<Self::Unit>,
        memory: FaultyMemory,
        pages: FaultyPages,
        budget: SpinBudget,
    ) -> Self::Driver;
    /// The non-zero words of the tables that say which device is on which domain.
    fn device_words(driver: &Self::Driver, ram: &GuestRam) -> Vec<u64>;
}

/// A unit as most are.
pub const USUAL: u8 = 0;
/// A unit that announces that it caches absent entries.
pub const CACHES_ABSENT: u8 = 1;
/// A unit with a write buffer, that forgets whole domains only.
pub const WRITE_BUFFER: u8 = 2;

/// VT-d.
pub struct VtdKind<const SORT: u8>;

impl<const SORT: u8> Kind for VtdKind<SORT> {
    type Unit = Vtd;
    type Driver = vtd::Unit<FaultyBus<Vtd>, FaultyMemory, FaultyPages>;

    fn unit(ram: GuestRam, epochs: Arc<Epochs>) -> Arc<Vtd> {
        let config = VtdConfig {
            device_tlb: true,
            caching_mode: SORT == CACHES_ABSENT,
            write_buffer_flush: SORT == WRITE_BUFFER,
            maximum_address_mask: (SORT != WRITE_BUFFER).then_some(18),
            ..VtdConfig::default()
        };
        Vtd::new(config, ram, epochs, Arc::new(())).unwrap()
    }

    fn driver(
        bus: FaultyBus<Vtd>,
        memory: FaultyMemory,
        pages: FaultyPages,
        budget: SpinBudget,
    ) -> Self::Driver {
        let setup = vtd::Setup {
            interrupts: Some(vtd::InterruptSetup {
                size: 7,
                extended: true,
            }),
            host_address_width: 46,
            ..vtd::Setup::new(budget)
        };
        let mut driver = vtd::Unit::start(bus, memory, pages, &setup).unwrap();
        driver.enable_translation().unwrap();
        driver
    }

    fn device_words(driver: &Self::Driver, ram: &GuestRam) -> Vec<u64> {
        let root = words(ram, driver.root_table(), 0x1000);
        let tables = root.iter().map(|(_, word)| PhysAddr(word & !0xfff));
        let contexts: Vec<_> = tables.flat_map(|table| words(ram, table, 0x1000)).collect();
        let all = root.into_iter().chain(contexts);
        all.flat_map(|(place, word)| [place, word]).collect()
    }
}

/// AMD-Vi.
pub struct AmdViKind<const SORT: u8>;

impl<const SORT: u8> Kind for AmdViKind<SORT> {
    type Unit = AmdVi;
    type Driver = amdvi::Unit<FaultyBus<AmdVi>, FaultyMemory, FaultyPages>;

    fn unit(ram: GuestRam, epochs: Arc<Epochs>) -> Arc<AmdVi> {
        let config = AmdViConfig {
            np_cache: SORT == CACHES_ABSENT,
            iotlb_support: true,
            ..AmdViConfig::default()
        };
        AmdVi::new(config, ram, epochs, Arc::new(())).unwrap()
    }

    fn driver(
        bus: FaultyBus<AmdVi>,
        memory: FaultyMemory,
        pages: FaultyPages,
        budget: SpinBudget,
    ) -> Self::Driver {
        let setup = amdvi::Setup {
            last_device: 0x4ff,
            np_cache: SORT == CACHES_ABSENT,
            iotlb_support: true,
            interrupts: Some(amdvi::InterruptSetup {
                length: 9,
                x2apic: true,
            }),
            physical_address_width: 46,
            ..amdvi::Setup::new(budget)
        };
        amdvi::Unit::start(bus, memory, pages, &setup).unwrap()
    }

    fn device_words(driver: &Self::Driver, ram: &GuestRam) -> Vec<u64> {
        let words = words(ram, driver.device_table(), 0x500 * 32);
        words
            .into_iter()
            .flat_map(|(place, word)| [place, word])
            .collect()
    }
}

/// The words of memory that are not zero, with their places.
fn words(ram: &GuestRam, from: PhysAddr, length: usize) -> Vec<(u64, u64)> {
    (from.0..)
        .step_by(8)
        .take(length / 8)
        .map(|place| (place, ram.load(PhysAddr(place)).unwrap()))
        .filter(|(_, word)| *word != 0)
        .collect()
}

/// Memory, a unit, and the ports of the devices behind it.
pub struct UnitMachine<K: Kind> {
    pub ram: GuestRam,
    pub unit: Arc<K::Unit>,
    pub iommu: Arc<UnitIommu<K::Driver>>,
    pub ports: Vec<Arc<DmaPort>>,
    handles: Vec<Mutex<DmaHandle>>,
    faults: Arc<Faults>,
    taken: Arc<AtomicU64>,
    labels: Mutex<BTreeMap<u64, PhysAddr>>,
}

impl<K: Kind> UnitMachine<K> {
    /// Waits have `budget` looks.
    pub fn with_budget(budget: SpinBudget) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap();
        let ram = GuestRam::new(memory);
        let epochs = Arc::new(Epochs::default());
        let unit = K::unit(ram.clone(), Arc::clone(&epochs));
        let faults = Arc::new(Faults::default());
        let taken = Arc::new(AtomicU64::new(0));
        let pages = FaultyPages {
            pool: PagePool::new(ram.clone(), TABLES),
            faults: Arc::clone(&faults),
            taken: Arc::clone(&taken),
        };
        let bus = FaultyBus(Arc::clone(&unit), Arc::clone(&faults));
        let memory = FaultyMemory(ram.clone(), Arc::clone(&faults));
        let iommu = Arc::new(UnitIommu::new(K::driver(bus, memory, pages, budget)));
        for requester in REQUESTERS {
            for region in direct_regions(requester) {
                iommu.reserve(requester, region);
            }
        }
        let ports: Vec<_> = REQUESTERS
            .iter()
            .map(|requester| {
                let port = DmaPort::new(Upstream {
                    output: Arc::new(ram.clone()),
                    remapper: Some(Arc::clone(&unit) as Arc<dyn DmaRemapper>),
                    epochs: Arc::clone(&epochs),
                    msi: Arc::new(DiscardMsi),
                });
                port.set_requester(*requester);
                port.set_bus_master(true);
                port
            })
            .collect();
        let handles = ports.iter().map(|port| Mutex::new(port.handle())).collect();
        // What is found by who passes through.
        ram.store(PhysAddr(PROBE.0), IDENTITY).unwrap();
        Self {
            ram,
            unit,
            iommu,
            ports,
            handles,
            faults,
            taken,
            labels: Mutex::default(),
        }
    }

    /// The page of a label.
    pub fn page_of(&self, label: u64) -> PhysAddr {
        let mut labels = self.labels.lock().unwrap();
        let next = PhysAddr(LABELS + labels.len() as u64 * 0x1000);
        let page = *labels.entry(label).or_insert(next);
        self.ram.store(page, label).unwrap();
        page
    }
}

impl<K: Kind> Machine for UnitMachine<K> {
    const PASIDS: bool = false;

    fn new() -> Self {
        Self::with_budget(SpinBudget(200))
    }

    fn unit(&self) -> Arc<dyn Iommu> {
        Arc::clone(&self.iommu) as Arc<dyn Iommu>
    }

    fn foreign_domain(&self) -> Arc<dyn Domain> {
        let other = Self::new();
        let device = DeviceInfo::new(REQUESTERS[0]);
        other.iommu.probe_device(&device).unwrap();
        let options = PagingOptions::default();
        other
            .iommu
            .paging_domain(REQUESTERS[0], options, None)
            .unwrap()
    }

    fn label(&self, domain: &Arc<dyn Domain>, label: u64) -> bool {
        domain.map(PROBE, self.page_of(label), 0x1000, RW).is_ok()
    }

    fn observe(&self, device: RequesterId, pasid: Option<Pasid>) -> Option<u64> {
        assert_eq!(pasid, None);
        let index = REQUESTERS.iter().position(|other| *other == device)?;
        let handle = self.handles[index].lock().unwrap();
        let before = self.unit.refused();
        let mut data = [0; 8];
        match handle.read(PROBE, &mut data) {
            Ok(()) => {
                assert_eq!(self.unit.refused(), before);
                Some(u64::from_le_bytes(data))
            }
            Err(partial) => {
                assert_eq!(partial.done, 0);
                assert_eq!(partial.fault.requester, device);
                assert_eq!(self.unit.refused(), before + 1, "a refusal is counted once");
                None
            }
        }
    }

    fn faults(&self) -> &Faults {
        &self.faults
    }

    fn footprint(&self) -> Vec<u64> {
        // Domains that could not be destroyed are, with the next one that is made.
        let probed = REQUESTERS.iter().find_map(|requester| {
            let options = PagingOptions::default();
            self.iommu.paging_domain(*requester, options, None).ok()
        });
        drop(probed);
        let mut footprint = vec![self.taken.load(Ordering::SeqCst)];
        let words = self
            .iommu
            .with_unit(|unit| K::device_words(unit, &self.ram));
        footprint.extend(words);
        footprint
    }
}
