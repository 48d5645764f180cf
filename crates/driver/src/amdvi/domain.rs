//! Domains: what a requester's addresses translate to (sections 2.2.3 and 2.2.6).

use core::mem;

use vm_iommu_pagetable::{
    AmdV1, AmdV1Config, AttributeFlags, EditFailure, Editable, Editor, Invalidation, Levels,
    Mapping, TableMemory, Walk, WalkFault, Walker, X86_64, X86_64Config,
};
use vm_iommu_spec::amd::{DeviceTableEntry, DmaWord, DomainWord, GuestCr3Entry, InterruptWord};
use vm_iommu_spec::{Access, DomainId, Iova, PhysAddr};

use super::command::Command;
use super::device::BLOCKED;
use super::{Error, Feature, Unit};
use crate::pages::{Reserved, Tables};
use crate::{Pages, RegisterBus};

/// What a domain does with requests.
#[derive(Debug)]
pub(super) enum Domain {
    /// Translates them by host tables.
    Host(Editor<AmdV1>),
    /// Translates them by the guest tables of PASID 0.
    Guest {
        tables: Editor<X86_64>,
        cr3_table: PhysAddr,
    },
    /// Passes them through.
    PassThrough,
}

impl Domain {
    /// What concerns memory in the entry of a requester in this domain.
    pub(super) fn entry(&self, id: DomainId) -> DeviceTableEntry {
        let dma = BLOCKED.with_read(true).with_write(true);
        let of = |dma: DmaWord| DeviceTableEntry {
            dma,
            domain: DomainWord::new().with_domain(id.0),
            ..DeviceTableEntry::default()
        };
        match self {
            Self::PassThrough => of(dma),
            Self::Host(tables) => of(dma
                .with_mode(tables.format().config().levels)
                .with_host_tables(tables.root())),
            Self::Guest { tables, cr3_table } => {
                let levels = tables.format().config().levels.count();
                DeviceTableEntry {
                    interrupt: InterruptWord::new()
                        .with_guest_paging_mode(levels.saturating_sub(4)),
                    ..of(dma.with_guest_valid(true).with_guest_io_valid(true))
                }
                .with_guest_cr3_table(*cr3_table)
            }
        }
    }
}

