//! A VT-d unit in this process, behind its driver.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vm_iommu_dma::{DiscardMsi, DmaHandle, DmaPort, DmaRemapper, Epochs, GuestRam, Upstream};
use vm_iommu_driver::iommu::{DeviceInfo, Domain, Iommu, PagingOptions};
use vm_iommu_driver::vtd::{InterruptSetup, Setup, Unit, VtdIommu};
use vm_iommu_driver::{PagePool, Pages, RegisterBus, SpinBudget};
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

/// Registers of which a write may be lost.
#[derive(Debug)]
pub struct FaultyBus(Arc<Vtd>, Arc<Faults>);

impl RegisterBus for FaultyBus {
    fn read32(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.0.mmio_read(offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn read64(&self, offset: u16) -> u64 {
        let mut data = [0; 8];
        self.0.mmio_read(offset.into(), &mut data);
        u64::from_le_bytes(data)
    }

    fn write32(&self, offset: u16, value: u32) {
        if !self.1.strikes() {
            self.0.mmio_write(offset.into(), &value.to_le_bytes());
        }
    }

    fn write64(&self, offset: u16, value: u64) {
        if !self.1.strikes() {
            self.0.mmio_write(offset.into(), &value.to_le_bytes());
        }
    }

    fn relax(&self) {
        let _ = self.0.step();
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

pub type TestIommu = VtdIommu<FaultyBus, FaultyMemory, FaultyPages>;

/// A unit as most are.
pub const USUAL: u8 = 0;
/// A unit that announces that it caches absent entries.
pub const CACHING_MODE: u8 = 1;
/// A unit with a write buffer, that forgets whole domains only.
pub const WRITE_BUFFER: u8 = 2;

fn config(unit: u8) -> VtdConfig {
    VtdConfig {
        device_tlb: true,
        caching_mode: unit == CACHING_MODE,
        write_buffer_flush: unit == WRITE_BUFFER,
        maximum_address_mask: (unit != WRITE_BUFFER).then_some(18),
        ..VtdConfig::default()
    }
}

/// Memory, a unit, and the ports of the devices behind it.
pub struct VtdMachine<const UNIT: u8 = USUAL> {
    pub ram: GuestRam,
    pub unit: Arc<Vtd>,
    pub iommu: Arc<TestIommu>,
    pub ports: Vec<Arc<DmaPort>>,
    handles: Vec<Mutex<DmaHandle>>,
    faults: Arc<Faults>,
    taken: Arc<AtomicU64>,
    labels: Mutex<BTreeMap<u64, PhysAddr>>,
}

impl<const UNIT: u8> VtdMachine<UNIT> {
    /// Waits have `budget` looks.
    pub fn with_budget(budget: SpinBudget) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap();
        let ram = GuestRam::new(memory);
        let epochs = Arc::new(Epochs::default());
        let unit = Vtd::new(config(UNIT), ram.clone(), Arc::clone(&epochs), Arc::new(())).unwrap();
        let faults = Arc::new(Faults::default());
        let taken = Arc::new(AtomicU64::new(0));
        let pages = FaultyPages {
            pool: PagePool::new(ram.clone(), TABLES),
            faults: Arc::clone(&faults),
            taken: Arc::clone(&taken),
        };
        let bus = FaultyBus(Arc::clone(&unit), Arc::clone(&faults));
        let memory = FaultyMemory(ram.clone(), Arc::clone(&faults));
        let setup = Setup {
            interrupts: Some(InterruptSetup {
                size: 7,
                extended: true,
            }),
            host_address_width: 46,
            ..Setup::new(budget)
        };
        let mut driver = Unit::start(bus, memory, pages, &setup).unwrap();
        driver.enable_translation().unwrap();
        let iommu = Arc::new(VtdIommu::new(driver));
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

impl<const UNIT: u8> Machine for VtdMachine<UNIT> {
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
        let root = self.iommu.with_unit(|unit| unit.root_table());
        let mut footprint = vec![self.taken.load(Ordering::SeqCst)];
        let mut add = |table: PhysAddr| {
            let mut pointers = Vec::new();
            for place in (table.0..table.0 + 0x1000).step_by(8) {
                match self.ram.load(PhysAddr(place)).unwrap() {
                    0 => {}
                    word => {
                        footprint.extend([place, word]);
                        pointers.push(PhysAddr(word & !0xfff));
                    }
                }
            }
            pointers
        };
        for table in add(root) {
            add(table);
        }
        footprint
    }
}
