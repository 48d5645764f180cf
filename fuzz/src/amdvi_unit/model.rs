//! The unit's answers against those of the model.

use std::collections::HashMap;

use vm_iommu_amdvi::{AmdVi, AmdViConfig};
use vm_iommu_dma::{DmaHandle, GuestRam, InterruptRemapper};
use vm_iommu_oracle as oracle;
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::{
    Access, DestinationMode, Fault, FaultReason, Iova, MSI_WINDOW, MsiMessage, Pasid, PhysAddr,
    RequesterId, TriggerMode,
};

use super::{CONTROL, RAM};

const EXCLUSION_BASE: u64 = 0x20;
const EXCLUSION_LIMIT: u64 = 0x28;
const SMI_FILTERS: u64 = 0x60;
const SEGMENTS: u64 = 0x100;
const EVENT_LOG: u64 = 0x10;
const EVENT_HEAD: u64 = 0x2010;
const EVENT_TAIL: u64 = 0x2018;
const STATUS: u64 = 0x2020;
const INVALID_DEVICE_REQUEST: u8 = 8;
const EVENT_LOG_RUN: u64 = 1 << 3;

/// What the unit can do, for the model.
pub(super) struct Model {
    capabilities: oracle::AmdViCapabilities,
    /// Without caches every answer follows from memory and registers alone.
    comparable: bool,
}

impl Model {
    pub(super) fn new(config: &AmdViConfig) -> Self {
        Self {
            capabilities: oracle::AmdViCapabilities {
                physical_address_width: config.physical_address_width.into(),
                host_levels: config.host_levels.map_or(0, u32::from),
                guest_translation: config.guest_translation,
                guest_levels: config.guest_levels.into(),
                guest_cr3_levels: config.guest_cr3_levels.into(),
                guest_io: config.guest_io,
                host_accessed: config.host_accessed,
                host_dirty: config.host_dirty,
                enhanced_page_requests: config.enhanced_ppr,
                smi_filters: config.smi_filters.into(),
                ht_range_ignore: config.ht_range_ignore,
                long_interrupt_tables: config.interrupt_table_2048,
                device_table_segments: config.device_table_segments.into(),
                pasid_width: config.pasid_bits.into(),
                no_execute: config.no_execute,
            },
            comparable: config.device_cache == 0,
        }
    }

    /// Asks both about one byte at `address`.
    #[expect(clippy::too_many_arguments)]
    pub(super) fn compare_request(
        &self,
        unit: &AmdVi,
        handle: &DmaHandle,
        ram: &GuestRam,
        requester: RequesterId,
        pasid: Option<Pasid>,
        address: Iova,
        write: bool,
    ) {
        if !self.comparable {
            return;
        }
        let registers = registers(unit);
        if pasid.is_some() && registers.control & 1 == 0 {
            return;
        }
        let access = if write { Access::WRITE } else { Access::READ };
        // First, since a walk sets flags.
        let model = oracle::amd_vi_request(
            &self.capabilities,
            &registers,
            &mut Memory::new(ram),
            requester.source_id(),
            pasid.map(Pasid::raw),
            address.0,
            oracle::Access {
                read: !write,
                write,
                ..oracle::Access::default()
            },
        );
        // What no unit has a say in is refused there all the same.
        let unruled = !matches!(&model, Err(refusal) if refusal.code == INVALID_DEVICE_REQUEST);
        if MSI_WINDOW.contains(&address) && unruled {
            return;
        }
        let ours = handle.check(address, 1, access);
        match model {
            Ok(output) if output < RAM => assert_eq!(ours, Ok(()), "{address} is at {output:#x}"),
            Ok(_) => assert_eq!(
                ours.map_err(|fault| fault.reason),
                Err(FaultReason::NotMemory)
            ),
            Err(refusal) => {
                assert_eq!(flags_of(ours), Some(flags(&refusal)), "{address}");
                let (source, pasid) = (requester.source_id(), pasid.map(Pasid::raw));
                let event = refusal.event_of_request(source, pasid, address.0, write);
                let log = EventLog::of(unit);
                let again = if write {
                    handle.write(address, &[0])
                } else {
                    handle.read(address, &mut [0])
                };
                assert!(again.is_err());
                log.expect(unit, ram, event, refusal.logging);
            }
        }
    }

