//! A machine without a processor: memory, the unit, the fabric and edu, on which a program is
//! performed operation by operation.

use std::sync::{Arc, Mutex};

use vm_iommu_amdvi::{AmdVi, AmdViConfig};
use vm_iommu_devices::{Edu, EduConfig};
use vm_iommu_dma::{
    DmaRemapper, Epochs, GuestRam, InterruptRemapper, MsiSink, MsiVector, OutputSpace, Upstream,
};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_pci::{BusId, DevFn, Fabric, Windows};
use vm_iommu_spec::{MsiMessage, PhysAddr, RequesterId};
use vm_iommu_vtd::{Progress, Vtd, VtdConfig};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::config::IommuConfig;
use crate::demo::engine::{Operation, Placement, Width};
use crate::demo::story::{self, Story, StoryError};
use crate::layout;
use crate::machine::Unit;

pub struct Stage {
    pub ram: GuestRam,
    pub unit: Unit,
    config: IommuConfig,
    fabric: Arc<Fabric>,
}

/// Where the device's interrupts go: remapped ones are counted where the guest's handler does.
#[derive(Clone)]
struct Handler {
    unit: Arc<dyn InterruptRemapper>,
    ram: GuestRam,
}

impl MsiSink for Handler {
    fn signal(&self, requester: RequesterId, message: MsiMessage) {
        if let Ok(interrupt) = self.unit.remap(requester, message) {
            let counter = PhysAddr(Placement::new(story::PROGRAM).counter(interrupt.vector));
            let taken = self.ram.load(counter).unwrap();
            self.ram.store(counter, taken + 1).unwrap();
        }
    }

    fn vector(&self) -> Box<dyn MsiVector> {
        Box::new(Vector(self.clone(), Mutex::default()))
    }
}

struct Vector(Handler, Mutex<Option<(RequesterId, MsiMessage)>>);

impl MsiVector for Vector {
    fn configure(&self, message: Option<(RequesterId, MsiMessage)>) {
        *self.1.lock().unwrap() = message;
    }

    fn signal(&self) {
        let message = *self.1.lock().unwrap();
        if let Some((requester, message)) = message {
            self.0.signal(requester, message);
        }
    }
}

impl Stage {
    /// A stage with a VT-d unit.
    pub fn new(config: VtdConfig, with_edu: bool) -> Self {
        Self::with_unit("vtd", with_edu, |ram, epochs| {
            let unit = Vtd::new(config, ram, epochs, Arc::new(())).unwrap();
            (
                Arc::clone(&unit) as _,
                Arc::clone(&unit) as _,
                Unit::Vtd(unit),
            )
        })
    }

    /// A stage with an AMD-Vi unit.
    pub fn amdvi(config: AmdViConfig) -> Self {
        Self::with_unit("amdvi", true, |ram, epochs| {
            let unit = AmdVi::new(config, ram, epochs, Arc::new(())).unwrap();
            (
                Arc::clone(&unit) as _,
                Arc::clone(&unit) as _,
                Unit::AmdVi(unit),
            )
        })
    }

