//! How a requester comes to have another domain, whatever the unit's entries look like: the entry
//! is taken away first, then the other one is written; and what fails is undone.

use vm_iommu_spec::{DomainId, PhysAddr, RequesterId};

/// How often an entry that must not stay is taken away.
const EXPULSIONS: usize = 2;

/// A unit's entries by requester.
pub(crate) trait Bindings {
    /// What an entry says of memory.
    type Entry;
    /// What a store or an invalidation may fail with.
    type Error;

    /// The entry at a place.
    fn load_entry(&self, place: PhysAddr) -> Result<Self::Entry, Self::Error>;

    /// Has the entry block, and the unit forget what it was.
    fn expel(
        &mut self,
        requester: RequesterId,
        place: PhysAddr,
        domain: DomainId,
    ) -> Result<(), Self::Error>;

    /// Writes an entry in the place of one that blocks: last the word that lets requests pass.
    fn fill(
        &mut self,
        requester: RequesterId,
        place: PhysAddr,
        domain: DomainId,
        entry: &Self::Entry,
    ) -> Result<(), Self::Error>;

    /// Has the entry block, the unit forget it, and yields what it was. If that fails it is as it
    /// was, or else blocks.
    fn clear(
        &mut self,
        requester: RequesterId,
        place: PhysAddr,
        domain: DomainId,
    ) -> Result<Self::Entry, Self::Error> {
        let entry = self.load_entry(place)?;
        if let Err(error) = self.expel(requester, place, domain) {
            if self.fill(requester, place, domain, &entry).is_err() {
                // Half of it may be there.
                let _ = self.expel(requester, place, domain);
            }
            return Err(error);
        }
        Ok(entry)
    }

    /// Puts the entry of `domain` in the place of that of `earlier`, if there is one. If that fails
    /// the requester has `earlier` again, or is blocked if that fails as well.
    fn replace(
        &mut self,
        requester: RequesterId,
        place: PhysAddr,
        domain: DomainId,
        entry: &Self::Entry,
        earlier: Option<DomainId>,
    ) -> Result<(), Self::Error> {
        let earlier = match earlier {
            Some(earlier) => Some((earlier, self.clear(requester, place, earlier)?)),
            None => None,
        };
        let outcome = self.fill(requester, place, domain, entry);
        if outcome.is_err() {
            let blocks = (0..EXPULSIONS).any(|_| self.expel(requester, place, domain).is_ok());
            if let Some((earlier, entry)) = earlier
                && blocks
                && self.fill(requester, place, earlier, &entry).is_err()
            {
                // Half of it may be there.
                let _ = self.expel(requester, place, earlier);
            }
        }
        outcome
    }
}