/// The edits of tables of either format.
trait Edits<M, P> {
    fn map(&mut self, memory: &M, pages: &mut Tables<'_, P>, mapping: &Mapping) -> Edited;
    fn unmap(&mut self, memory: &M, pages: &mut Tables<'_, P>, iova: Iova, length: u64) -> Edited;
    fn protect(
        &mut self,
        memory: &M,
        pages: &mut Tables<'_, P>,
        range: (Iova, u64),
        permissions: Access,
    ) -> Edited;
}

type Edited = Result<Invalidation, EditFailure>;

impl<F: Editable, M: TableMemory, P: Pages> Edits<M, P> for Editor<F> {
    fn map(&mut self, memory: &M, pages: &mut Tables<'_, P>, mapping: &Mapping) -> Edited {
        self.map(memory, pages, mapping)
    }

    fn unmap(&mut self, memory: &M, pages: &mut Tables<'_, P>, iova: Iova, length: u64) -> Edited {
        self.unmap(memory, pages, iova, length)
    }

    fn protect(
        &mut self,
        memory: &M,
        pages: &mut Tables<'_, P>,
        (iova, length): (Iova, u64),
        permissions: Access,
    ) -> Edited {
        self.protect(memory, pages, iova, length, permissions)
    }
}

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// A new domain whose host tables have `levels` levels, 1 to 6, and map nothing yet. They grow
    /// when something is mapped beyond their reach.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the unit has no such tables, [`Error::OutOfDomains`] and
    /// [`Error::OutOfMemory`].
    pub fn create_domain(&mut self, levels: u8) -> Result<DomainId, Error> {
        if levels == 0 || levels > self.host_levels() {
            return Err(Error::Unsupported(Feature::HostLevels(levels)));
        }
        let id = self.unused_domain()?;
        let mut config = AmdV1Config::new(levels);
        config.host_address_width = self.physical_address_width;
        let tables = Editor::create(AmdV1::new(config), &mut Tables(&mut self.pages))
            .ok_or(Error::OutOfMemory)?;
        self.domains.insert(id, Domain::Host(tables));
        Ok(id)
    }

    /// A new domain whose requests, which have no PASID, are translated by guest tables of
    /// `levels` levels, four or five; they map nothing yet.
    ///
    /// # Errors
    /// As [`create_domain`](Self::create_domain).
    pub fn create_guest_domain(&mut self, levels: Levels) -> Result<DomainId, Error> {
        let count = levels.count();
        let features = self.feature;
        if !features.guest_translation()
            || !features.guest_io()
            || !(4..=features.guest_levels() + 4).contains(&count)
        {
            return Err(Error::Unsupported(Feature::GuestLevels(count)));
        }
        let id = self.unused_domain()?;
        let mut reserved = Reserved::new(&mut self.pages);
        let cr3_table = reserved.take(0).ok_or(Error::OutOfMemory)?;
        let root = reserved.take(0).ok_or(Error::OutOfMemory)?;
        let entry = GuestCr3Entry::new().with_valid(true).with_address(root);
        self.link.memory.store(cr3_table, entry.into_bits())?;
        reserved.keep();
        let mut config = X86_64Config::new(levels);
        config.host_address_width = self.physical_address_width;
        let tables = Editor::new(X86_64::new(config), root);
        self.domains.insert(id, Domain::Guest { tables, cr3_table });
        Ok(id)
    }

    /// A new domain that passes requests through untranslated.
    ///
    /// # Errors
    /// [`Error::OutOfDomains`].
    pub fn create_pass_through_domain(&mut self) -> Result<DomainId, Error> {
        let id = self.unused_domain()?;
        self.domains.insert(id, Domain::PassThrough);
        Ok(id)
    }

    /// Gives back a domain and its tables.
    ///
    /// # Errors
    /// [`Error::NoDomain`], [`Error::DomainInUse`], and what a command may fail with; the domain
    /// then still exists.
    pub fn destroy_domain(&mut self, domain: DomainId) -> Result<(), Error> {
        if self.attached.values().any(|used| *used == domain) {
            return Err(Error::DomainInUse(domain));
        }
        // What 64-bit addresses reach, or of guest tables both canonical halves.
        let halves: &[(u64, u64)] = match self.domains.get(&domain) {
            None => return Err(Error::NoDomain(domain)),
            Some(Domain::PassThrough) => &[],
            Some(Domain::Host(tables)) => match tables.format().config().levels {
                levels @ 1..=5 => &[(0, 1 << (12 + 9 * levels))],
                _ => &[(0, 1 << 63), (1 << 63, 1 << 63)],
            },
            Some(Domain::Guest { tables, .. }) => {
                let half = 1 << (tables.format().config().levels.address_width() - 1);
                &[(0, half), (0_u64.wrapping_sub(half), half)]
            }
        };
        for (first, length) in halves {
            self.unmap(domain, Iova(*first), *length)?;
        }
        match self.domains.remove(&domain) {
            Some(Domain::Host(tables)) => self.pages.free(tables.root(), 0),
            Some(Domain::Guest { tables, cr3_table }) => {
                self.pages.free(tables.root(), 0);
                self.pages.free(cr3_table, 0);
            }
            Some(Domain::PassThrough) | None => {}
        }
        Ok(())
    }

    /// Maps `length` bytes from `iova` to memory from `output`, all multiples of 4 KiB, with the
    /// largest pages that fit. Host tables that do not reach so far grow.
    ///
    /// # Errors
    /// [`Error::NoDomain`], [`Error::PassThrough`], [`Error::Edit`], and what a command may fail
    /// with.
    pub fn map(
        &mut self,
        domain: DomainId,
        iova: Iova,
        output: PhysAddr,
        length: u64,
        permissions: Access,
    ) -> Result<(), Error> {
        self.map_limited(domain, Mapping::new(iova, output, length, permissions))
    }

    /// As [`map`](Self::map), with pages as large as `mapping` allows. Its attributes are the
    /// driver's to set.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn map_limited(&mut self, domain: DomainId, mut mapping: Mapping) -> Result<(), Error> {
        let Mapping { iova, length, .. } = mapping;
        self.grow(domain, iova, length)?;
        // Requests without PASID have user privilege, which guest tables tell; what host tables
        // lead to is always coherent.
        mapping.attributes.flags = AttributeFlags::USER | AttributeFlags::SNOOP;
        let mut done = false;
        let outcome = self.edit(domain, |tables, memory, pages| {
            let outcome = tables.map(memory, pages, &mapping);
            done = outcome.is_ok();
            outcome
        });
        if outcome.is_err() && done {
            // It is mapped, but the unit does not know.
            let _ = self.unmap(domain, iova, length);
        }
        outcome.map(|_| ())
    }

    /// Unmaps what is mapped of `length` bytes from `iova`, and yields how many bytes that were.
    /// When this returns, no request uses what was mapped.
    ///
    /// # Errors
    /// [`Error::NoDomain`], [`Error::PassThrough`], [`Error::Edit`], and what a command may fail
    /// with.
    pub fn unmap(&mut self, domain: DomainId, iova: Iova, length: u64) -> Result<u64, Error> {
        self.edit(domain, |tables, memory, pages| {
            tables.unmap(memory, pages, iova, length)
        })
    }

    /// Changes the permissions of what is mapped of `length` bytes from `iova`, and yields how
    /// many bytes changed. When this returns, no request uses the earlier permissions.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap).
    pub fn protect(
        &mut self,
        domain: DomainId,
        iova: Iova,
        length: u64,
        permissions: Access,
    ) -> Result<u64, Error> {
        self.edit(domain, |tables, memory, pages| {
            tables.protect(memory, pages, (iova, length), permissions)
        })
    }

