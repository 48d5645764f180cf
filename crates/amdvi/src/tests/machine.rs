//! A unit, its guest's memory and one function, for tests.

use std::sync::{Arc, Mutex};

use vm_iommu_dma::{DmaPort, DmaRemapper, Epochs, GuestRam, Upstream};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::command::raw;
use vm_iommu_spec::amd::registers::{Control, DeviceTableBase, RingBase, Status, offset};
use vm_iommu_spec::amd::{
    DeviceTableEntry, DmaWord, DomainWord, EventEntry, FaultReason as Reason, GuestCr3Entry,
    HostPagingEntry,
};
use vm_iommu_spec::{
    Access, AddressType, DmaRequest, Fault, FaultReason, Interrupt, Iova, Pasid, PhysAddr,
    RequesterId,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::{AmdVi, AmdViConfig, Progress, UnitInterrupts};

/// Bytes of RAM, from 0.
pub(super) const RAM: u64 = 32 << 20;
pub(super) const COMMANDS: u64 = 0x2000;
pub(super) const EVENTS: u64 = 0x4000;
pub(super) const STATUS: u64 = 0x6000;
pub(super) const PPRS: u64 = 0x8000;
pub(super) const GAS: u64 = 0xa000;
pub(super) const IRT: u64 = 0x1_0000;
/// 64 KiB hold the entries of 2048 devices.
pub(super) const DEVICES: u64 = 0x2_0000;
/// Tables are taken from here on.
pub(super) const TABLES: u64 = 0x10_0000;
/// The function's device identifier: 0000:00:03.0.
pub(super) const DEVICE: u16 = 0x18;
pub(super) const DOMAIN: u16 = 7;
/// IR and IW of a host page.
pub(super) const READ_WRITE: u64 = HostPagingEntry::READ | HostPagingEntry::WRITE;
/// R/W and U/S of a guest page.
pub(super) const GUEST_RW: u64 = 6;

#[derive(Default)]
pub(super) struct Signals {
    pub(super) interrupts: Mutex<Vec<Interrupt>>,
    pub(super) doorbells: Mutex<Vec<u32>>,
}

impl UnitInterrupts for Signals {
    fn deliver(&self, interrupt: Interrupt) {
        self.interrupts.lock().unwrap().push(interrupt);
    }

    fn doorbell(&self, processor: u32) {
        self.doorbells.lock().unwrap().push(processor);
    }
}

pub(super) struct Machine {
    pub(super) ram: GuestRam,
    pub(super) unit: Arc<AmdVi>,
    pub(super) signals: Arc<Signals>,
    pub(super) port: Arc<DmaPort>,
    next_table: Mutex<u64>,
}

/// A configuration that offers everything.
pub(super) fn everything() -> AmdViConfig {
    AmdViConfig {
        iotlb_support: true,
        ppr: true,
        enhanced_ppr: true,
        ppr_auto_response: true,
        ppr_overflow_early: true,
        guest_apic_mode: true,
        smi_filters: 4,
        invalidate_iotlb_type: true,
        ..AmdViConfig::default()
    }
}

impl Machine {
    pub(super) fn new(config: AmdViConfig) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).unwrap();
        let ram = GuestRam::new(memory);
        let epochs = Arc::new(Epochs::default());
        let signals = Arc::new(Signals::default());
        let unit = AmdVi::new(config, ram.clone(), epochs.clone(), signals.clone()).unwrap();
        let mut upstream = Upstream::direct(ram.clone());
        upstream.epochs = epochs;
        upstream.remapper = Some(unit.clone());
        let port = DmaPort::new(upstream);
        port.set_requester(requester());
        port.set_bus_master(true);
        Self {
            ram,
            unit,
            signals,
            port,
            next_table: Mutex::new(TABLES),
        }
    }

    /// A machine whose unit is enabled with its command buffer and event log, and whose device
    /// table gives [`DEVICE`] empty host tables of `levels` in [`DOMAIN`].
    pub(super) fn translating(config: AmdViConfig, levels: u8) -> Self {
        let machine = Self::new(config);
        let tables = machine.table();
        machine.set_device(DEVICE, device(levels, tables));
        machine.start();
        machine
    }

    /// Enables the unit with its command buffer and event log.
    pub(super) fn start(&self) {
        let devices = DeviceTableBase::new()
            .with_address(PhysAddr(DEVICES))
            .with_size(15);
        self.write64(offset::DEVICE_TABLE, devices.into_bits());
        self.write64(offset::COMMAND_BUFFER, ring(COMMANDS).into_bits());
        self.write64(offset::EVENT_LOG, ring(EVENTS).into_bits());
        self.enable(|control| {
            control
                .with_command_buffer(true)
                .with_event_log(true)
                .with_guest_translation(true)
                .with_enable(true)
        });
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

    /// Changes the control register.
    pub(super) fn enable(&self, change: impl FnOnce(Control) -> Control) {
        let control = Control::from_bits(self.read64(offset::CONTROL));
        self.write64(offset::CONTROL, change(control).into_bits());
    }

    pub(super) fn status(&self) -> Status {
        Status::from_bits_retain(self.read64(offset::STATUS))
    }

    pub(super) fn set_device(&self, device: u16, entry: DeviceTableEntry) {
        let place = DEVICES + u64::from(device) * DeviceTableEntry::SIZE;
        for (index, word) in (0..).zip(entry.words()) {
            self.store(place + index * 8, word);
        }
    }

    pub(super) fn device(&self, device: u16) -> DeviceTableEntry {
        let place = DEVICES + u64::from(device) * DeviceTableEntry::SIZE;
        DeviceTableEntry::from_words([0, 8, 16, 24].map(|offset| self.load(place + offset)))
    }

    /// Changes the entry of [`DEVICE`] and invalidates it.
    pub(super) fn change_device(&self, change: impl FnOnce(&mut DeviceTableEntry)) {
        let mut entry = self.device(DEVICE);
        change(&mut entry);
        self.set_device(DEVICE, entry);
        assert!(self.invalidate(&[invalidate_device(DEVICE)]));
    }

    pub(super) fn store(&self, place: u64, word: u64) {
        self.ram.store(PhysAddr(place), word).unwrap();
    }

    pub(super) fn load(&self, place: u64) -> u64 {
        self.ram.load(PhysAddr(place)).unwrap()
    }

    /// A zeroed page for a table.
    pub(super) fn table(&self) -> u64 {
        let mut next = self.next_table.lock().unwrap();
        let table = *next;
        *next += 0x1000;
        table
    }

    /// Maps a page of 2^`shift` bytes, of a size that one entry has, in the host tables of
    /// [`DEVICE`]; yields where its entry is.
    pub(super) fn map(&self, iova: u64, output: u64, shift: u8, permissions: u64) -> u64 {
        let dma = self.device(DEVICE).dma;
        self.map_host(
            (dma.host_tables().0, dma.mode()),
            iova,
            output,
            shift,
            permissions,
        )
    }

    pub(super) fn map_host(
        &self,
        (root, levels): (u64, u8),
        iova: u64,
        output: u64,
        shift: u8,
        permissions: u64,
    ) -> u64 {
        let table = |next: u64, level: u8| next | 1 | READ_WRITE | u64::from(level - 1) << 9;
        self.descend((root, levels), iova, shift, table, output | permissions | 1)
    }

    /// The same in guest tables, at guest physical addresses that equal physical ones.
    pub(super) fn map_guest(
        &self,
        (root, levels): (u64, u8),
        iova: u64,
        output: u64,
        shift: u8,
        permissions: u64,
    ) -> u64 {
        let size = if shift > 12 { 1 << 7 } else { 0 };
        let table = |next: u64, _| next | 7;
        self.descend(
            (root, levels),
            iova,
            shift,
            table,
            output | permissions | size | 1,
        )
    }

    fn descend(
        &self,
        (mut table, mut level): (u64, u8),
        iova: u64,
        shift: u8,
        entry: impl Fn(u64, u8) -> u64,
        page: u64,
    ) -> u64 {
        loop {
            let reach = 3 + 9 * level;
            let place = table + (iova >> reach & 0x1ff) * 8;
            if reach == shift {
                self.store(place, page);
                return place;
            }
            let mut next = self.load(place);
            if next & 1 == 0 {
                next = entry(self.table(), level);
                self.store(place, next);
            }
            table = next & HostPagingEntry::FRAME;
            level -= 1;
        }
    }

    /// Gives [`DEVICE`] guest tables for `pasid`, of `levels`, behind a guest CR3 table of
    /// `cr3_levels`; yields their root. The host tables stay as they are.
    pub(super) fn set_guest(&self, pasid: u32, cr3_levels: u8, levels: u8) -> u64 {
        let mut entry = self.device(DEVICE);
        let mut table = entry.guest_cr3_table().0;
        if table == 0 {
            table = self.table();
            entry = entry.with_guest_cr3_table(PhysAddr(table));
        }
        entry.dma = entry
            .dma
            .with_guest_valid(true)
            .with_guest_cr3_levels(cr3_levels - 1);
        entry.interrupt = entry.interrupt.with_guest_paging_mode(levels - 4);
        self.set_device(DEVICE, entry);
        for level in (1..=cr3_levels).rev() {
            let place = table + GuestCr3Entry::offset(pasid, level);
            let found = GuestCr3Entry::from_bits(self.load(place));
            table = if found.valid() {
                found.address().0
            } else {
                let next = self.table();
                let entry = GuestCr3Entry::new()
                    .with_valid(true)
                    .with_address(PhysAddr(next));
                self.store(place, entry.into_bits());
                next
            };
        }
        table
    }

    /// Appends commands and moves the tail.
    pub(super) fn submit(&self, commands: &[[u64; 2]]) {
        let bytes = RingBase::from_bits(self.read64(offset::COMMAND_BUFFER))
            .entries()
            .unwrap() as u64
            * raw::SIZE;
        let mut tail = self.read64(offset::COMMAND_TAIL);
        for [low, high] in commands {
            self.store(COMMANDS + tail, *low);
            self.store(COMMANDS + tail + 8, *high);
            tail = (tail + raw::SIZE) % bytes;
        }
        self.write32(offset::COMMAND_TAIL, tail as u32);
    }

    /// Submits `commands` and a wait; whether the wait completed at once.
    pub(super) fn invalidate(&self, commands: &[[u64; 2]]) -> bool {
        self.store(STATUS, 0);
        let mut all = commands.to_vec();
        all.push(wait(STATUS, 2));
        self.submit(&all);
        self.waited()
    }

    /// Whether the data of [`wait`] was stored.
    pub(super) fn waited(&self) -> bool {
        self.load(STATUS) == 2
    }

    /// The events logged since this was last asked; takes them from the log.
    pub(super) fn events(&self) -> Vec<EventEntry> {
        let bytes = RingBase::from_bits(self.read64(offset::EVENT_LOG))
            .entries()
            .unwrap() as u64
            * EventEntry::SIZE;
        let tail = self.read64(offset::EVENT_TAIL);
        let mut head = self.read64(offset::EVENT_HEAD);
        let mut events = Vec::new();
        while head != tail {
            let low = self.load(EVENTS + head);
            events.push(EventEntry::from_words(low, self.load(EVENTS + head + 8)));
            head = (head + EventEntry::SIZE) % bytes;
        }
        self.write64(offset::EVENT_HEAD, head);
        events
    }

    /// The only event since this was last asked.
    pub(super) fn event(&self) -> EventEntry {
        let events = self.events();
        assert_eq!(events.len(), 1, "{events:?}");
        events[0]
    }

    pub(super) fn interrupts(&self) -> Vec<Interrupt> {
        std::mem::take(&mut self.signals.interrupts.lock().unwrap())
    }

    pub(super) fn step_until_idle(&self) {
        while self.unit.step() == Progress::Pending {}
    }

    pub(super) fn read_at(&self, iova: u64) -> Result<u64, Fault> {
        self.read_with(None, iova)
    }

    pub(super) fn read_with(&self, pasid: Option<u32>, iova: u64) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        let handle = match pasid {
            None => self.port.handle(),
            Some(pasid) => self.port.handle_with_pasid(Pasid::new(pasid).unwrap()),
        };
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

    pub(super) fn write_with(&self, pasid: u32, iova: u64) -> Result<(), Fault> {
        let handle = self.port.handle_with_pasid(Pasid::new(pasid).unwrap());
        handle
            .write(Iova(iova), &[1; 8])
            .map_err(|partial| partial.fault)
    }

    /// Puts a request to the unit that no handle issues; the output address.
    pub(super) fn ask(&self, request: DmaRequest) -> Result<PhysAddr, Fault> {
        let space = self.unit.bind(&request)?;
        let page = self.unit.translate(&space, &request)?;
        let offset = request.address.offset_in(1 << page.page_shift);
        Ok(PhysAddr(page.output.0 + offset))
    }
}

