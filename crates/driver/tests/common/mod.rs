//! A unit in this process, a device behind it, and the bus by which a driver reaches the unit.

use std::sync::Arc;

use vm_iommu_dma::{DiscardMsi, DmaHandle, DmaPort, DmaRemapper, Epochs, GuestRam, Upstream};
use vm_iommu_driver::RegisterBus;
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::{Access, Fault, Iova, PhysAddr, RequesterId};
use vm_memory::{GuestAddress, GuestMemoryMmap};

pub const RW: Access = Access::READ.union(Access::WRITE);
pub const DEVICE: RequesterId = RequesterId::from_source_id(0, 0x0118);
/// What drivers make their tables of.
pub const TABLES: std::ops::Range<PhysAddr> = PhysAddr(8 << 20)..PhysAddr(16 << 20);
const MEMORY: usize = 16 << 20;

/// The registers of a unit.
pub trait Registers: DmaRemapper {
    fn read(&self, offset: u64, data: &mut [u8]);
    fn write(&self, offset: u64, data: &[u8]);
    fn turn(&self);
}

/// The registers of a unit in this process, which gets its turns while the driver waits.
#[derive(Debug)]
pub struct UnitBus<U>(pub Arc<U>);

impl<U: Registers> RegisterBus for UnitBus<U> {
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
        self.0.write(offset.into(), &value.to_le_bytes());
    }

    fn write64(&self, offset: u16, value: u64) {
        self.0.write(offset.into(), &value.to_le_bytes());
    }

    fn relax(&self) {
        self.0.turn();
    }
}

/// A unit, its driver, and a device behind it.
pub struct Bed<U, D> {
    pub ram: GuestRam,
    pub unit: Arc<U>,
    pub driver: D,
    device: DmaHandle,
}

impl<U: Registers + 'static, D> Bed<U, D> {
    pub fn with(
        unit: impl FnOnce(GuestRam, Arc<Epochs>) -> Arc<U>,
        driver: impl FnOnce(&Arc<U>, &GuestRam) -> D,
    ) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let ram = GuestRam::new(memory);
        let epochs = Arc::new(Epochs::default());
        let unit = unit(ram.clone(), Arc::clone(&epochs));
        let port = DmaPort::new(Upstream {
            output: Arc::new(ram.clone()),
            remapper: Some(Arc::clone(&unit) as Arc<dyn DmaRemapper>),
            epochs,
            msi: Arc::new(DiscardMsi),
        });
        port.set_requester(DEVICE);
        port.set_bus_master(true);
        Self {
            driver: driver(&unit, &ram),
            device: port.handle(),
            ram,
            unit,
        }
    }

    pub fn store(&self, at: u64, value: u64) {
        self.ram.store(PhysAddr(at), value).unwrap();
    }

    pub fn load(&self, at: u64) -> u64 {
        self.ram.load(PhysAddr(at)).unwrap()
    }

    /// The device reads.
    pub fn read(&self, at: Iova) -> Result<u64, Fault> {
        let mut data = [0; 8];
        match self.device.read(at, &mut data) {
            Ok(()) => Ok(u64::from_le_bytes(data)),
            Err(partial) => Err(partial.fault),
        }
    }

    /// The device writes.
    pub fn write(&self, at: Iova, value: u64) -> Result<(), Fault> {
        self.device
            .write(at, &value.to_le_bytes())
            .map_err(|partial| partial.fault)
    }

    /// As after a crash of the driver: its tables are gone, the unit still uses them.
    pub fn lose_tables(&self) {
        for address in (TABLES.start.0..TABLES.end.0).step_by(8) {
            self.store(address, 0);
        }
    }
}
