//! A stand-in for a unit: it carries out what it is told and keeps a list of it.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use vm_iommu_pagetable::TableMemory;
use vm_iommu_pagetable::testing::MockMemory;
use vm_iommu_spec::amd::command::raw;
use vm_iommu_spec::amd::registers::{
    Control, ExtendedFeature, ExtendedFeature2, RingBase, Status, offset,
};
use vm_iommu_spec::amd::{DeviceTableEntry, EventEntry};
use vm_iommu_spec::{PhysAddr, RequesterId};

use crate::amdvi::{Error, InterruptSetup, Setup, Unit};
use crate::{PagePool, RegisterBus, SpinBudget};

/// One thing the driver did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Wrote a register.
    Write(u16, u64),
    /// Had a command carried out, completion waits aside.
    Command(u64, u64),
}

#[derive(Debug)]
pub struct Bench {
    pub memory: MockMemory,
    pub feature: Cell<ExtendedFeature>,
    pub feature2: Cell<ExtendedFeature2>,
    pub control: Cell<Control>,
    /// Status bits that stay set whatever the driver turns off.
    pub stuck: Cell<Status>,
    /// Status bits that are cleared by writing 1.
    pub status: Cell<Status>,
    /// The first command with this opcode stops the unit.
    pub refuses: Cell<Option<u8>>,
    pub events: RefCell<Vec<Event>>,
    commands: Cell<RingBase>,
    log: Cell<RingBase>,
    pub event_tail: Cell<u32>,
    halted: Cell<bool>,
    head: Cell<u32>,
    tail: Cell<u32>,
}

pub type Driver<'a> = Unit<&'a Bench, &'a MockMemory, PagePool<&'a MockMemory>>;

pub const DEVICE: RequesterId = RequesterId::from_source_id(0, 0x08);

impl Bench {
    pub const MEMORY: u64 = 0x10_0000;
    pub const SIZE: usize = 4 << 20;
    pub const SETUP: Setup = Setup {
        last_device: 0x7f,
        interrupts: Some(InterruptSetup {
            length: 9,
            x2apic: false,
        }),
        ..Setup::new(SpinBudget(1000))
    };

    pub fn new() -> Self {
        Self {
            memory: MockMemory::new(PhysAddr(Self::MEMORY), Self::SIZE),
            feature: Cell::new(
                ExtendedFeature::new()
                    .with_invalidate_all(true)
                    .with_guest_apic(true)
                    .with_x2apic(true)
                    .with_guest_translation(true)
                    .with_guest_io(true)
                    .with_host_levels(2),
            ),
            feature2: Cell::default(),
            control: Cell::default(),
            stuck: Cell::default(),
            status: Cell::default(),
            refuses: Cell::new(None),
            events: RefCell::default(),
            commands: Cell::default(),
            log: Cell::default(),
            event_tail: Cell::new(0),
            halted: Cell::new(false),
            head: Cell::new(0),
            tail: Cell::new(0),
        }
    }

    pub fn pages(&self) -> PagePool<&MockMemory> {
        let end = PhysAddr(Self::MEMORY + Self::SIZE as u64);
        PagePool::new(&self.memory, PhysAddr(Self::MEMORY)..end)
    }