pub(super) fn requester() -> RequesterId {
    RequesterId::from_source_id(0, DEVICE)
}

pub(super) fn request(iova: u64, access: Access) -> DmaRequest {
    DmaRequest::new(requester(), Iova(iova), access)
}

pub(super) fn request_of(iova: u64, access: Access, address_type: AddressType) -> DmaRequest {
    DmaRequest {
        address_type,
        ..request(iova, access)
    }
}

/// A ring of 256 entries.
pub(super) fn ring(address: u64) -> RingBase {
    RingBase::new()
        .with_address(PhysAddr(address))
        .with_length(8)
}

/// An entry with host tables of `levels` that permits everything.
pub(super) fn device(levels: u8, tables: u64) -> DeviceTableEntry {
    DeviceTableEntry {
        dma: DmaWord::new()
            .with_valid(true)
            .with_translation_valid(true)
            .with_mode(levels)
            .with_host_tables(PhysAddr(tables))
            .with_read(true)
            .with_write(true),
        domain: DomainWord::new().with_domain(DOMAIN),
        ..DeviceTableEntry::default()
    }
}

/// A wait that stores `data` at `place`.
pub(super) fn wait(place: u64, data: u64) -> [u64; 2] {
    let wait = raw::CompletionWait::new()
        .with_store(true)
        .with_address(PhysAddr(place));
    [wait.into_bits(), data]
}

