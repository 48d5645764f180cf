//! Root and context entries: which requester uses which domain (sections 3.4 and 6.2).

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::{ContextEntry, RootEntry, TranslationType};
use vm_iommu_spec::{DomainId, PhysAddr, RequesterId};

use super::queue::Descriptor;
use super::{Error, Unit};
use crate::binding::Bindings;
use crate::{Pages, RegisterBus};

/// Size of a root entry and of a context entry in bytes.
const ENTRY: u64 = 16;

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// The domain of a requester; `None` if it is blocked.
    pub fn domain_of(&self, requester: RequesterId) -> Option<DomainId> {
        self.contexts.get(&requester.source_id()).copied()
    }

    /// Makes sure that the requester's bus has a context table, so that [`attach`](Self::attach)
    /// needs no memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and [`Error::BadAddress`]; then there is none.
    pub fn prepare(&mut self, requester: RequesterId) -> Result<(), Error> {
        self.context_place(requester).map(|_| ())
    }

    /// Gives back the context table of a bus of which no requester has a domain, if there is one.
    ///
    /// # Errors
    /// [`Error::BusInUse`], and what an invalidation may fail with; the table is then still there.
    pub fn retire_bus(&mut self, bus: u8) -> Result<(), Error> {
        let Some(table) = self.context_table(bus)? else {
            return Ok(());
        };
        let sources = u16::from_be_bytes([bus, 0])..=u16::from_be_bytes([bus, 0xff]);
        if self.contexts.range(sources).next().is_some() {
            return Err(Error::BusInUse(bus));
        }
        let entry = self.root_entry(bus);
        let low = self.link.memory.load(entry)?;
        self.link.memory.store(entry, 0)?;
        let forgotten = self.submit(&[Descriptor::all_contexts(), Descriptor::all_translations()]);
        if let Err(error) = forgotten {
            self.link.memory.store(entry, low)?;
            return Err(error);
        }
        self.pages.free(table, 0);
        Ok(())
    }

    /// Gives a requester a domain, in place of the one it has, if any. Between the two it is
    /// blocked. When this returns, no request of it uses the earlier one.
    ///
    /// # Errors
    /// [`Error::NoDomain`], [`Error::OutOfMemory`], and what an invalidation may fail with; the
    /// requester then has the domain that it had, as far as the unit still answers.
    pub fn attach(&mut self, requester: RequesterId, domain: DomainId) -> Result<(), Error> {
        let target = self.domains.get(&domain).ok_or(Error::NoDomain(domain))?;
        let entry = target.context_entry(domain, self.largest_width());
        let earlier = self.domain_of(requester);
        if earlier == Some(domain) {
            return Ok(());
        }
        let place = self.context_place(requester)?;
        self.replace(requester, place, domain, &entry.words(), earlier)
    }

    /// Blocks a requester. When this returns, no request of it uses the domain it had.
    ///
    /// # Errors
    /// What an invalidation may fail with; the requester then has the domain that it had, as far
    /// as the unit still answers.
    pub fn detach(&mut self, requester: RequesterId) -> Result<(), Error> {
        let Some(domain) = self.domain_of(requester) else {
            return Ok(());
        };
        let place = self.context_place(requester)?;
        self.clear(requester, place, domain)?;
        Ok(())
    }

    /// Where a requester's context entry is, in a table that is made if there is none.
    fn context_place(&mut self, requester: RequesterId) -> Result<PhysAddr, Error> {
        let table = match self.context_table(requester.bus())? {
            Some(table) => table,
            None => {
                let table = self.pages.allocate(0).ok_or(Error::OutOfMemory)?;
                let root = RootEntry::new()
                    .with_present(true)
                    .with_context_table(table);
                let [low, _] = root.words();
                let entry = self.root_entry(requester.bus());
                if let Err(error) = self.link.memory.store(entry, low) {
                    self.pages.free(table, 0);
                    return Err(error.into());
                }
                table
            }
        };
        Ok(place(table, requester.devfn()))
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

impl<B: RegisterBus, M: TableMemory, P: Pages> Bindings for Unit<B, M, P> {
    type Entry = [u64; 2];
    type Error = Error;

    fn load_entry(&self, place: PhysAddr) -> Result<[u64; 2], Error> {
        let memory = &self.link.memory;
        Ok([memory.load(place)?, memory.load(PhysAddr(place.0 + 8))?])
    }

    fn expel(
        &mut self,
        requester: RequesterId,
        place: PhysAddr,
        domain: DomainId,
    ) -> Result<(), Error> {
        self.contexts.remove(&requester.source_id());
        self.link.memory.store(place, 0)?;
        self.submit(&[
            Descriptor::context(requester, domain),
            Descriptor::domain(domain),
        ])?;
        self.link.memory.store(PhysAddr(place.0 + 8), 0)?;
        Ok(())
    }

    fn fill(
        &mut self,
        requester: RequesterId,
        place: PhysAddr,
        domain: DomainId,
        &[low, high]: &[u64; 2],
    ) -> Result<(), Error> {
        self.link.memory.store(PhysAddr(place.0 + 8), high)?;
        self.link.memory.store(place, low)?;
        // What a unit in caching mode cached of the absent entry, it tagged with domain 0.
        self.after_present(&[
            Descriptor::context(requester, DomainId(0)),
            Descriptor::domain(domain),
        ])?;
        self.contexts.insert(requester.source_id(), domain);
        Ok(())
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