    /// Asks both about an interrupt.
    pub(super) fn compare_interrupt(
        &self,
        unit: &AmdVi,
        ram: &GuestRam,
        requester: RequesterId,
        message: MsiMessage,
    ) {
        if !self.comparable {
            return;
        }
        let registers = registers(unit);
        let model = oracle::amd_vi_interrupt(
            &self.capabilities,
            &registers,
            &mut Memory::new(ram),
            requester.source_id(),
            message.address as u32,
            message.data,
        );
        let ours = unit.resolve(requester, message);
        match model {
            Err(refusal) => {
                assert_eq!(flags_of(ours), Some(flags(&refusal)), "{message:x?}");
                let event = refusal.event_of_interrupt(requester.source_id(), message.address);
                let log = EventLog::of(unit);
                assert!(unit.remap(requester, message).is_err());
                log.expect(unit, ram, event, refusal.logging);
            }
            Ok(oracle::AmdViDelivery::Guest) => assert_eq!(
                ours.map_err(|fault| fault.reason),
                Err(FaultReason::DeliveredToGuest)
            ),
            Ok(oracle::AmdViDelivery::Processors(expected)) => {
                let ours = ours.map(|interrupt| oracle::AmdViInterrupt {
                    destination: interrupt.destination,
                    logical: interrupt.destination_mode == DestinationMode::Logical,
                    delivery_mode: interrupt.delivery_mode as u8,
                    vector: interrupt.vector,
                    level: interrupt.trigger_mode == TriggerMode::Level,
                });
                assert_eq!(ours, Ok(expected), "{message:x?}");
            }
        }
    }
}

/// Code, RZ, PR and PE of the event.
type Flags = (u8, bool, bool, bool);

fn flags(refusal: &oracle::AmdViRefusal) -> Flags {
    (
        refusal.code,
        refusal.reserved_bit,
        refusal.present,
        refusal.permission,
    )
}

/// The same of a unit's answer; `None` if it logs nothing.
fn flags_of<T>(answer: Result<T, Fault>) -> Option<Flags> {
    match answer.map_err(|fault| fault.reason) {
        Err(FaultReason::Amd(reason)) => Some((
            reason.code() as u8,
            reason.is_reserved_bit(),
            reason.is_present(),
            reason.is_permission(),
        )),
        _ => None,
    }
}

/// The event log before something that may be logged.
struct EventLog {
    tail: u64,
    /// Where the next event goes, if the log runs and has room.
    next: Option<u64>,
}

impl EventLog {
    fn of(unit: &AmdVi) -> Self {
        let (base, head, tail) = (
            read(unit, EVENT_LOG),
            read(unit, EVENT_HEAD),
            read(unit, EVENT_TAIL),
        );
        let bytes = match base >> 56 & 0xf {
            length @ 8.. => 16 << length,
            _ => 0,
        };
        let runs = read(unit, STATUS) & EVENT_LOG_RUN != 0;
        let room = tail < bytes && (tail + 16) % bytes != head;
        let place = (base & 0xf_ffff_ffff_f000) + tail;
        Self {
            tail,
            next: (runs && room && place + 16 <= RAM).then_some(place),
        }
    }

    /// Checks that `event` was logged meanwhile, and nothing else.
    fn expect(&self, unit: &AmdVi, ram: &GuestRam, event: [u64; 2], logging: oracle::AmdViLogging) {
        let logged = read(unit, EVENT_TAIL) != self.tail;
        match (self.next, logging) {
            (None, _) | (_, oracle::AmdViLogging::None) => assert!(!logged, "{event:x?}"),
            (Some(_), oracle::AmdViLogging::First) if !logged => {}
            (Some(next), _) => {
                let found = [next, next + 8].map(|place| ram.load(PhysAddr(place)).ok());
                assert_eq!((found, logged), (event.map(Some), true), "{event:x?}");
            }
        }
    }
}

/// The registers as they stand.
fn registers(unit: &AmdVi) -> oracle::AmdViRegisters {
    let mut device_tables = [0; 8];
    device_tables[0] = read(unit, 0);
    for (table, place) in device_tables[1..].iter_mut().zip((SEGMENTS..).step_by(8)) {
        *table = read(unit, place);
    }
    let smi_filters = std::array::from_fn(|index| read(unit, SMI_FILTERS + index as u64 * 8));
    oracle::AmdViRegisters {
        control: read(unit, CONTROL),
        device_tables,
        exclusion_base: read(unit, EXCLUSION_BASE),
        exclusion_limit: read(unit, EXCLUSION_LIMIT),
        smi_filters,
    }
}

fn read(unit: &AmdVi, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    unit.mmio_read(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// Guest memory; the flags that the model sets are its own affair.
struct Memory<'a> {
    ram: &'a GuestRam,
    flagged: HashMap<u64, u64>,
}

impl<'a> Memory<'a> {
    fn new(ram: &'a GuestRam) -> Self {
        Self {
            ram,
            flagged: HashMap::new(),
        }
    }
}

impl oracle::Memory for Memory<'_> {
    fn read(&mut self, address: u64) -> Option<u64> {
        let word = self.ram.load(PhysAddr(address)).ok()?;
        Some(word | self.flagged.get(&address).copied().unwrap_or(0))
    }

    fn set(&mut self, address: u64, mask: u64) -> Option<()> {
        self.read(address)?;
        *self.flagged.entry(address).or_default() |= mask;
        Some(())
    }
}
