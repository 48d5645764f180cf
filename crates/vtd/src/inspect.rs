//! A unit's state as a tree for people and tools.

use serde::Serialize;
use vm_iommu_dma::unit::{CacheCounters, InspectedFault, InspectedRegister};
use vm_iommu_dma::{DrainCounters, IotlbCounters, WalkCacheCounters};
use vm_iommu_spec::vtd::registers::{
    FaultStatus, GlobalBits, QueueErrorRecord, QueuePointer, offset,
};
use vm_iommu_spec::vtd::{FaultReason, FaultRecord};
use vm_iommu_spec::{DomainId, PhysAddr, RequesterId};

use crate::context::{ContextLookup, cached_sources};
use crate::explain::WalkStep;
use crate::unit::Vtd;

/// The most requesters that an inspection lists.
const REQUESTERS: usize = 1024;

/// A unit's state.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// Every register that is not 0, in the order of the offsets.
    pub registers: Vec<InspectedRegister>,
    /// GSTS_REG, decoded.
    pub status: Vec<&'static str>,
    /// The root table that is in use.
    pub root_table: PhysAddr,
    /// The interrupt remapping table that is in use, and its number of entries.
    pub interrupt_table: (PhysAddr, u32),
    /// The invalidation queue.
    pub queue: InspectedQueue,
    /// The requesters that the tables name, in their order; at most 1024.
    pub requesters: Vec<InspectedRequester>,
    /// Whether there are more.
    pub more_requesters: bool,
    /// The source ids in the context cache.
    pub cached_requesters: Vec<u16>,
    /// The context cache.
    pub context_cache: CacheCounters,
    /// Waits for accesses in flight, those of other units with the same epochs included.
    pub drains: DrainCounters,
    /// The IOTLB.
    pub iotlb: IotlbCounters,
    /// The paging-structure cache.
    pub walk_cache: WalkCacheCounters,
    /// The interrupt entry cache.
    pub interrupt_cache: CacheCounters,
    /// FSTS_REG.
    pub fault_status: u32,
    /// The fault recording registers that hold a fault.
    pub records: Vec<InspectedRecord>,
    /// How many requests were refused since the unit was made, recorded or not.
    pub refused: u64,
    /// The last refused requests, oldest first.
    pub last_faults: Vec<InspectedFault<WalkStep>>,
}

/// The invalidation queue.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedQueue {
    /// Whether it is enabled.
    pub enabled: bool,
    /// Where it is; as it was when it was enabled.
    pub address: PhysAddr,
    /// Its size in bytes.
    pub bytes: u32,
    /// The offset of its head in bytes.
    pub head: u32,
    /// The offset of its tail in bytes.
    pub tail: u32,
    /// Why it stopped, if it did.
    pub error: Option<String>,
}

/// A requester that the tables name.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedRequester {
    /// Who.
    pub requester: RequesterId,
    /// The entries.
    pub steps: Vec<WalkStep>,
    /// What they say.
    pub context: InspectedContext,
}

/// A context entry, decoded.
#[derive(Clone, Debug, Serialize)]
pub enum InspectedContext {
    /// A valid one.
    Valid {
        /// The domain.
        domain: DomainId,
        /// The translation type.
        translation: &'static str,
        /// The number of levels.
        levels: u8,
        /// The topmost table.
        tables: PhysAddr,
        /// FPD.
        fault_processing_disable: bool,
    },
    /// One that refuses every request.
    Invalid {
        /// Why.
        reason: FaultReason,
    },
}

/// A fault recording register that holds a fault.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedRecord {
    /// Its index.
    pub index: u16,
    /// The source id.
    pub source: u16,
    /// The reason; `None` if its encoding is unknown.
    pub reason: Option<FaultReason>,
    /// Whether it was a read.
    pub read: bool,
    /// The page, or for an interrupt request its index in bits 63:48.
    pub information: u64,
}

