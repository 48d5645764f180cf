//! A unit, its guest's memory and one function, for tests.

use std::sync::{Arc, Mutex};

use vm_iommu_dma::{DmaPort, Epochs, GuestRam, Upstream};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::registers::{
    Granularity, InvalidateAddress, QueueAddress, RootTableAddress, offset,
};
use vm_iommu_spec::vtd::{
    ContextEntry, FaultRecord, RootEntry, SecondStageEntry, TranslationType, descriptor::raw,
};
use vm_iommu_spec::{Fault, FaultReason, Interrupt, Iova, PhysAddr, RequesterId};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::{Progress, UnitInterrupts, Vtd, VtdConfig};

/// Bytes of RAM, from 0.
pub(super) const RAM: u64 = 16 << 20;
pub(super) const ROOT: u64 = 0x1000;
pub(super) const CONTEXTS: u64 = 0x2000;
pub(super) const QUEUE: u64 = 0x3000;
pub(super) const STATUS: u64 = 0x4000;
pub(super) const IRT: u64 = 0x1_0000;
/// Second-stage tables are taken from here on.
pub(super) const TABLES: u64 = 0x10_0000;
/// The function's source id: 0000:00:03.0.
pub(super) const SOURCE: u16 = 0x18;
pub(super) const DOMAIN: u16 = 7;

pub(super) const TE: u32 = 1 << 31;
pub(super) const SRTP: u32 = 1 << 30;
pub(super) const QIE: u32 = 1 << 26;
pub(super) const IRE: u32 = 1 << 25;
pub(super) const SIRTP: u32 = 1 << 24;
pub(super) const CFI: u32 = 1 << 23;

#[derive(Default)]
pub(super) struct Events(pub(super) Mutex<Vec<Interrupt>>);

impl UnitInterrupts for Events {
    fn deliver(&self, interrupt: Interrupt) {
        self.0.lock().unwrap().push(interrupt);
    }
}

pub(super) struct Machine {
    pub(super) ram: GuestRam,
    pub(super) unit: Arc<Vtd>,
    pub(super) events: Arc<Events>,
    pub(super) port: Arc<DmaPort>,
    /// Enables that GCMD writes repeat.
    pub(super) enabled: Mutex<u32>,
    next_table: Mutex<u64>,
}

