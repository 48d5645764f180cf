//! A stand-in for a unit: it confirms what it is told and keeps a list of it.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use vm_iommu_pagetable::TableMemory;
use vm_iommu_pagetable::testing::MockMemory;
use vm_iommu_spec::PhysAddr;
use vm_iommu_spec::vtd::descriptor::raw;
use vm_iommu_spec::vtd::registers::{
    Capability, ExtendedCapability, FaultStatus, GlobalBits, QueueAddress, QueueError,
    QueueErrorRecord, QueuePointer, offset,
};

use crate::vtd::{Error, InterruptSetup, Setup, Unit};
use crate::{PagePool, RegisterBus, SpinBudget};

/// Where the fault recording registers are.
pub const RECORDS: u16 = 0x220;

/// One thing the driver did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Wrote a register.
    Write(u16, u64),
    /// Had a descriptor carried out, waits aside.
    Invalidated(u64, u64),
}

#[derive(Debug)]
pub struct Bench {
    pub memory: MockMemory,
    pub capability: Cell<Capability>,
    pub extended: Cell<ExtendedCapability>,
    /// Commands that are never answered.
    pub deaf_to: Cell<GlobalBits>,
    /// The queue stops at the first descriptor of this kind.
    pub refuses: Cell<Option<u8>>,
    pub events: RefCell<Vec<Event>>,
    pub status: Cell<GlobalBits>,
    pub fault_status: Cell<FaultStatus>,
    /// The fault recording registers, as 64-bit halves.
    pub records: RefCell<[u64; 8]>,
    queue: Cell<QueueAddress>,
    head: Cell<u16>,
    tail: Cell<u16>,
    error: Cell<QueueErrorRecord>,
}

pub type Driver<'a> = Unit<&'a Bench, &'a MockMemory, PagePool<&'a MockMemory>>;

impl Bench {
    pub const MEMORY: u64 = 0x10_0000;
    pub const SIZE: usize = 4 << 20;
    pub const SETUP: Setup = Setup {
        interrupts: Some(InterruptSetup {
            size: 7,
            extended: false,
        }),
        ..Setup::new(SpinBudget(1000))
    };

    pub fn new() -> Self {
        Self {
            memory: MockMemory::new(PhysAddr(Self::MEMORY), Self::SIZE),
            capability: Cell::new(
                Capability::new()
                    .with_domains(1)
                    .with_adjusted_widths(0b0110)
                    .with_maximum_width(47)
                    .with_second_stage_large_pages(1)
                    .with_page_selective_invalidation(true)
                    .with_maximum_address_mask(9)
                    .with_fault_recording(RECORDS >> 4)
                    .with_fault_records(3),
            ),
            extended: Cell::new(
                ExtendedCapability::new()
                    .with_coherent(true)
                    .with_queued_invalidation(true)
                    .with_interrupt_remapping(true),
            ),
            deaf_to: Cell::new(GlobalBits::empty()),
            refuses: Cell::new(None),
            events: RefCell::default(),
            status: Cell::new(GlobalBits::empty()),
            fault_status: Cell::default(),
            records: RefCell::default(),
            queue: Cell::default(),
            head: Cell::new(0),
            tail: Cell::new(0),
            error: Cell::default(),
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

    /// The invalidations in the list, which is taken.
    pub fn invalidations(&self) -> Vec<(u64, u64)> {
        let only_invalidations = |event| match event {
            Event::Invalidated(low, high) => Some((low, high)),
            Event::Write(..) => None,
        };
        self.events
            .take()
            .into_iter()
            .filter_map(only_invalidations)
            .collect()
    }

    /// Whether memory holds nothing but zeroes.
    pub fn is_untouched(&self) -> bool {
        let words = self.memory.words();
        words
            .iter()
            .all(|word| word.load(core::sync::atomic::Ordering::Relaxed) == 0)
    }

    fn run_queue(&self) {
        let entries = 256 << self.queue.get().size();
        while self.head.get() != self.tail.get() {
            let place = self.queue.get().address().0 + u64::from(self.head.get()) * 16;
            let word = |at| self.memory.load(PhysAddr(at)).expect("the queue");
            let (low, high) = (word(place), word(place + 8));
            if Some(raw::kind(low)) == self.refuses.get() {
                self.fault_status
                    .set(self.fault_status.get().with_queue_error(true));
                self.error
                    .set(QueueErrorRecord::new().with_error(QueueError::Reserved));
                return;
            }
            let wait = raw::Wait::from_bits(low);
            if raw::kind(low) != raw::WAIT {
                self.events.borrow_mut().push(Event::Invalidated(low, high));
            } else if wait.status_write() {
                self.memory
                    .store(PhysAddr(high), u64::from(wait.status_data()))
                    .expect("a status word");
            }
            self.head.set((self.head.get() + 1) % entries);
        }
    }

    fn command(&self, command: GlobalBits) {
        let heard = command - self.deaf_to.get() - GlobalBits::WRITE_BUFFER_FLUSH;
        let pointers = self.status.get() - GlobalBits::ENABLES;
        self.status.set(heard | pointers);
    }
}

impl RegisterBus for Bench {
    fn read32(&self, at: u16) -> u32 {
        match at {
            offset::VER => 0x10,
            offset::GSTS => self.status.get().bits(),
            offset::FSTS => self.fault_status.get().into_bits(),
            _ => self.read64(at) as u32,
        }
    }

    fn read64(&self, at: u16) -> u64 {
        match at {
            offset::CAP => self.capability.get().into_bits(),
            offset::ECAP => self.extended.get().into_bits(),
            offset::IQH => QueuePointer::new().with_index(self.head.get()).into_bits(),
            offset::IQT => QueuePointer::new().with_index(self.tail.get()).into_bits(),
            offset::IQERCD => self.error.get().into_bits(),
            RECORDS.. => self.records.borrow()[usize::from(at - RECORDS) / 8],
            _ => 0,
        }
    }

    fn write32(&self, at: u16, value: u32) {
        self.events
            .borrow_mut()
            .push(Event::Write(at, value.into()));
        match at {
            offset::GCMD => self.command(GlobalBits::from_bits_retain(value)),
            offset::IQT => {
                let tail = QueuePointer::from_bits(value.into());
                self.tail.set(tail.index());
                self.run_queue();
            }
            offset::FSTS => {
                let cleared = self.fault_status.get().into_bits() & !(value & 0x71);
                self.fault_status.set(FaultStatus::from_bits(cleared));
                if value & 0x10 != 0 {
                    self.refuses.set(None);
                    self.run_queue();
                }
            }
            RECORDS.. => {
                let half = &mut self.records.borrow_mut()[usize::from(at - RECORDS) / 8];
                *half &= !(u64::from(value) << 32 & 1 << 63);
            }
            _ => {}
        }
    }

    fn write64(&self, at: u16, value: u64) {
        self.events.borrow_mut().push(Event::Write(at, value));
        if at == offset::IQA {
            self.queue.set(QueueAddress::from_bits(value));
            self.head.set(0);
        }
    }
}