    /// What the tables of a domain say about an access, without a look at what is cached.
    ///
    /// # Errors
    /// [`Error::NoDomain`] and [`Error::PassThrough`]; the inner error is what the tables refuse.
    pub fn walk(
        &self,
        domain: DomainId,
        iova: Iova,
        access: Access,
    ) -> Result<Result<Walk, WalkFault>, Error> {
        let memory = &self.link.memory;
        Ok(match self.domains.get(&domain) {
            None => return Err(Error::NoDomain(domain)),
            Some(Domain::PassThrough) => return Err(Error::PassThrough(domain)),
            Some(Domain::Host(tables)) => {
                tables.format().probe(memory, tables.root(), iova, access)
            }
            Some(Domain::Guest { tables, .. }) => {
                tables.format().probe(memory, tables.root(), iova, access)
            }
        })
    }

    /// Puts levels on top of a domain's host tables until they translate all of a range, and has
    /// its requesters use them, if the unit can.
    fn grow(&mut self, domain: DomainId, iova: Iova, length: u64) -> Result<(), Error> {
        let most = self.host_levels();
        let Some(Domain::Host(tables)) = self.domains.get_mut(&domain) else {
            return Ok(());
        };
        let Some(last) = iova.last_byte(length) else {
            return Ok(());
        };
        let reaches = |levels: u8| last.0.checked_shr(12 + 9 * u32::from(levels)).unwrap_or(0) == 0;
        let before = tables.format().config().levels;
        let mut grown = Ok(());
        while !reaches(tables.format().config().levels)
            && tables.format().config().levels < most
            && grown.is_ok()
        {
            grown = tables.grow(&self.link.memory, &mut Tables(&mut self.pages));
        }
        if tables.format().config().levels != before {
            self.update_entries(domain)?;
        }
        Ok(grown?)
    }

    /// Edits the tables of a domain, invalidates what that calls for, and yields how many bytes
    /// it changed. If the edit failed, what it had done and undone is invalidated too.
    fn edit(
        &mut self,
        domain: DomainId,
        edit: impl FnOnce(&mut dyn Edits<M, P>, &M, &mut Tables<'_, P>) -> Edited,
    ) -> Result<u64, Error> {
        let (tables, guest): (&mut dyn Edits<M, P>, bool) = match self.domains.get_mut(&domain) {
            None => return Err(Error::NoDomain(domain)),
            Some(Domain::PassThrough) => return Err(Error::PassThrough(domain)),
            Some(Domain::Host(tables)) => (tables, false),
            Some(Domain::Guest { tables, .. }) => (tables, true),
        };
        match edit(tables, &self.link.memory, &mut Tables(&mut self.pages)) {
            Ok(invalidation) => self.invalidate(domain, guest, invalidation),
            Err(mut failure) => {
                let invalidation = mem::take(&mut failure.invalidation);
                self.invalidate(domain, guest, invalidation)?;
                Err(failure.error.into())
            }
        }
    }

    /// Has the unit forget what an edit changed, and only then frees the tables that it retired.
    /// If the unit does not, that stays owed.
    fn invalidate(
        &mut self,
        domain: DomainId,
        guest: bool,
        mut invalidation: Invalidation,
    ) -> Result<u64, Error> {
        let bytes = invalidation.bytes();
        if let Some(owed) = self.owed.remove(&domain) {
            invalidation.merge(owed);
        }
        if let Err(error) = self.forget(domain, guest, &invalidation) {
            self.owed.insert(domain, invalidation);
            return Err(error);
        }
        invalidation.completed(&mut Tables(&mut self.pages));
        Ok(bytes)
    }

    fn forget(
        &mut self,
        domain: DomainId,
        guest: bool,
        invalidation: &Invalidation,
    ) -> Result<(), Error> {
        let changes = invalidation.removes() || invalidation.tables();
        if let Some((first, last)) = invalidation.range()
            && (changes || self.np_cache)
        {
            // New tables stand in entries that may be cached as not present, if any may.
            let directories = invalidation.tables() || !changes;
            self.submit(&[Command::pages(domain, guest, &(first..=last), directories)])?;
        }
        Ok(())
    }

    /// Has the unit forget all translations of a domain.
    ///
    /// # Errors
    /// [`Error::NoDomain`], and what a command may fail with.
    pub fn flush(&mut self, domain: DomainId) -> Result<(), Error> {
        if !self.domains.contains_key(&domain) {
            return Err(Error::NoDomain(domain));
        }
        self.submit(&[Command::domain(domain)])?;
        if let Some(owed) = self.owed.remove(&domain) {
            owed.completed(&mut Tables(&mut self.pages));
        }
        Ok(())
    }

    /// The most levels of host tables that the unit has; 0 if it has none.
    pub(super) fn host_levels(&self) -> u8 {
        match self.feature.host_levels() {
            3 => 0,
            more => 4 + more,
        }
    }

    /// The lowest identifier that is not in use. 0 is never used: it is that of devices without a
    /// domain.
    fn unused_domain(&self) -> Result<DomainId, Error> {
        (1..=u16::MAX)
            .map(DomainId)
            .find(|id| !self.domains.contains_key(id))
            .ok_or(Error::OutOfDomains)
    }
}
