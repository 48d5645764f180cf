//! Device table entries: which requester uses which domain (section 2.2.2).

use alloc::vec::Vec;

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::{DeviceTableEntry, DmaWord, InterruptControl, InterruptWord};
use vm_iommu_spec::{DomainId, PhysAddr, RequesterId};

use super::command::Command;
use super::{Error, Unit};
use crate::binding::Bindings;
use crate::{Pages, RegisterBus};

/// What concerns memory in the entry of a blocked requester: nothing is permitted.
pub(super) const BLOCKED: DmaWord = DmaWord::new().with_valid(true).with_translation_valid(true);

/// What concerns interrupts in the entry of a requester without an interrupt remapping table:
/// none passes.
pub(super) const NO_INTERRUPTS: InterruptWord = InterruptWord::new()
    .with_valid(true)
    .with_control(InterruptControl::Abort as u8);

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// The domain of a requester; `None` if it is blocked.
    pub fn domain_of(&self, requester: RequesterId) -> Option<DomainId> {
        self.attached.get(&requester.source_id()).copied()
    }

    /// Gives a requester a domain, in place of the one it has, if any. Between the two it is
    /// blocked. When this returns, no request of it uses the earlier one.
    ///
    /// # Errors
    /// [`Error::NoDomain`], [`Error::BeyondDeviceTable`], and what a command may fail with; the
    /// requester then has the domain that it had, as far as the unit still answers.
    pub fn attach(&mut self, requester: RequesterId, domain: DomainId) -> Result<(), Error> {
        let target = self.domains.get(&domain).ok_or(Error::NoDomain(domain))?;
        let entry = target.entry(domain);
        let place = self.entry_of(requester)?;
        let earlier = self.domain_of(requester);
        if earlier == Some(domain) {
            return Ok(());
        }
        self.replace(requester, place, domain, &entry, earlier)
    }

    /// Blocks a requester. When this returns, no request of it uses the domain it had.
    ///
    /// # Errors
    /// What a command may fail with; the requester then has the domain that it had, as far as the
    /// unit still answers.
    pub fn detach(&mut self, requester: RequesterId) -> Result<(), Error> {
        let Some(domain) = self.domain_of(requester) else {
            return Ok(());
        };
        let place = self.entry_of(requester)?;
        self.clear(requester, place, domain)?;
        Ok(())
    }

    /// Writes what the domain's tables became into the entries of its requesters.
    pub(super) fn update_entries(&mut self, domain: DomainId) -> Result<(), Error> {
        let target = self.domains.get(&domain).ok_or(Error::NoDomain(domain))?;
        let [dma, ..] = target.entry(domain).words();
        let requesters: Vec<RequesterId> = self
            .attached
            .iter()
            .filter(|(_, used)| **used == domain)
            .map(|(source, _)| RequesterId::from_source_id(0, *source))
            .collect();
        for requester in &requesters {
            // Mode and root change at once: both are in this word.
            self.link.memory.store(self.entry_of(*requester)?, dma)?;
        }
        let commands: Vec<Command> = requesters.iter().map(|r| Command::device(*r)).collect();
        self.submit(&commands)
    }

    /// Where a requester's entry is.
    pub(super) fn entry_of(&self, requester: RequesterId) -> Result<PhysAddr, Error> {
        let index = u32::from(requester.source_id());
        if index >= self.devices {
            return Err(Error::BeyondDeviceTable(requester));
        }
        let offset = u64::from(index) * DeviceTableEntry::SIZE;
        Ok(PhysAddr(self.device_table.0 + offset))
    }
}

impl<B: RegisterBus, M: TableMemory, P: Pages> Bindings for Unit<B, M, P> {
    type Entry = DeviceTableEntry;
    type Error = Error;

    fn load_entry(&self, place: PhysAddr) -> Result<DeviceTableEntry, Error> {
        let mut words = [0; 4];
        for (number, word) in (0..).zip(&mut words) {
            *word = self.link.memory.load(PhysAddr(place.0 + number * 8))?;
        }
        Ok(DeviceTableEntry::from_words(words))
    }

    fn expel(
        &mut self,
        requester: RequesterId,
        place: PhysAddr,
        domain: DomainId,
    ) -> Result<(), Error> {
        self.attached.remove(&requester.source_id());
        self.link.memory.store(place, BLOCKED.into_bits())?;
        self.submit(&[Command::device(requester), Command::domain(domain)])?;
        self.link.memory.store(PhysAddr(place.0 + 8), 0)?;
        Ok(())
    }

    /// What concerns interrupts stays, but for the guest paging mode. A unit that reads the entry
    /// meanwhile finds it blocking, or whole.
    fn fill(
        &mut self,
        requester: RequesterId,
        place: PhysAddr,
        domain: DomainId,
        entry: &DeviceTableEntry,
    ) -> Result<(), Error> {
        let [dma, second, ..] = entry.words();
        let word = |number: u64| PhysAddr(place.0 + number * 8);
        let interrupts = InterruptWord::from_bits(self.link.memory.load(word(2))?)
            .with_guest_paging_mode(entry.interrupt.guest_paging_mode());
        self.link.memory.store(word(1), second)?;
        self.link.memory.store(word(2), interrupts.into_bits())?;
        self.link.memory.store(word(0), dma)?;
        self.submit(&[Command::device(requester), Command::domain(domain)])?;
        self.attached.insert(requester.source_id(), domain);
        Ok(())
    }
}