pub(super) fn invalidate_device(device: u16) -> [u64; 2] {
    let command = raw::InvalidateDevice::new().with_device(device);
    [command.into_bits(), 0]
}

pub(super) fn invalidate_interrupts(device: u16) -> [u64; 2] {
    let command = raw::InvalidateDevice::new()
        .with_device(device)
        .with_opcode(raw::INVALIDATE_INTERRUPT_TABLE);
    [command.into_bits(), 0]
}

pub(super) fn invalidate_all() -> [u64; 2] {
    [raw::InvalidateAll::new().into_bits(), 0]
}

pub(super) fn invalidate_pages(domain: u16, first: u64, last: u64, directories: bool) -> [u64; 2] {
    let command = raw::InvalidatePages::new().with_domain(domain);
    let pages = raw::PageSelector::of_range(&(Iova(first)..=Iova(last)));
    [
        command.into_bits(),
        pages.with_directories(directories).into_bits(),
    ]
}

pub(super) fn invalidate_domain(domain: u16) -> [u64; 2] {
    invalidate_pages(domain, 0, u64::MAX, true)
}

pub(super) fn invalidate_guest(domain: u16, pasid: u32, first: u64, last: u64) -> [u64; 2] {
    let command = raw::InvalidatePages::new()
        .with_domain(domain)
        .with_pasid(pasid);
    let pages = raw::PageSelector::of_range(&(Iova(first)..=Iova(last)));
    let pages = pages.with_directories(true).with_guest(true);
    [command.into_bits(), pages.into_bits()]
}

/// The AMD-Vi reason of a fault.
pub(super) fn reason<T: std::fmt::Debug>(result: Result<T, Fault>) -> Reason {
    match result.unwrap_err().reason {
        FaultReason::Amd(reason) => reason,
        other => panic!("{other} is no AMD-Vi reason"),
    }
}
