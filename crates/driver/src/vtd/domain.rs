//! Domains: what a requester's addresses translate to (sections 3.7 and 6.5.3).

use core::mem;

use vm_iommu_pagetable::{
    AttributeFlags, EditError, EditFailure, Editor, Invalidation, Levels, Mapping, SecondStage,
    SecondStageConfig, TableMemory, Walk, WalkFault, Walker,
};
use vm_iommu_spec::vtd::{ContextEntry, TranslationType};
use vm_iommu_spec::{Access, DomainId, Iova, PhysAddr};

use super::queue::Descriptor;
use super::{Error, Feature, Unit, context};
use crate::pages::Tables;
use crate::{Pages, RegisterBus};

/// What a domain does with requests.
#[derive(Debug)]
pub(super) enum Domain {
    /// Translates them.
    Translated {
        editor: Editor<SecondStage>,
        /// Whether accesses snoop the caches of processors whatever the device asks for.
        snoop: bool,
        /// Whether anything was ever mapped.
        mapped: bool,
    },
    /// Passes them through.
    PassThrough,
}

impl Domain {
    /// The context entry of a requester in this domain; `widest` is the largest AW field that
    /// the unit supports.
    pub(super) fn context_entry(&self, id: DomainId, widest: u8) -> ContextEntry {
        match self {
            Self::Translated { editor, .. } => {
                let width = editor.format().config().levels.agaw();
                context::entry(TranslationType::Untranslated, editor.root(), width, id)
            }
            Self::PassThrough => {
                context::entry(TranslationType::PassThrough, PhysAddr(0), widest, id)
            }
        }
    }
}

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// A new domain whose tables have `levels` levels and map nothing yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the unit has no such tables, [`Error::OutOfDomains`] and
    /// [`Error::OutOfMemory`].
    pub fn create_domain(&mut self, levels: Levels) -> Result<DomainId, Error> {
        if self.capability.adjusted_widths() & 1 << levels.agaw() == 0 {
            return Err(Error::Unsupported(Feature::Levels(levels.count())));
        }
        let id = self.unused_domain()?;
        let format = SecondStage::new(self.format(levels));
        let editor =
            Editor::create(format, &mut Tables(&mut self.pages)).ok_or(Error::OutOfMemory)?;
        let domain = Domain::Translated {
            editor,
            snoop: false,
            mapped: false,
        };
        self.domains.insert(id, domain);
        Ok(id)
    }

    /// A new domain that passes requests through untranslated.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the unit cannot, and [`Error::OutOfDomains`].
    pub fn create_pass_through_domain(&mut self) -> Result<DomainId, Error> {
        if !self.extended.pass_through() {
            return Err(Error::Unsupported(Feature::PassThrough));
        }
        let id = self.unused_domain()?;
        self.domains.insert(id, Domain::PassThrough);
        Ok(id)
    }

    /// Has accesses through a domain snoop the caches of processors, whatever the device asks for.
    /// Yields whether they do: not if the unit cannot, or something was mapped before.
    ///
    /// # Errors
    /// [`Error::NoDomain`] and [`Error::PassThrough`].
    pub fn enforce_snooping(&mut self, domain: DomainId) -> Result<bool, Error> {
        let controls = self.extended.snoop_control();
        match self.domains.get_mut(&domain) {
            None => Err(Error::NoDomain(domain)),
            Some(Domain::PassThrough) => Err(Error::PassThrough(domain)),
            Some(Domain::Translated { snoop, mapped, .. }) => {
                *snoop |= controls && !*mapped;
                Ok(*snoop)
            }
        }
    }

    /// Has the unit forget all translations of a domain.
    ///
    /// # Errors
    /// [`Error::NoDomain`], and what an invalidation may fail with.
    pub fn flush(&mut self, domain: DomainId) -> Result<(), Error> {
        if !self.domains.contains_key(&domain) {
            return Err(Error::NoDomain(domain));
        }
        self.submit(&[Descriptor::domain(domain)])?;
        if let Some(owed) = self.owed.remove(&domain) {
            owed.completed(&mut Tables(&mut self.pages));
        }
        Ok(())
    }

    /// Gives back a domain and its tables.
    ///
    /// # Errors
    /// [`Error::NoDomain`], [`Error::DomainInUse`], and what an invalidation may fail with; the
    /// domain then still exists.
    pub fn destroy_domain(&mut self, domain: DomainId) -> Result<(), Error> {
        if self.contexts.values().any(|used| *used == domain) {
            return Err(Error::DomainInUse(domain));
        }
        match self.domains.get(&domain) {
            None => return Err(Error::NoDomain(domain)),
            Some(Domain::PassThrough) => {}
            Some(Domain::Translated { editor, .. }) => {
                let width = editor.format().config().levels.address_width();
                self.unmap(domain, Iova(0), 1 << width)?;
            }
        }
        if let Some(Domain::Translated { editor, .. }) = self.domains.remove(&domain) {
            self.pages.free(editor.root(), 0);
        }
        Ok(())
    }

    /// Maps `length` bytes from `iova` to memory from `output`, all multiples of 4 KiB, with the
    /// largest pages that fit.
    ///
    /// # Errors
    /// [`Error::NoDomain`], [`Error::PassThrough`], [`Error::Edit`], and what an invalidation may
    /// fail with.
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
        let width = u32::from(self.capability.maximum_width()) + 1;
        if iova
            .last_byte(length)
            .is_some_and(|last| last.0.checked_shr(width).unwrap_or(0) != 0)
        {
            return Err(EditError::BeyondWidth { iova, length }.into());
        }
        if let Some(Domain::Translated { snoop, mapped, .. }) = self.domains.get_mut(&domain) {
            *mapped = true;
            mapping.attributes.flags.set(AttributeFlags::SNOOP, *snoop);
        }
        let mut done = false;
        let outcome = self.edit(domain, |editor, memory, pages| {
            let outcome = editor.map(memory, pages, &mapping);
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
    /// [`Error::NoDomain`], [`Error::PassThrough`], [`Error::Edit`], and what an invalidation may
    /// fail with.
    pub fn unmap(&mut self, domain: DomainId, iova: Iova, length: u64) -> Result<u64, Error> {
        self.edit(domain, |editor, memory, pages| {
            editor.unmap(memory, pages, iova, length)
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
        self.edit(domain, |editor, memory, pages| {
            editor.protect(memory, pages, iova, length, permissions)
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
        match self.domains.get(&domain) {
            None => Err(Error::NoDomain(domain)),
            Some(Domain::PassThrough) => Err(Error::PassThrough(domain)),
            Some(Domain::Translated { editor, .. }) => {
                let format = editor.format();
                Ok(format.probe(&self.link.memory, editor.root(), iova, access))
            }
        }
    }

    /// Edits the tables of a domain, invalidates what that calls for, and yields how many bytes
    /// it changed. If the edit failed, what it had done and undone is invalidated too.
    fn edit(
        &mut self,
        domain: DomainId,
        edit: impl FnOnce(
            &mut Editor<SecondStage>,
            &M,
            &mut Tables<'_, P>,
        ) -> Result<Invalidation, EditFailure>,
    ) -> Result<u64, Error> {
        let editor = match self.domains.get_mut(&domain) {
            None => return Err(Error::NoDomain(domain)),
            Some(Domain::PassThrough) => return Err(Error::PassThrough(domain)),
            Some(Domain::Translated { editor, .. }) => editor,
        };
        match edit(editor, &self.link.memory, &mut Tables(&mut self.pages)) {
            Ok(invalidation) => self.invalidate(domain, invalidation),
            Err(mut failure) => {
                let invalidation = mem::take(&mut failure.invalidation);
                self.invalidate(domain, invalidation)?;
                Err(failure.error.into())
            }
        }
    }

    /// Has the unit forget what an edit changed, and only then frees the tables that it retired.
    /// If the unit does not, that stays owed.
    fn invalidate(
        &mut self,
        domain: DomainId,
        mut invalidation: Invalidation,
    ) -> Result<u64, Error> {
        let bytes = invalidation.bytes();
        if let Some(owed) = self.owed.remove(&domain) {
            invalidation.merge(owed);
        }
        if let Err(error) = self.forget(domain, &invalidation) {
            self.owed.insert(domain, invalidation);
            return Err(error);
        }
        invalidation.completed(&mut Tables(&mut self.pages));
        Ok(bytes)
    }

    fn forget(&mut self, domain: DomainId, invalidation: &Invalidation) -> Result<(), Error> {
        let Some((first, last)) = invalidation.range() else {
            return Ok(());
        };
        if invalidation.removes() || invalidation.tables() {
            let leaves_only = !invalidation.tables();
            self.submit(&[self.selecting(domain, first, last, leaves_only)])
        } else {
            // New tables stand in entries that may be cached as absent, if any may.
            self.after_present(&[self.selecting(domain, first, last, false)])
        }
    }

    /// The smallest invalidation of the unit's that covers a range.
    fn selecting(
        &self,
        domain: DomainId,
        first: Iova,
        last: Iova,
        leaves_only: bool,
    ) -> Descriptor {
        let (page, mask) = covering(first, last);
        let selective = self.capability.page_selective_invalidation();
        if selective && mask <= self.capability.maximum_address_mask() {
            Descriptor::pages(domain, page, mask, leaves_only)
        } else {
            Descriptor::domain(domain)
        }
    }

    /// What tables of `levels` levels may hold on this unit.
    fn format(&self, levels: Levels) -> SecondStageConfig {
        let large_pages = self.capability.second_stage_large_pages();
        let mut config = SecondStageConfig::new(levels);
        config.two_mib_pages = large_pages & 1 != 0;
        config.one_gib_pages = large_pages & 2 != 0;
        config.host_address_width = self.host_address_width;
        config.snoop_control = self.extended.snoop_control();
        config
    }

    /// The lowest identifier that is not in use. 0 is never used: a unit in caching mode tags
    /// with it what it cached of absent entries.
    fn unused_domain(&self) -> Result<DomainId, Error> {
        let count = 1_u32 << (4 + 2 * self.capability.domains().min(6));
        (1..=(count - 1) as u16)
            .map(DomainId)
            .find(|id| !self.domains.contains_key(id))
            .ok_or(Error::OutOfDomains { count })
    }
}

/// The smallest power of two of pages, aligned to its size, that covers `first` to `last`: its
/// first address and the exponent.
fn covering(first: Iova, last: Iova) -> (Iova, u8) {
    let differing = (first.0 ^ last.0) >> 12;
    let mask = u64::BITS - differing.leading_zeros();
    (Iova(first.0 >> 12 >> mask << mask << 12), mask as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalidation_covers_its_range_and_no_more_than_alignment_asks_for() {
        for (first, last, page, mask) in [
            (0, 0xfff, 0, 0),
            (0x5000, 0x5fff, 0x5000, 0),
            (0x5000, 0x6fff, 0x4000, 2),
            (0x3000, 0x4fff, 0, 3),
            (0x20_0000, 0x3f_ffff, 0x20_0000, 9),
            (0, u64::MAX, 0, 52),
            (1 << 63, u64::MAX, 1 << 63, 51),
        ] {
            assert_eq!(
                covering(Iova(first), Iova(last)),
                (Iova(page), mask),
                "{first:#x}..={last:#x}"
            );
        }
    }
}