impl Vtd {
    /// The state of the unit. Reads tables in guest memory; changes nothing.
    pub fn inspect(&self) -> Inspection {
        let snapshot = self.snapshot();
        let (requesters, more_requesters) = self.requesters();
        let (refused, last_faults) = self.faults.inspect();
        let control = self.control();
        let file = &control.file;
        let registers = file.inspect();
        let fault_status = control.fault_status();
        let queue = InspectedQueue {
            enabled: control.queue.is_some(),
            address: control.queue.unwrap_or_default().address.address(),
            bytes: control.queue.unwrap_or_default().address.bytes(),
            head: QueuePointer::from_bits(file.get(offset::IQH)).offset(),
            tail: QueuePointer::from_bits(file.get(offset::IQT)).offset(),
            error: queue_error(fault_status, file.get(offset::IQERCD)),
        };
        let records = (0..control.records.1)
            .filter_map(|index| {
                let place = control.records.0 + index * 16;
                let record = FaultRecord::from_words(file.get(place), file.get(place + 8));
                record.fault().then(|| InspectedRecord {
                    index,
                    source: record.source(),
                    reason: record.fault_reason(),
                    read: record.read(),
                    information: record.page(),
                })
            })
            .collect();
        Inspection {
            registers,
            status: status_names(control.status()),
            root_table: snapshot.root.address(),
            interrupt_table: (snapshot.interrupts.address(), snapshot.interrupts.entries()),
            queue,
            requesters,
            more_requesters,
            cached_requesters: cached_sources(&self.contexts),
            context_cache: self.contexts.counters(),
            drains: self.epochs.counters(),
            iotlb: self.iotlb.counters(),
            walk_cache: self.walk_cache.counters(),
            interrupt_cache: self.irtes.counters(),
            fault_status: fault_status.into_bits(),
            records,
            refused,
            last_faults,
        }
    }

    /// The requesters whose context entries are present, and whether there are more.
    fn requesters(&self) -> (Vec<InspectedRequester>, bool) {
        let snapshot = self.snapshot();
        let mut found = Vec::new();
        if !snapshot.translates() {
            return (found, false);
        }
        let mut source = 0_u16;
        loop {
            let lookup = ContextLookup::new(&self.ram, snapshot.root, source, &self.table_rules);
            let present = lookup.entry.is_some_and(|(_, entry)| entry.present());
            if present && found.len() == REQUESTERS {
                return (found, true);
            }
            if present {
                found.push(InspectedRequester {
                    requester: RequesterId::from_source_id(self.config.segment, source),
                    steps: WalkStep::of_lookup(&lookup),
                    context: inspected(&lookup),
                });
            }
            // A bus without context table has no requesters.
            let last_of_bus = lookup.entry.is_none();
            let next = if last_of_bus { source | 0xff } else { source };
            source = match next.checked_add(1) {
                Some(source) => source,
                None => return (found, false),
            };
        }
    }
}

fn inspected(lookup: &ContextLookup) -> InspectedContext {
    use vm_iommu_spec::vtd::TranslationType;
    match lookup.outcome {
        Ok(context) => InspectedContext::Valid {
            domain: context.domain,
            translation: match context.translation_type {
                TranslationType::Untranslated => "translated",
                TranslationType::DeviceTlb => "translated, with device-TLB",
                TranslationType::PassThrough => "pass-through",
                TranslationType::Reserved => "reserved",
            },
            levels: context.levels,
            tables: context.tables,
            fault_processing_disable: context.fault_processing_disable,
        },
        Err(reason) => InspectedContext::Invalid { reason },
    }
}

fn queue_error(status: FaultStatus, record: u64) -> Option<String> {
    let record = QueueErrorRecord::from_bits(record);
    if status.queue_error() {
        Some(record.error().to_string())
    } else if status.timeout_error() {
        let source = record.timeout_source();
        Some(format!(
            "the device-TLB of source id {source:#06x} did not answer"
        ))
    } else {
        None
    }
}

fn status_names(status: GlobalBits) -> Vec<&'static str> {
    let names = [
        (GlobalBits::TRANSLATION, "translation enabled"),
        (GlobalBits::ROOT_TABLE_POINTER, "root table set"),
        (
            GlobalBits::QUEUED_INVALIDATION,
            "queued invalidation enabled",
        ),
        (
            GlobalBits::INTERRUPT_REMAPPING,
            "interrupt remapping enabled",
        ),
        (GlobalBits::INTERRUPT_TABLE_POINTER, "interrupt table set"),
        (
            GlobalBits::COMPATIBILITY_FORMAT,
            "compatibility format passes",
        ),
    ];
    names
        .into_iter()
        .filter(|(bit, _)| status.contains(*bit))
        .map(|(_, name)| name)
        .collect()
}
