//! Root and context tables, and the context cache (sections 3.4 and 6.2.2).

use vm_iommu_dma::unit::SpaceCache;
use vm_iommu_dma::{GuestRam, Space, TableView};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::PhysAddr;
use vm_iommu_spec::vtd::descriptor::ContextScope;
use vm_iommu_spec::vtd::registers::RootTableAddress;
use vm_iommu_spec::vtd::{Context, ContextEntry, FaultReason, RootEntry, TableRules};

/// What the tables say about one requester: the entries read, and what came of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContextLookup {
    /// The root entry and where it is, if it could be read.
    pub(crate) root: Option<(PhysAddr, RootEntry)>,
    /// The context entry and where it is, if it could be read.
    pub(crate) entry: Option<(PhysAddr, ContextEntry)>,
    /// The outcome.
    pub(crate) outcome: Result<Context, FaultReason>,
}

impl ContextLookup {
    /// Looks `source` up in the tables at `root` (section 3.4).
    pub(crate) fn new(
        ram: &GuestRam,
        root: RootTableAddress,
        source: u16,
        rules: &TableRules,
    ) -> Self {
        ram.tables(|tables| Self::read(tables, root, source, rules))
    }

    fn read(tables: &TableView, root: RootTableAddress, source: u16, rules: &TableRules) -> Self {
        let [bus, devfn] = source.to_be_bytes();
        let mut lookup = Self {
            root: None,
            entry: None,
            outcome: Err(FaultReason::RootTableAccess),
        };
        let Some((place, low, high)) = load(tables, root.address(), bus) else {
            return lookup;
        };
        let entry = RootEntry::from_words(low, high);
        lookup.root = Some((place, entry));
        let table = match entry.check(rules) {
            Ok(table) => table,
            Err(reason) => {
                lookup.outcome = Err(reason);
                return lookup;
            }
        };
        let Some((place, low, high)) = load(tables, table, devfn) else {
            lookup.outcome = Err(FaultReason::ContextTableAccess);
            return lookup;
        };
        let entry = ContextEntry::from_words(low, high);
        lookup.entry = Some((place, entry));
        lookup.outcome = entry.check(rules);
        lookup
    }

    /// Whether the context entry asks that faults are not recorded.
    pub(crate) fn fault_processing_disable(&self) -> bool {
        self.entry
            .is_some_and(|(_, entry)| entry.fault_processing_disable())
    }
}

/// Loads the 128-bit entry `index` of `table`.
fn load(tables: &TableView, table: PhysAddr, index: u8) -> Option<(PhysAddr, u64, u64)> {
    let place = table.checked_add(u64::from(index) * 16)?;
    let low = tables.load(place).ok()?;
    let high = tables.load(place.checked_add(8)?).ok()?;
    Some((place, low, high))
}

/// Whose space it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// Everybody's, while translation is disabled.
    Bypass,
    /// That of a source id.
    Source(u16),
}

/// The spaces of requesters. Tags of a domain: whether it passes through.
pub(crate) type ContextCache = SpaceCache<Owner, bool>;

/// Whether an invalidation of `scope` drops the space of `owner`.
pub(crate) fn is_doomed(scope: ContextScope, owner: Owner, space: &Space) -> bool {
    match (scope, owner) {
        (_, Owner::Bypass) => false,
        (ContextScope::Global, _) => true,
        (ContextScope::Domain(domain), _) => space.domain() == domain,
        (
            ContextScope::Device {
                source, ignored, ..
            },
            Owner::Source(id),
        ) => (id ^ source) & !ignored == 0,
    }
}

/// The source ids that are cached, in their order.
pub(crate) fn cached_sources(contexts: &ContextCache) -> Vec<u16> {
    let mut sources: Vec<u16> = contexts
        .owners()
        .into_iter()
        .filter_map(|owner| match owner {
            Owner::Source(source) => Some(source),
            Owner::Bypass => None,
        })
        .collect();
    sources.sort_unstable();
    sources
}
