//! A unit's state as a tree for people and tools.

use serde::Serialize;
use vm_iommu_dma::unit::{CacheCounters, InspectedFault, InspectedRegister};
use vm_iommu_dma::{DrainCounters, IotlbCounters, WalkCacheCounters};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::registers::{RingBase, Status, offset};
use vm_iommu_spec::amd::{EventEntry, FaultReason};
use vm_iommu_spec::{DomainId, Pasid, PhysAddr, RequesterId};

use crate::control::Control;
use crate::device_table::{DteLookup, Owner};
use crate::explain::WalkStep;
use crate::ring::{EVENT_LOG, GA_LOG, Log, PPR_LOG};
use crate::unit::AmdVi;

/// The most devices that an inspection lists.
const DEVICES: usize = 1024;
/// The most events that an inspection lists.
const EVENTS: u32 = 64;

/// A unit's state.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// Every register that is not 0, in the order of the offsets.
    pub registers: Vec<InspectedRegister>,
    /// Whether the unit is enabled.
    pub enabled: bool,
    /// The status register, decoded.
    pub status: Vec<&'static str>,
    /// The segments of the device table that are in use, and their numbers of entries.
    pub device_tables: Vec<(PhysAddr, u32)>,
    /// The command buffer.
    pub commands: InspectedRing,
    /// The event log.
    pub event_log: InspectedRing,
    /// The PPR log, if the unit has one.
    pub ppr_log: Option<InspectedRing>,
    /// The GA log, if the unit has one.
    pub ga_log: Option<InspectedRing>,
    /// The events that the log holds and software has not taken, oldest first; at most 64.
    pub events: Vec<String>,
    /// The devices that the device table names, in their order; at most 1024.
    pub devices: Vec<InspectedDevice>,
    /// Whether there are more.
    pub more_devices: bool,
    /// The devices and PASIDs whose device table and guest CR3 table entries are cached.
    pub cached: Vec<(u16, Option<Pasid>)>,
    /// The device table cache.
    pub device_cache: CacheCounters,
    /// The cache of what device table entries say about interrupts.
    pub source_cache: CacheCounters,
    /// Waits for accesses in flight, those of other units with the same epochs included.
    pub drains: DrainCounters,
    /// The IOTLB.
    pub iotlb: IotlbCounters,
    /// The paging-structure cache.
    pub walk_cache: WalkCacheCounters,
    /// The interrupt remapping table cache.
    pub interrupt_cache: CacheCounters,
    /// How many requests were refused since the unit was made, logged or not.
    pub refused: u64,
    /// The last refused requests, oldest first.
    pub last_faults: Vec<InspectedFault<WalkStep>>,
}

/// The command buffer or a log.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedRing {
    /// Whether it runs.
    pub running: bool,
    /// Where it is.
    pub address: PhysAddr,
    /// The number of its entries; `None` if the length is reserved.
    pub entries: Option<u32>,
    /// The offset of its head in bytes.
    pub head: u64,
    /// The offset of its tail in bytes.
    pub tail: u64,
}

/// A device that the device table names.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedDevice {
    /// Who.
    pub requester: RequesterId,
    /// The entry.
    pub step: WalkStep,
    /// What it says about memory requests.
    pub entry: InspectedEntry,
    /// Its interrupt remapping table and the number of entries, if it has one.
    pub interrupts: Option<(PhysAddr, u32)>,
}

/// A device table entry, decoded.
#[derive(Clone, Debug, Serialize)]
pub enum InspectedEntry {
    /// V is clear: requests pass untranslated.
    Forward,
    /// A valid one.
    Valid {
        /// The domain.
        domain: DomainId,
        /// TV.
        translation_valid: bool,
        /// The number of levels of host tables, 0 without.
        host_levels: u8,
        /// The topmost host table.
        host_tables: Option<PhysAddr>,
        /// The guest CR3 table and its number of levels.
        guest_cr3: Option<(PhysAddr, u8)>,
        /// The number of levels of guest tables.
        guest_levels: Option<u8>,
        /// IR.
        read: bool,
        /// IW.
        write: bool,
    },
    /// One that refuses every request.
    Invalid {
        /// Why.
        reason: FaultReason,
    },
}

