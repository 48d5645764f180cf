//! Interrupt remapping tables (section 2.2.5), one for each requester that has interrupts.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::{InterruptControl, InterruptWord, Irte32, Irte128};
use vm_iommu_spec::{
    DeliveryMode, DestinationMode, Interrupt, MsiMessage, PhysAddr, RequesterId, TriggerMode,
};

use super::command::Command;
use super::{Error, Feature, Unit};
use crate::pages::order_of;
use crate::{Pages, RegisterBus};

/// How interrupts are to be remapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptSetup {
    /// IntTabLen: tables have `1 << length` entries; at most 9, or 11 if the unit can.
    pub length: u8,
    /// XTEn: destinations are 32-bit x2APIC identifiers.
    pub x2apic: bool,
}

impl InterruptSetup {
    /// The largest IntTabLen of every unit.
    pub(super) const COMMON_LENGTH: u8 = 9;
    /// The largest IntTabLen of any unit.
    pub(super) const MAX_LENGTH: u8 = 11;

    pub(super) const fn entries(self) -> u16 {
        1 << self.length
    }
}

/// An entry of the interrupt remapping table of a requester.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterruptIndex {
    /// Whose table.
    pub requester: RequesterId,
    /// The index in it.
    pub index: u16,
}

impl InterruptIndex {
    /// What the requester writes to raise the interrupt of this entry.
    pub const fn message(self) -> MsiMessage {
        MsiMessage {
            address: 0xfee0_0000,
            data: self.index as u32,
        }
    }
}

impl fmt::Display for InterruptIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.index, self.requester)
    }
}