impl Machine {
    pub(super) fn new(config: VtdConfig) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).unwrap();
        let ram = GuestRam::new(memory);
        let epochs = Arc::new(Epochs::default());
        let events = Arc::new(Events::default());
        let unit = Vtd::new(config, ram.clone(), epochs.clone(), events.clone()).unwrap();
        let mut upstream = Upstream::direct(ram.clone());
        upstream.epochs = epochs.clone();
        upstream.remapper = Some(unit.clone());
        let port = DmaPort::new(upstream);
        port.set_requester(requester());
        port.set_bus_master(true);
        Self {
            ram,

            unit,
            events,
            port,
            enabled: Mutex::new(0),
            next_table: Mutex::new(TABLES),
        }
    }

    /// A machine with translation enabled, [`DOMAIN`] for [`SOURCE`] with empty tables of
    /// `levels`, and the queue running.
    pub(super) fn translating(config: VtdConfig, levels: u8) -> Self {
        let machine = Self::new(config);
        let tables = machine.table();
        machine.set_root(
            0,
            RootEntry::new()
                .with_present(true)
                .with_context_table(PhysAddr(CONTEXTS)),
        );
        machine.set_context(SOURCE, context(levels, tables));
        machine.write64(
            offset::RTADDR,
            RootTableAddress::new()
                .with_address(PhysAddr(ROOT))
                .into_bits(),
        );
        machine.command(SRTP);
        machine.enable(TE);
        if config.queued_invalidation {
            machine.start_queue(0);
        }
        machine
    }

    pub(super) fn read32(&self, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        self.unit.mmio_read(u64::from(offset), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(super) fn read64(&self, offset: u16) -> u64 {
        let mut bytes = [0; 8];
        self.unit.mmio_read(u64::from(offset), &mut bytes);
        u64::from_le_bytes(bytes)
    }

    pub(super) fn write32(&self, offset: u16, value: u32) {
        self.unit
            .mmio_write(u64::from(offset), &value.to_le_bytes());
    }

    pub(super) fn write64(&self, offset: u16, value: u64) {
        self.unit
            .mmio_write(u64::from(offset), &value.to_le_bytes());
    }

    /// One-shot commands.
    pub(super) fn command(&self, bits: u32) {
        self.write32(offset::GCMD, *self.enabled.lock().unwrap() | bits);
    }

    pub(super) fn enable(&self, bits: u32) {
        *self.enabled.lock().unwrap() |= bits;
        self.command(0);
    }

    pub(super) fn disable(&self, bits: u32) {
        *self.enabled.lock().unwrap() &= !bits;
        self.command(0);
    }

    pub(super) fn set_root(&self, bus: u8, entry: RootEntry) {
        self.store128(ROOT + u64::from(bus) * 16, entry.words());
    }

    pub(super) fn set_context(&self, source: u16, entry: ContextEntry) {
        self.store128(CONTEXTS + u64::from(source & 0xff) * 16, entry.words());
    }

    pub(super) fn store128(&self, place: u64, [low, high]: [u64; 2]) {
        self.ram.store(PhysAddr(place), low).unwrap();
        self.ram.store(PhysAddr(place + 8), high).unwrap();
    }

    /// A zeroed page for a table.
    pub(super) fn table(&self) -> u64 {
        let mut next = self.next_table.lock().unwrap();
        let table = *next;
        *next += 0x1000;
        table
    }

    /// Maps a page of 2^`shift` bytes in the tables of [`SOURCE`].
    pub(super) fn map(&self, iova: u64, output: u64, shift: u8, permissions: u64) {
        let place = CONTEXTS + u64::from(SOURCE & 0xff) * 16;
        let low = self.ram.load(PhysAddr(place)).unwrap();
        let high = self.ram.load(PhysAddr(place + 8)).unwrap();
        let entry = ContextEntry::from_words(low, high);
        let mut table = entry.tables().0;
        let mut level = entry.address_width() + 2;
        loop {
            let reach = 12 + 9 * (level - 1);
            let place = table + (iova >> reach & 0x1ff) * 8;
            if reach == shift {
                let page = if level > 1 {
                    SecondStageEntry::PAGE_SIZE
                } else {
                    0
                };
                self.ram
                    .store(PhysAddr(place), output | permissions | page)
                    .unwrap();
                return;
            }
            let next = self.ram.load(PhysAddr(place)).unwrap();
            table = if next & 3 == 0 {
                let next = self.table();
                self.ram.store(PhysAddr(place), next | 3).unwrap();
                next
            } else {
                next & SecondStageEntry::FRAME
            };
            level -= 1;
        }
    }

    /// Where the entry of the 4-KiB page at `iova` is, in tables that [`map`](Self::map) made.
    pub(super) fn leaf(&self, iova: u64) -> u64 {
        let explanation = self.unit.explain(requester(), None, Iova(iova));
        explanation.steps.last().unwrap().address.0
    }

    pub(super) fn start_queue(&self, size: u8) {
        self.write64(offset::IQT, 0);
        let address = QueueAddress::new()
            .with_size(size)
            .with_address(PhysAddr(QUEUE));
        self.write64(offset::IQA, address.into_bits());
        self.enable(QIE);
    }

    /// Appends descriptors and moves the tail.
    pub(super) fn submit(&self, descriptors: &[[u64; 2]]) {
        let bytes = QueueAddress::from_bits(self.read64(offset::IQA)).bytes();
        let mut tail = self.read64(offset::IQT) as u32;
        for descriptor in descriptors {
            self.store128(QUEUE + u64::from(tail), *descriptor);
            tail = (tail + 16) % bytes;
        }
        self.write64(offset::IQT, u64::from(tail));
    }

    /// Submits `descriptors` and a wait; whether the wait completed at once.
    pub(super) fn invalidate(&self, descriptors: &[[u64; 2]]) -> bool {
        self.ram.store(PhysAddr(STATUS), 0).unwrap();
        let mut all = descriptors.to_vec();
        all.push(wait(2));
        self.submit(&all);
        self.waited()
    }

    /// Whether the status of [`wait`] was written.
    pub(super) fn waited(&self) -> bool {
        self.ram.load(PhysAddr(STATUS)).unwrap() == 2
    }

    pub(super) fn records(&self) -> Vec<FaultRecord> {
        let config = self.unit.config();
        (0..config.fault_records)
            .map(|index| {
                let place = config.fault_records_offset() + index * 16;
                FaultRecord::from_words(self.read64(place), self.read64(place + 8))
            })
            .filter(|record| record.fault())
            .collect()
    }

    pub(super) fn step_until_idle(&self) {
        while self.unit.step() == Progress::Pending {}
    }

    pub(super) fn read_at(&self, iova: u64) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        let handle = self.port.handle();
        match handle.read(Iova(iova), &mut bytes) {
            Ok(()) => Ok(u64::from_le_bytes(bytes)),
            Err(partial) => Err(partial.fault),
        }
    }

    pub(super) fn write_at(&self, iova: u64, value: u64) -> Result<(), Fault> {
        let handle = self.port.handle();
        handle
            .write(Iova(iova), &value.to_le_bytes())
            .map_err(|partial| partial.fault)
    }
}

pub(super) fn requester() -> RequesterId {
    RequesterId::from_source_id(0, SOURCE)
}

pub(super) fn context(levels: u8, tables: u64) -> ContextEntry {
    ContextEntry::new()
        .with_present(true)
        .with_translation_type(TranslationType::Untranslated)
        .with_tables(PhysAddr(tables))
        .with_address_width(levels - 2)
        .with_domain(DOMAIN)
}

/// A wait that writes `status` to [`STATUS`].
pub(super) fn wait(status: u32) -> [u64; 2] {
    let wait = raw::Wait::new()
        .with_status_write(true)
        .with_status_data(status);
    [wait.into_bits(), STATUS]
}

pub(super) fn iotlb_global() -> [u64; 2] {
    let low = raw::IotlbInvalidate::new().with_granularity(Granularity::Global);
    [low.into_bits(), 0]
}

pub(super) fn iotlb_domain(domain: u16) -> [u64; 2] {
    let low = raw::IotlbInvalidate::new()
        .with_granularity(Granularity::Domain)
        .with_domain(domain);
    [low.into_bits(), 0]
}

pub(super) fn iotlb_pages(domain: u16, iova: u64, mask: u8) -> [u64; 2] {
    let low = raw::IotlbInvalidate::new()
        .with_granularity(Granularity::Selective)
        .with_domain(domain);
    let high = InvalidateAddress::new()
        .with_address(Iova(iova))
        .with_address_mask(mask);
    [low.into_bits(), high.into_bits()]
}

pub(super) fn context_global() -> [u64; 2] {
    let low = raw::ContextInvalidate::new().with_granularity(Granularity::Global);
    [low.into_bits(), 0]
}

/// The VT-d reason of a fault.
pub(super) fn reason<T: std::fmt::Debug>(
    result: Result<T, Fault>,
) -> vm_iommu_spec::vtd::FaultReason {
    match result.unwrap_err().reason {
        FaultReason::Vtd(reason) => reason,
        other => panic!("{other} is no VT-d reason"),
    }
}
