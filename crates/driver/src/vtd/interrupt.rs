//! The interrupt remapping table (section 5.1.4).

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::registers::InterruptTableAddress;
use vm_iommu_spec::vtd::{Irte, RemappableAddress};
use vm_iommu_spec::{DestinationMode, Interrupt, MsiMessage, PhysAddr, RequesterId, TriggerMode};

use super::queue::Descriptor;
use super::{Error, Feature, Unit};
use crate::pages::order_of;
use crate::{Pages, RegisterBus};

/// Size of an entry in bytes.
const ENTRY: u64 = 16;

/// How interrupts are to be remapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptSetup {
    /// S: the table has `2 << size` entries of 16 bytes; at most 15.
    pub size: u8,
    /// EIME: destinations are 32-bit x2APIC identifiers.
    pub extended: bool,
}

impl InterruptSetup {
    /// The largest S field.
    pub(super) const MAX_SIZE: u8 = 15;

    const fn entries(self) -> u32 {
        2 << self.size
    }
}

/// The index of an entry in the interrupt remapping table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterruptIndex(pub u16);

impl InterruptIndex {
    /// What a function writes to raise the interrupt of this entry: an address in remappable
    /// format without subhandle, and no data.
    pub const fn message(self) -> MsiMessage {
        let address = RemappableAddress::new()
            .with_prefix(0xfee)
            .with_remappable(true)
            .with_handle(self.0);
        MsiMessage {
            address: address.into_bits() as u64,
            data: 0,
        }
    }
}

impl fmt::Display for InterruptIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Who may raise an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptSource {
    /// Whoever names the entry.
    Any,
    /// One requester.
    Requester(RequesterId),
    /// Whoever has a bus number in this range, both ends included.
    Buses {
        /// The first.
        first: u8,
        /// The last.
        last: u8,
    },
}

/// The interrupt remapping table, and which of its entries are in use.
#[derive(Debug)]
pub(super) struct InterruptTable {
    start: PhysAddr,
    setup: InterruptSetup,
    used: Vec<bool>,
}

impl InterruptTable {
    /// The order of the allocation for a table.
    pub(super) fn order(setup: InterruptSetup) -> u8 {
        order_of(u64::from(setup.entries()) * ENTRY)
    }

    pub(super) fn new(start: PhysAddr, setup: InterruptSetup) -> Self {
        Self {
            start,
            setup,
            used: vec![false; setup.entries() as usize],
        }
    }

    pub(super) fn register(&self) -> InterruptTableAddress {
        InterruptTableAddress::new()
            .with_address(self.start)
            .with_size(self.setup.size)
            .with_extended_mode(self.setup.extended)
    }

    fn place(&self, index: InterruptIndex) -> Result<PhysAddr, Error> {
        match self.used.get(usize::from(index.0)) {
            Some(true) => Ok(PhysAddr(self.start.0 + u64::from(index.0) * ENTRY)),
            _ => Err(Error::NoInterrupt(index)),
        }
    }
}

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// Takes an unused entry of the table; it stays not present until
    /// [`set_interrupt`](Self::set_interrupt).
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a table, [`Error::OutOfInterrupts`] if it is full.
    pub fn allocate_interrupt(&mut self) -> Result<InterruptIndex, Error> {
        let table = self.table()?;
        let entries = table.setup.entries();
        let free = table.used.iter().position(|used| !used);
        // A table has at most 65536 entries.
        let index = free
            .and_then(|index| u16::try_from(index).ok())
            .ok_or(Error::OutOfInterrupts { entries })?;
        table.used[usize::from(index)] = true;
        Ok(InterruptIndex(index))
    }

    /// Makes an entry present, or changes it: requests that name it become `interrupt`, if they
    /// come from `source`. When this returns, no request takes the entry as it was before.
    ///
    /// # Errors
    /// [`Error::NoInterrupt`], [`Error::Destination`] for a destination above 255 without EIME,
    /// and what an invalidation may fail with.
    pub fn set_interrupt(
        &mut self,
        index: InterruptIndex,
        interrupt: Interrupt,
        source: InterruptSource,
    ) -> Result<(), Error> {
        let table = self.table()?;
        let extended = table.setup.extended;
        let place = table.place(index)?;
        if !extended && interrupt.destination > 0xff {
            return Err(Error::Destination(interrupt.destination));
        }
        let [low, high] = entry(interrupt, source, extended).words();
        let upper = PhysAddr(place.0 + 8);
        let was = self.link.memory.load(place)?;
        let was_present = Irte::from_words(was, 0).present();
        if was_present && self.link.memory.load(upper)? != high {
            // The halves cannot change at once: the entry is absent meanwhile.
            self.link.memory.store(place, 0)?;
            self.submit(&[Descriptor::interrupt(index)])?;
        }
        self.link.memory.store(upper, high)?;
        self.link.memory.store(place, low)?;
        if was_present {
            self.submit(&[Descriptor::interrupt(index)])
        } else {
            self.after_present(&[Descriptor::interrupt(index)])
        }
    }

    /// Makes an entry not present and gives it back. When this returns, no request is remapped by
    /// it.
    ///
    /// # Errors
    /// [`Error::NoInterrupt`], and what an invalidation may fail with; the entry then stays
    /// allocated.
    pub fn free_interrupt(&mut self, index: InterruptIndex) -> Result<(), Error> {
        let place = self.table()?.place(index)?;
        self.link.memory.store(place, 0)?;
        self.submit(&[Descriptor::interrupt(index)])?;
        self.link.memory.store(PhysAddr(place.0 + 8), 0)?;
        self.table()?.used[usize::from(index.0)] = false;
        Ok(())
    }

    fn table(&mut self) -> Result<&mut InterruptTable, Error> {
        self.interrupts
            .as_mut()
            .ok_or(Error::Unsupported(Feature::InterruptRemapping))
    }
}

fn entry(interrupt: Interrupt, source: InterruptSource, extended: bool) -> Irte {
    let irte = Irte::new()
        .with_present(true)
        .with_logical(interrupt.destination_mode == DestinationMode::Logical)
        .with_redirection_hint(interrupt.redirection_hint)
        .with_level(interrupt.trigger_mode == TriggerMode::Level)
        .with_delivery_mode(interrupt.delivery_mode as u8)
        .with_vector(interrupt.vector)
        .with_destination_for(interrupt.destination, extended);
    match source {
        InterruptSource::Any => irte,
        InterruptSource::Requester(requester) => irte
            .with_source_validation(1)
            .with_source(requester.source_id()),
        InterruptSource::Buses { first, last } => irte
            .with_source_validation(2)
            .with_source(u16::from_be_bytes([first, last])),
    }
}
