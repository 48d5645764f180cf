//! The event log (section 2.5).

use alloc::vec::Vec;

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::PhysAddr;
use vm_iommu_spec::amd::EventEntry;
use vm_iommu_spec::amd::registers::{RingBase, Status, offset};

use super::link::Link;
use super::{Error, Unit, Wait};
use crate::{Pages, RegisterBus};

/// What the unit logged since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The entries, the oldest first.
    pub entries: Vec<EventEntry>,
    /// Events were lost, because the log was full.
    pub overflow: bool,
}

/// The event log in memory.
#[derive(Debug)]
pub(super) struct EventLog {
    base: PhysAddr,
    length: u8,
    /// The offset of the next entry to be read, in bytes.
    head: u32,
}

impl EventLog {
    /// A log of `1 << length` entries at `base`, 8 to 15.
    pub(super) fn new(base: PhysAddr, length: u8) -> Self {
        Self {
            base,
            length,
            head: 0,
        }
    }

    /// Makes it the unit's event log.
    pub(super) fn enable<B: RegisterBus, M: TableMemory>(&mut self, link: &mut Link<B, M>) {
        let base = RingBase::new()
            .with_address(self.base)
            .with_length(self.length);
        link.bus.write64(offset::EVENT_LOG, base.into_bits());
        self.restart(link);
    }

    pub(super) fn base(&self) -> PhysAddr {
        self.base
    }

    fn restart<B: RegisterBus, M: TableMemory>(&mut self, link: &mut Link<B, M>) {
        link.reset_ring(offset::EVENT_HEAD, offset::EVENT_TAIL);
        self.head = 0;
        link.set_control(|control| control.with_event_log(true));
    }

    /// Bytes of the log.
    fn size(&self) -> u32 {
        (EventEntry::SIZE as u32) << self.length
    }

    fn take<B: RegisterBus, M: TableMemory>(
        &mut self,
        link: &mut Link<B, M>,
    ) -> Result<Events, Error> {
        let status = Status::from_bits_retain(u64::from(link.bus.read32(offset::STATUS)));
        let overflow = status.contains(Status::EVENT_OVERFLOW);
        if status.contains(Status::EVENT_INTERRUPT) {
            // Before the look at the log: what is logged after it raises another interrupt.
            link.bus
                .write32(offset::STATUS, Status::EVENT_INTERRUPT.bits() as u32);
        }
        let mut events = Events {
            entries: Vec::new(),
            overflow,
        };
        let tail = link.bus.read32(offset::EVENT_TAIL) & (self.size() - 1);
        while self.head != tail {
            let place = PhysAddr(self.base.0 + u64::from(self.head));
            let (low, high) = (place, PhysAddr(place.0 + 8));
            let entry = EventEntry::from_words(link.memory.load(low)?, link.memory.load(high)?);
            events.entries.push(entry);
            // The log may not be written in order: an entry is there once it is not zero.
            link.memory.store(low, 0)?;
            link.memory.store(high, 0)?;
            self.head = (self.head + EventEntry::SIZE as u32) & (self.size() - 1);
        }
        link.bus.write32(offset::EVENT_HEAD, self.head);
        if overflow {
            link.set_control(|control| control.with_event_log(false));
            link.wait_stopped(Status::EVENT_RUN, Wait::EventsStopped)?;
            link.bus
                .write32(offset::STATUS, Status::EVENT_OVERFLOW.bits() as u32);
            self.restart(link);
        }
        Ok(events)
    }
}

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// Takes the logged events and makes their entries free again.
    ///
    /// # Errors
    /// [`Error::Stuck`] and [`Error::BadAddress`].
    pub fn take_events(&mut self) -> Result<Events, Error> {
        self.events.take(&mut self.link)
    }
}
