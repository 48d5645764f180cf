//! The unit's answers against those of the model.

use vm_iommu_dma::{DmaHandle, GuestRam, InterruptRemapper};
use vm_iommu_oracle as oracle;
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::{
    Access, DestinationMode, Fault, FaultReason, Iova, MSI_WINDOW, MsiMessage, PhysAddr,
    RequesterId, TriggerMode,
};
use vm_iommu_vtd::{AddressWidths, Vtd, VtdConfig};

use super::RAM;

const GCMD: u64 = 0x18;
const RTADDR: u64 = 0x20;
const IRTA: u64 = 0xb8;

/// What the registers say, by the writes that the guest made.
pub(super) struct Model {
    capabilities: oracle::VtdCapabilities,
    registers: oracle::VtdRegisters,
    interrupt_remapping: bool,
    /// Without caches every answer follows from memory and registers alone.
    comparable: bool,
}

impl Model {
    pub(super) fn new(config: &VtdConfig) -> Self {
        let widths = [
            AddressWidths::BITS_39,
            AddressWidths::BITS_48,
            AddressWidths::BITS_57,
        ];
        Self {
            capabilities: oracle::VtdCapabilities {
                host_address_width: u32::from(config.host_address_width),
                maximum_address_width: config.address_widths.widest().map_or(0, u32::from),
                levels: widths.map(|width| config.address_widths.contains(width)),
                pages_2m: config.two_mib_pages,
                pages_1g: config.one_gib_pages,
                pass_through: config.pass_through,
                device_tlb: config.device_tlb,
                snoop_control: config.snoop_control,
            },
            registers: oracle::VtdRegisters::default(),
            interrupt_remapping: config.interrupt_remapping,
            comparable: config.context_cache == 0,
        }
    }

    /// The guest's write to the unit.
    pub(super) fn write(&mut self, unit: &Vtd, offset: u64, bytes: &[u8]) {
        unit.mmio_write(offset, bytes);
        let (GCMD, Ok(bytes)) = (offset, <[u8; 4]>::try_from(bytes)) else {
            return;
        };
        let set = |bit: u32| u32::from_le_bytes(bytes) >> bit & 1 != 0;
        self.registers.translation_enabled = set(31);
        if set(30) {
            self.registers.root_table = read(unit, RTADDR);
        }
        if self.interrupt_remapping {
            self.registers.remapping_enabled = set(25);
            self.registers.compatibility_enabled = set(23);
            if set(24) {
                self.registers.interrupt_table = read(unit, IRTA);
            }
        }
    }

    /// Asks both about one byte at `address`.
    pub(super) fn compare_request(
        &self,
        handle: &DmaHandle,
        ram: &GuestRam,
        requester: RequesterId,
        address: Iova,
        write: bool,
    ) {
        if !self.comparable || MSI_WINDOW.contains(&address) {
            return;
        }
        let access = if write { Access::WRITE } else { Access::READ };
        let ours = handle.check(address, 1, access);
        let model = oracle::vtd_request(
            &self.capabilities,
            &self.registers,
            &mut Memory(ram),
            requester.source_id(),
            address.0,
            oracle::Access {
                read: !write,
                write,
                ..oracle::Access::default()
            },
        );
        match model {
            Ok(output) if output < RAM => assert_eq!(ours, Ok(()), "{address} is at {output:#x}"),
            Ok(_) => assert_eq!(
                ours.map_err(|fault| fault.reason),
                Err(FaultReason::NotMemory)
            ),
            Err(code) => assert_eq!(code_of(ours), code, "{address}"),
        }
    }

    /// Asks both about an interrupt.
    pub(super) fn compare_interrupt(
        &self,
        unit: &Vtd,
        ram: &GuestRam,
        requester: RequesterId,
        message: MsiMessage,
    ) {
        if !self.comparable {
            return;
        }
        let ours = unit.resolve(requester, message);
        let model = oracle::vtd_interrupt(
            &self.registers,
            &mut Memory(ram),
            requester.source_id(),
            message.address as u32,
            message.data,
        );
        match model {
            Err(code) => assert_eq!(code_of(ours), code, "{message:x?}"),
            Ok(expected) => {
                let ours = ours.map(|interrupt| oracle::VtdInterrupt {
                    destination: interrupt.destination,
                    logical: interrupt.destination_mode == DestinationMode::Logical,
                    redirection_hint: interrupt.redirection_hint,
                    delivery_mode: interrupt.delivery_mode as u8,
                    vector: interrupt.vector,
                    level: interrupt.trigger_mode == TriggerMode::Level,
                });
                assert_eq!(ours, Ok(expected), "{message:x?}");
            }
        }
    }
}

/// The code of the fault reason that a unit records; 0 if there is none.
fn code_of<T>(answer: Result<T, Fault>) -> u8 {
    match answer.map_err(|fault| fault.reason) {
        Err(FaultReason::Vtd(reason)) => reason.code(),
        _ => 0,
    }
}

fn read(unit: &Vtd, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    unit.mmio_read(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

struct Memory<'a>(&'a GuestRam);

impl oracle::Memory for Memory<'_> {
    fn read(&mut self, address: u64) -> Option<u64> {
        self.0.load(PhysAddr(address)).ok()
    }

    fn set(&mut self, _address: u64, _mask: u64) -> Option<()> {
        // Legacy mode sets no flags.
        None
    }
}