    fn with_unit(
        kind: &str,
        with_edu: bool,
        make: impl FnOnce(
            GuestRam,
            Arc<Epochs>,
        ) -> (Arc<dyn DmaRemapper>, Arc<dyn InterruptRemapper>, Unit),
    ) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), story::MEMORY as usize)]);
        let ram = GuestRam::new(memory.unwrap());
        let epochs = Arc::new(Epochs::default());
        let (remapper, interrupts, unit) = make(ram.clone(), Arc::clone(&epochs));
        let handler = Handler {
            unit: interrupts,
            ram: ram.clone(),
        };
        let upstream = Upstream {
            output: Arc::new(ram.clone()) as Arc<dyn OutputSpace>,
            remapper: Some(remapper),
            epochs,
            msi: Arc::new(handler),
        };
        let windows = Windows {
            memory32: layout::PCI_WINDOW_32,
            memory64: layout::PCI_WINDOW_64,
            io: layout::PCI_WINDOW_PIO,
        };
        let fabric = Fabric::new(0, windows, upstream.clone()).unwrap();
        if with_edu {
            let dma_mask = u64::MAX;
            let edu = Edu::new(EduConfig { dma_mask }, upstream).unwrap();
            fabric
                .add(BusId::ROOT, DevFn::from_raw(3 << 3), Arc::new(edu))
                .unwrap();
        }
        Self {
            ram,
            unit,
            config: kind.parse().unwrap(),
            fabric,
        }
    }

    pub fn story(&self) -> Result<Story, StoryError> {
        Story::new(&self.config, &|address, width| self.read(address, width))
    }

    /// Performs a program up to the operation that fails: its index and what it found.
    pub fn perform(&self, program: &[Operation]) -> Result<(), (usize, u64)> {
        program
            .iter()
            .enumerate()
            .try_for_each(|(index, operation)| self.step(operation).map_err(|found| (index, found)))
    }

    pub fn read(&self, address: u64, width: Width) -> u64 {
        let mut data = [0; 8];
        let bytes = &mut data[..width as usize];
        if let Some(offset) = self.register(address) {
            match &self.unit {
                Unit::Vtd(unit) => unit.mmio_read(offset, bytes),
                Unit::AmdVi(unit) => unit.mmio_read(offset, bytes),
            }
        } else if layout::ECAM.contains(&address) {
            self.fabric.ecam_read(address - layout::ECAM.start(), bytes);
        } else if layout::PCI_WINDOW_32.contains(&address) {
            assert!(self.fabric.mmio_read(PhysAddr(address), bytes));
        } else {
            self.ram
                .memory()
                .read_slice(bytes, GuestAddress(address))
                .unwrap();
        }
        u64::from_le_bytes(data)
    }

    /// The offset of a register of the unit's.
    fn register(&self, address: u64) -> Option<u64> {
        let (start, size) = match &self.unit {
            Unit::Vtd(_) => (layout::VTD, 0x1000),
            Unit::AmdVi(_) => (layout::AMDVI, 0x4000),
        };
        address.checked_sub(start).filter(|offset| *offset < size)
    }

    fn write(&self, address: u64, width: Width, value: u64) {
        let data = value.to_le_bytes();
        let bytes = &data[..width as usize];
        if let Some(offset) = self.register(address) {
            match &self.unit {
                Unit::Vtd(unit) => unit.mmio_write(offset, bytes),
                Unit::AmdVi(unit) => unit.mmio_write(offset, bytes),
            }
        } else if layout::ECAM.contains(&address) {
            self.fabric
                .ecam_write(address - layout::ECAM.start(), bytes);
        } else if layout::PCI_WINDOW_32.contains(&address) {
            assert!(self.fabric.mmio_write(PhysAddr(address), bytes));
        } else if (layout::LAPIC..layout::LAPIC + 0x1000).contains(&address) {
            // There is no processor whose APIC it could be.
        } else {
            self.ram
                .memory()
                .write_slice(bytes, GuestAddress(address))
                .unwrap();
        }
    }

    /// What the unit's worker does in a machine.
    fn work(&self) {
        let step = || match &self.unit {
            Unit::Vtd(unit) => unit.step(),
            Unit::AmdVi(unit) => unit.step(),
        };
        while step() == Progress::Pending {}
    }

    fn step(&self, operation: &Operation) -> Result<(), u64> {
        match *operation {
            Operation::Store {
                width,
                address,
                value,
            } => self.write(address, width, value),
            Operation::Wait {
                width,
                address,
                mask,
                value,
                ..
            } => {
                // Once the unit has worked off its queue, everything has happened: one look does.
                self.work();
                let found = self.read(address, width);
                if found & mask != value {
                    return Err(found);
                }
            }
            Operation::Compare {
                address,
                with,
                words,
            } => {
                for offset in (0..words * 8).step_by(8) {
                    let found = self.read(address + offset, Width::Quad);
                    if found != self.read(with + offset, Width::Quad) {
                        return Err(found);
                    }
                }
            }
            Operation::Sleep { counter, times } => {
                let taken = self.read(counter, Width::Quad);
                if taken < times {
                    return Err(taken);
                }
            }
            Operation::Finish => {}
        }
        Ok(())
    }
}