    pub fn start_with(&self, setup: &Setup) -> Result<Driver<'_>, Error> {
        Unit::start(self, &self.memory, self.pages(), setup)
    }

    /// A unit that is up, with nothing in its list.
    pub fn start(&self) -> Driver<'_> {
        let unit = self.start_with(&Self::SETUP).expect("a unit");
        self.events.borrow_mut().clear();
        unit
    }

    /// Takes the list.
    pub fn events(&self) -> Vec<Event> {
        self.events.take()
    }

    /// The commands in the list, which is taken.
    pub fn carried_out(&self) -> Vec<(u64, u64)> {
        let only_commands = |event| match event {
            Event::Command(low, high) => Some((low, high)),
            Event::Write(..) => None,
        };
        self.events
            .take()
            .into_iter()
            .filter_map(only_commands)
            .collect()
    }

    /// Whether memory holds nothing but zeroes.
    pub fn is_untouched(&self) -> bool {
        let words = self.memory.words();
        words
            .iter()
            .all(|word| word.load(core::sync::atomic::Ordering::Relaxed) == 0)
    }

    pub fn load(&self, at: PhysAddr) -> u64 {
        self.memory.load(at).expect("memory")
    }

    /// The entry of a requester in the table of `unit`.
    pub fn entry(&self, unit: &Driver<'_>, requester: RequesterId) -> DeviceTableEntry {
        let place = unit.device_table().0 + u64::from(requester.source_id()) * 32;
        let words = [0, 8, 16, 24].map(|offset| self.load(PhysAddr(place + offset)));
        DeviceTableEntry::from_words(words)
    }

    /// The unit logs an event.
    pub fn log(&self, entry: EventEntry) {
        let place = self.log.get().address().0 + u64::from(self.event_tail.get());
        let [low, high] = entry.words();
        self.memory.store(PhysAddr(place), low).expect("the log");
        self.memory
            .store(PhysAddr(place + 8), high)
            .expect("the log");
        let size = 16 << self.log.get().length();
        self.event_tail.set((self.event_tail.get() + 16) % size);
    }

    fn run(&self) {
        if self.halted.get() || !self.control.get().command_buffer() {
            return;
        }
        let size = 16 << self.commands.get().length();
        while self.head.get() != self.tail.get() {
            let place = self.commands.get().address().0 + u64::from(self.head.get());
            let (low, high) = (self.load(PhysAddr(place)), self.load(PhysAddr(place + 8)));
            if Some(raw::opcode(low)) == self.refuses.get() {
                self.refuses.set(None);
                self.halted.set(true);
                return;
            }
            let wait = raw::CompletionWait::from_bits(low);
            if raw::opcode(low) != raw::COMPLETION_WAIT {
                self.events.borrow_mut().push(Event::Command(low, high));
            } else if wait.store() {
                let place = wait.address();
                self.memory.store(place, high).expect("the semaphore");
            }
            self.head.set((self.head.get() + 16) % size);
        }
    }

    fn status(&self) -> Status {
        let control = self.control.get();
        let mut status = self.status.get() | self.stuck.get();
        status.set(
            Status::COMMAND_RUN,
            control.command_buffer() && !self.halted.get()
                || self.stuck.get().contains(Status::COMMAND_RUN),
        );
        status.set(
            Status::EVENT_RUN,
            control.event_log() || self.stuck.get().contains(Status::EVENT_RUN),
        );
        status
    }
}

impl RegisterBus for Bench {
    fn read32(&self, at: u16) -> u32 {
        self.read64(at) as u32
    }

    fn read64(&self, at: u16) -> u64 {
        match at {
            offset::EXTENDED_FEATURE => self.feature.get().into_bits(),
            offset::EXTENDED_FEATURE_2 => self.feature2.get().into_bits(),
            offset::CONTROL => self.control.get().into_bits(),
            offset::STATUS => self.status().bits(),
            offset::COMMAND_HEAD => self.head.get().into(),
            offset::EVENT_TAIL => self.event_tail.get().into(),
            _ => 0,
        }
    }

    fn write32(&self, at: u16, value: u32) {
        self.write64(at, value.into());
    }

    fn write64(&self, at: u16, value: u64) {
        self.events.borrow_mut().push(Event::Write(at, value));
        match at {
            offset::CONTROL => {
                let control = Control::from_bits(value);
                if !control.command_buffer() {
                    self.halted.set(false);
                }
                self.control.set(control);
                self.run();
            }
            offset::STATUS => {
                let cleared = Status::from_bits_retain(value);
                self.status.set(self.status.get() - cleared);
            }
            offset::COMMAND_BUFFER => self.commands.set(RingBase::from_bits(value)),
            offset::COMMAND_HEAD => self.head.set(value as u32),
            offset::COMMAND_TAIL => {
                self.tail.set(value as u32);
                self.run();
            }
            offset::EVENT_LOG => self.log.set(RingBase::from_bits(value)),
            offset::EVENT_TAIL => self.event_tail.set(value as u32),
            _ => {}
        }
    }
}