/// The interrupt remapping table of a requester, and which of its entries are in use.
#[derive(Debug)]
pub(super) struct InterruptTable {
    start: PhysAddr,
    used: Vec<bool>,
}

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// Takes an unused entry of a requester's table, which is made if there is none yet; it stays
    /// without effect until [`set_interrupt`](Self::set_interrupt).
    ///
    /// # Errors
    /// [`Error::Unsupported`] if interrupt remapping was not set up, [`Error::OutOfInterrupts`],
    /// [`Error::OutOfMemory`], [`Error::BeyondDeviceTable`], and what a command may fail with.
    pub fn allocate_interrupt(&mut self, requester: RequesterId) -> Result<InterruptIndex, Error> {
        let setup = self.interrupt_setup()?;
        let source = requester.source_id();
        if !self.interrupt_tables.contains_key(&source) {
            self.make_interrupt_table(requester, setup)?;
        }
        let entries = setup.entries();
        let used = self
            .interrupt_tables
            .get_mut(&source)
            .map_or(&mut [][..], |table| &mut table.used);
        // A table has at most 2048 entries.
        let (index, free) = (0..)
            .zip(used)
            .find(|(_, used)| !**used)
            .ok_or(Error::OutOfInterrupts { entries })?;
        *free = true;
        Ok(InterruptIndex { requester, index })
    }

    /// Gives an entry an effect, or changes it: requests that name it become `interrupt`. When
    /// this returns, no request takes the entry as it was before.
    ///
    /// # Errors
    /// [`Error::NoInterrupt`], [`Error::DeliveryMode`], [`Error::Destination`] for a destination
    /// above 255 without x2APIC mode, and what a command may fail with.
    pub fn set_interrupt(
        &mut self,
        index: InterruptIndex,
        interrupt: Interrupt,
    ) -> Result<(), Error> {
        let setup = self.interrupt_setup()?;
        let place = self.place(index)?;
        if !setup.x2apic && interrupt.destination > 0xff {
            return Err(Error::Destination(interrupt.destination));
        }
        let kind = match interrupt.delivery_mode {
            DeliveryMode::Fixed => 0,
            DeliveryMode::LowestPriority => 1,
            _ => return Err(Error::DeliveryMode),
        };
        let invalidate = [Command::interrupts(index.requester)];
        if self.wide_entries() {
            let [low, high] = wide(interrupt, kind).words();
            let upper = PhysAddr(place.0 + 8);
            let was = self.link.memory.load(place)?;
            if was & 1 != 0 && self.link.memory.load(upper)? != high {
                // The halves cannot change at once: the entry has no effect meanwhile.
                self.link.memory.store(place, 0)?;
                self.submit(&invalidate)?;
            }
            self.link.memory.store(upper, high)?;
            self.link.memory.store(place, low)?;
        } else {
            self.store_narrow(index, place, narrow(interrupt, kind).into_bits())?;
        }
        self.submit(&invalidate)
    }

    /// Takes the effect of an entry and gives it back. When this returns, no request is remapped
    /// by it.
    ///
    /// # Errors
    /// [`Error::NoInterrupt`], and what a command may fail with; the entry then stays allocated.
    pub fn free_interrupt(&mut self, index: InterruptIndex) -> Result<(), Error> {
        let place = self.place(index)?;
        if self.wide_entries() {
            self.link.memory.store(place, 0)?;
        } else {
            self.store_narrow(index, place, 0)?;
        }
        self.submit(&[Command::interrupts(index.requester)])?;
        if self.wide_entries() {
            self.link.memory.store(PhysAddr(place.0 + 8), 0)?;
        }
        let table = self.interrupt_tables.get_mut(&index.requester.source_id());
        if let Some(used) = table.and_then(|table| table.used.get_mut(usize::from(index.index))) {
            *used = false;
        }
        Ok(())
    }

    fn interrupt_setup(&self) -> Result<InterruptSetup, Error> {
        self.interrupts
            .ok_or(Error::Unsupported(Feature::InterruptRemapping))
    }

    /// Whether entries have 128 bits, not 32.
    fn wide_entries(&self) -> bool {
        self.link.control().guest_apic()
    }

    /// The size of an entry in bytes.
    fn entry_size(&self) -> u64 {
        if self.wide_entries() { 16 } else { 4 }
    }

    fn make_interrupt_table(
        &mut self,
        requester: RequesterId,
        setup: InterruptSetup,
    ) -> Result<(), Error> {
        let place = PhysAddr(self.entry_of(requester)?.0 + 16);
        let order = order_of(u64::from(setup.entries()) * self.entry_size());
        let start = self.pages.allocate(order).ok_or(Error::OutOfMemory)?;
        let used = vec![false; setup.entries().into()];
        self.interrupt_tables
            .insert(requester.source_id(), InterruptTable { start, used });
        let word = InterruptWord::from_bits(self.link.memory.load(place)?)
            .with_valid(true)
            .with_control(InterruptControl::Remap as u8)
            .with_table_length(setup.length)
            .with_table_address(start);
        self.link.memory.store(place, word.into_bits())?;
        self.submit(&[Command::device(requester), Command::interrupts(requester)])
    }

    /// Where an allocated entry is.
    fn place(&self, index: InterruptIndex) -> Result<PhysAddr, Error> {
        let missing = Error::NoInterrupt(index);
        let table = self
            .interrupt_tables
            .get(&index.requester.source_id())
            .ok_or(missing)?;
        match table.used.get(usize::from(index.index)) {
            Some(true) => Ok(PhysAddr(
                table.start.0 + u64::from(index.index) * self.entry_size(),
            )),
            _ => Err(missing),
        }
    }

    /// Stores an entry of 32 bits; two share a word.
    fn store_narrow(
        &mut self,
        index: InterruptIndex,
        place: PhysAddr,
        entry: u32,
    ) -> Result<(), Error> {
        let word = PhysAddr(place.0 & !7);
        let shift = u32::from(index.index % 2) * 32;
        let others = self.link.memory.load(word)? & !(u64::from(u32::MAX) << shift);
        let new = others | u64::from(entry) << shift;
        Ok(self.link.memory.store(word, new)?)
    }
}

fn wide(interrupt: Interrupt, kind: u8) -> Irte128 {
    Irte128::new()
        .with_remap_enable(true)
        .with_interrupt_type(kind)
        .with_request_eoi(interrupt.trigger_mode == TriggerMode::Level)
        .with_logical(interrupt.destination_mode == DestinationMode::Logical)
        .with_destination(interrupt.destination)
        .with_vector(interrupt.vector)
}

fn narrow(interrupt: Interrupt, kind: u8) -> Irte32 {
    Irte32::new()
        .with_remap_enable(true)
        .with_interrupt_type(kind)
        .with_request_eoi(interrupt.trigger_mode == TriggerMode::Level)
        .with_logical(interrupt.destination_mode == DestinationMode::Logical)
        .with_destination(interrupt.destination as u8)
        .with_vector(interrupt.vector)
}
