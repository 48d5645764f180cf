//! Our unit, with RAM and a device that has QEMU's layout.

use std::sync::Arc;

use vm_iommu_dma::{DmaHandle, DmaPort, Epochs, GuestRam, Upstream};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::registers::{Capability, ExtendedCapability};
use vm_iommu_spec::{Iova, PhysAddr, RequesterId};
use vm_iommu_vtd::{AddressWidths, Progress, Vtd, VtdConfig};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::qtest::QtestError;
use crate::side::{SLOTS, SOURCE, Side, layout};

/// Our side.
pub struct Ours {
    ram: GuestRam,
    unit: Arc<Vtd>,
    handle: DmaHandle,
    slots: [u64; SLOTS],
}

impl Ours {
    /// A machine whose unit offers what these capability registers say. QEMU has no register for
    /// the width of physical addresses: it takes it to be the width of translated ones.
    ///
    /// # Errors
    /// Capabilities that describe no unit, or no room for RAM.
    pub fn new(capability: Capability, extended: ExtendedCapability) -> anyhow::Result<Self> {
        let config = config(capability, extended);
        let conventional = (GuestAddress(0), 0xa_0000);
        let extended = (GuestAddress(0x10_0000), (layout::RAM - 0x10_0000) as usize);
        let memory = GuestMemoryMmap::from_ranges(&[conventional, extended])?;
        let ram = GuestRam::new(memory);
        let epochs = Arc::new(Epochs::default());
        let unit = Vtd::new(config, ram.clone(), Arc::clone(&epochs), Arc::new(()))?;
        let mut upstream = Upstream::direct(ram.clone());
        upstream.epochs = epochs;
        upstream.remapper = Some(unit.clone());
        let port = DmaPort::new(upstream);
        port.set_requester(RequesterId::from_source_id(0, SOURCE));
        port.set_bus_master(true);
        Ok(Self {
            ram,
            unit,
            handle: port.handle(),
            slots: [0; SLOTS],
        })
    }
}

/// The configuration of a unit with these capabilities.
fn config(capability: Capability, extended: ExtendedCapability) -> VtdConfig {
    let width = capability.maximum_width() + 1;
    let large_pages = capability.second_stage_large_pages();
    VtdConfig {
        address_widths: AddressWidths::from_bits_truncate(capability.adjusted_widths()),
        maximum_address_width: Some(width),
        host_address_width: width,
        two_mib_pages: large_pages & 1 != 0,
        one_gib_pages: large_pages & 2 != 0,
        fault_records: capability.fault_record_count(),
        queued_invalidation: extended.queued_invalidation(),
        device_tlb: extended.device_tlb(),
        interrupt_remapping: false,
        extended_interrupt_mode: false,
        pass_through: extended.pass_through(),
        snoop_control: extended.snoop_control(),
        ..VtdConfig::default()
    }
}

/// Words outside RAM are never stored, and load as zeros.
impl Side for Ours {
    fn store(&mut self, address: u64, word: u64) -> Result<(), QtestError> {
        let _ = self.ram.store(PhysAddr(address), word);
        Ok(())
    }

    fn load(&mut self, address: u64) -> Result<u64, QtestError> {
        Ok(self.ram.load(PhysAddr(address)).unwrap_or(0))
    }

    fn load_all(&mut self, addresses: &[u64]) -> Result<Vec<u64>, QtestError> {
        addresses
            .iter()
            .map(|address| self.load(*address))
            .collect()
    }

    fn clear(&mut self, address: u64, length: u64) -> Result<(), QtestError> {
        (address..address + length)
            .step_by(8)
            .try_for_each(|address| self.store(address, 0))
    }

    fn read32(&mut self, register: u16) -> Result<u32, QtestError> {
        let mut bytes = [0; 4];
        self.unit.mmio_read(register.into(), &mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn read64(&mut self, register: u16) -> Result<u64, QtestError> {
        let mut bytes = [0; 8];
        self.unit.mmio_read(register.into(), &mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn read128(&mut self, register: u16) -> Result<[u64; 2], QtestError> {
        Ok([self.read64(register)?, self.read64(register + 8)?])
    }

    fn write32(&mut self, register: u16, value: u32) -> Result<(), QtestError> {
        self.unit.mmio_write(register.into(), &value.to_le_bytes());
        Ok(())
    }

    fn write64(&mut self, register: u16, value: u64) -> Result<(), QtestError> {
        self.unit.mmio_write(register.into(), &value.to_le_bytes());
        Ok(())
    }

    fn dma_read(&mut self, iova: u64, slot: u16) -> Result<(), QtestError> {
        let mut bytes = [0; 8];
        let word = match self.handle.read(Iova(iova), &mut bytes) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => 0,
        };
        if let Some(slot) = self.slots.get_mut(usize::from(slot)) {
            *slot = word;
        }
        Ok(())
    }

    fn dma_write(&mut self, iova: u64, slot: u16) -> Result<(), QtestError> {
        let word = self.slots.get(usize::from(slot)).copied().unwrap_or(0);
        // What went wrong is in the unit's fault record, if it is the unit's to record.
        let _ = self.handle.write(Iova(iova), &word.to_le_bytes());
        Ok(())
    }

    fn set_slots(&mut self, words: &[u64; SLOTS]) -> Result<(), QtestError> {
        self.slots = *words;
        Ok(())
    }

    fn slots(&mut self) -> Result<[u64; SLOTS], QtestError> {
        Ok(self.slots)
    }

    fn settle(&mut self) -> Result<(), QtestError> {
        // Each step does some of at most one page of descriptors.
        for _ in 0..1024 {
            if self.unit.step() != Progress::Pending {
                return Ok(());
            }
        }
        Err(QtestError::Stuck {
            what: "our unit's invalidation queue",
        })
    }
}