impl AmdVi {
    /// The state of the unit. Reads tables and logs in guest memory; changes nothing.
    pub fn inspect(&self) -> Inspection {
        let snapshot = self.snapshot();
        let (devices, more_devices) = self.listed_devices();
        let (refused, last_faults) = self.faults.inspect();
        let mut cached: Vec<_> = self
            .devices
            .owners()
            .into_iter()
            .filter_map(|owner| match owner {
                Owner::Device(device, pasid) => Some((device, pasid)),
                Owner::Bypass => None,
            })
            .collect();
        cached.sort_unstable();
        let control = self.control();
        let file = &control.file;
        let registers = file.inspect();
        let segments = 1_usize << snapshot.control.device_table_segments().min(3);
        let status = control.status();
        Inspection {
            registers,
            enabled: snapshot.control.enable(),
            status: status.iter_names().map(|(name, _)| name).collect(),
            device_tables: snapshot.device_tables[..segments]
                .iter()
                .map(|table| (table.address(), table.entries()))
                .collect(),
            commands: ring(
                &control,
                [
                    offset::COMMAND_BUFFER,
                    offset::COMMAND_HEAD,
                    offset::COMMAND_TAIL,
                ],
                status.contains(Status::COMMAND_RUN),
            ),
            event_log: log_ring(&control, &EVENT_LOG),
            ppr_log: self.config.ppr.then(|| log_ring(&control, &PPR_LOG)),
            ga_log: self
                .config
                .guest_apic_mode
                .then(|| log_ring(&control, &GA_LOG)),
            events: events(&control, &self.ram),
            devices,
            more_devices,
            cached,
            device_cache: self.devices.counters(),
            source_cache: self.sources.counters(),
            drains: self.epochs.counters(),
            iotlb: self.iotlb.counters(),
            walk_cache: self.walk_cache.counters(),
            interrupt_cache: self.irtes.counters(),
            refused,
            last_faults,
        }
    }

    /// The devices whose entries are not all zeroes, and whether there are more.
    fn listed_devices(&self) -> (Vec<InspectedDevice>, bool) {
        let snapshot = self.snapshot();
        let rules = self.dte_rules(&snapshot);
        let mut found = Vec::new();
        if !snapshot.control.enable() {
            return (found, false);
        }
        for device in 0..=u16::MAX {
            let lookup = DteLookup::new(&self.ram, &self.config, &snapshot, device);
            let (Some(place), Ok(entry)) = (lookup.place, lookup.entry) else {
                continue;
            };
            if entry.words() == [0; 4] {
                continue;
            }
            if found.len() == DEVICES {
                return (found, true);
            }
            let source = entry.check_interrupts(&rules).ok().flatten();
            found.push(InspectedDevice {
                requester: RequesterId::from_source_id(self.config.segment, device),
                step: WalkStep::of_device(place, entry),
                entry: match entry.check_dma(&rules) {
                    Ok(None) => InspectedEntry::Forward,
                    Err(reason) => InspectedEntry::Invalid { reason },
                    Ok(Some(device)) => InspectedEntry::Valid {
                        domain: device.domain,
                        translation_valid: device.translation_valid,
                        host_levels: device.host.map_or(0, |host| host.levels),
                        host_tables: device.host.map(|host| host.root),
                        guest_cr3: device
                            .guest
                            .map(|guest| (guest.cr3_table, guest.cr3_levels)),
                        guest_levels: device.guest.map(|guest| guest.levels),
                        read: device.read,
                        write: device.write,
                    },
                },
                interrupts: source.map(|source| (source.table, source.entries)),
            });
        }
        (found, false)
    }
}

fn ring(control: &Control, [base, head, tail]: [u16; 3], running: bool) -> InspectedRing {
    let base = RingBase::from_bits(control.file.get(base));
    InspectedRing {
        running,
        address: base.address(),
        entries: base.entries(),
        head: control.file.get(head),
        tail: control.file.get(tail),
    }
}

fn log_ring(control: &Control, log: &Log) -> InspectedRing {
    let running = control.status().contains(log.run);
    ring(control, [log.base, log.head, log.tail], running)
}

/// The events that software has not taken.
fn events(control: &Control, ram: &impl TableMemory) -> Vec<String> {
    let base = RingBase::from_bits(control.file.get(offset::EVENT_LOG));
    let Some(entries) = base.entries() else {
        return Vec::new();
    };
    let bytes = u64::from(entries) * EventEntry::SIZE;
    let head = control.file.get(offset::EVENT_HEAD);
    let entry = |index: u32| {
        let offset = (head + u64::from(index) * EventEntry::SIZE) % bytes;
        let place = base.address().checked_add(offset)?;
        let low = ram.load(place).ok()?;
        let high = ram.load(place.checked_add(8)?).ok()?;
        Some(EventEntry::from_words(low, high).to_string())
    };
    let count = control.entries(&EVENT_LOG).min(EVENTS);
    (0..count).filter_map(entry).collect()
}
