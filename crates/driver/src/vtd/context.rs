//! Root and context entries: which requester uses which domain (sections 3.4 and 6.2).

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::{ContextEntry, RootEntry, TranslationType};
use vm_iommu_spec::{DomainId, PhysAddr, RequesterId};

use super::queue::Descriptor;
use super::{Error, Unit};
use crate::{Pages, RegisterBus};

/// Size of a root entry and of a context entry in bytes.
const ENTRY: u64 = 16;

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// The domain of a requester; `None` if it is blocked.
    pub fn domain_of(&self, requester: RequesterId) -> Option<DomainId> {
        self.contexts.get(&requester.source_id()).copied()
    }

    /// Gives a requester a domain, in place of the one it has, if any. Between the two it is
    /// blocked. When this returns, no request of it uses the earlier one.
    ///
    /// # Errors
    /// [`Error::NoDomain`], [`Error::OutOfMemory`], and what an invalidation may fail with; if
    /// that happened to the invalidation for the earlier domain, the requester is blocked.
    pub fn attach(&mut self, requester: RequesterId, domain: DomainId) -> Result<(), Error> {
        let target = self.domains.get(&domain).ok_or(Error::NoDomain(domain))?;
        let entry = target.context_entry(domain, self.largest_width());
        if self.domain_of(requester) == Some(domain) {
            return Ok(());
        }
        let table = self.context_table(requester.bus())?;
        let (table, new) = match table {
            Some(table) => (table, false),
            None => (self.pages.allocate(0).ok_or(Error::OutOfMemory)?, true),
        };
        if !new {
            self.detach(requester)?;
        }
        let [low, high] = entry.words();
        let place = place(table, requester.devfn());
        self.link.memory.store(PhysAddr(place.0 + 8), high)?;
        self.link.memory.store(place, low)?;
        if new {
            let root = RootEntry::new()
                .with_present(true)
                .with_context_table(table);
            let [low, _] = root.words();
            let place = self.root_entry(requester.bus());
            self.link.memory.store(place, low)?;
        }
        self.contexts.insert(requester.source_id(), domain);
        // What a unit in caching mode cached of the absent entry, it tagged with domain 0.
        self.after_present(&[
            Descriptor::context(requester, DomainId(0)),
            Descriptor::domain(domain),
        ])
    }

    /// Blocks a requester. When this returns, no request of it uses the domain it had.
    ///
    /// # Errors
    /// What an invalidation may fail with; the entry is then absent, but may still be cached.
    pub fn detach(&mut self, requester: RequesterId) -> Result<(), Error> {
        let Some(domain) = self.domain_of(requester) else {
            return Ok(());
        };
        let Some(table) = self.context_table(requester.bus())? else {
            return Ok(());
        };
        let place = place(table, requester.devfn());
        self.link.memory.store(place, 0)?;
        self.submit(&[
            Descriptor::context(requester, domain),
            Descriptor::domain(domain),
        ])?;
        self.link.memory.store(PhysAddr(place.0 + 8), 0)?;
        self.contexts.remove(&requester.source_id());
        Ok(())
    }

    fn context_table(&self, bus: u8) -> Result<Option<PhysAddr>, Error> {
        let low = self.link.memory.load(self.root_entry(bus))?;
        let entry = RootEntry::from_words(low, 0);
        Ok(entry.present().then(|| entry.context_table()))
    }

    fn root_entry(&self, bus: u8) -> PhysAddr {
        PhysAddr(self.root.0 + u64::from(bus) * ENTRY)
    }

    /// The AW field for the widest tables that the unit supports, 0 if it supports none.
    fn largest_width(&self) -> u8 {
        let widths = self.capability.adjusted_widths() & 0b1110;
        widths.checked_ilog2().unwrap_or(0) as u8
    }
}

fn place(table: PhysAddr, devfn: u8) -> PhysAddr {
    PhysAddr(table.0 + u64::from(devfn) * ENTRY)
}

/// An entry of type [`TranslationType::Untranslated`] or [`TranslationType::PassThrough`].
pub(super) fn entry(
    translation_type: TranslationType,
    tables: PhysAddr,
    width: u8,
    domain: DomainId,
) -> ContextEntry {
    ContextEntry::new()
        .with_present(true)
        .with_translation_type(translation_type)
        .with_tables(tables)
        .with_address_width(width)
        .with_domain(domain.0)
}
