use vm_iommu_pagetable::{Levels, TableMemory};
use vm_iommu_spec::vtd::{Context, ContextEntry, RootEntry, TableRules, TranslationType};
use vm_iommu_spec::{Access, DomainId, Iova, PhysAddr, RequesterId};

use super::bench::{Bench, Driver};
use crate::vtd::{Error, Feature};

const DEVICE: RequesterId = RequesterId::from_source_id(0, 0x0118);

const RULES: TableRules = TableRules {
    host_address_width: 52,
    adjusted_widths: 0b0110,
    pass_through: true,
    device_tlb: false,
};

/// What the unit finds for a requester.
fn context(bench: &Bench, unit: &Driver<'_>, requester: RequesterId) -> Option<Context> {
    let words = |at: u64| [at, at + 8].map(|at| bench.memory.load(PhysAddr(at)).unwrap());
    let [low, high] = words(unit.root_table().0 + u64::from(requester.bus()) * 16);
    let table = RootEntry::from_words(low, high).check(&RULES).ok()?;
    let [low, high] = words(table.0 + u64::from(requester.devfn()) * 16);
    ContextEntry::from_words(low, high).check(&RULES).ok()
}

#[test]
fn an_attached_requester_has_the_tables_of_its_domain() {
    let bench = Bench::new();
    let mut unit = bench.start();
    for (levels, count) in [(Levels::Three, 3), (Levels::Four, 4)] {
        let domain = unit.create_domain(levels).unwrap();
        unit.attach(DEVICE, domain).unwrap();
        let context = context(&bench, &unit, DEVICE).unwrap();
        assert_eq!(context.domain, domain);
        assert_eq!(context.levels, count);
        assert_eq!(context.translation_type, TranslationType::Untranslated);
        assert_eq!(unit.domain_of(DEVICE), Some(domain));
    }
}

#[test]
fn pass_through_uses_the_widest_tables_field() {
    let bench = Bench::new();
    bench
        .extended
        .set(bench.extended.get().with_pass_through(true));
    let mut unit = bench.start();
    let domain = unit.create_pass_through_domain().unwrap();
    unit.attach(DEVICE, domain).unwrap();
    let context = context(&bench, &unit, DEVICE).unwrap();
    assert_eq!(context.translation_type, TranslationType::PassThrough);
    assert_eq!(
        unit.map(domain, Iova(0), PhysAddr(0), 4096, Access::READ),
        Err(Error::PassThrough(domain))
    );
}

#[test]
fn a_first_attachment_needs_no_invalidation() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let domain = unit.create_domain(Levels::Four).unwrap();
    unit.attach(DEVICE, domain).unwrap();
    assert_eq!(bench.events(), []);
}

#[test]
fn in_caching_mode_what_was_cached_of_the_absent_entry_is_dropped() {
    let bench = Bench::new();
    bench
        .capability
        .set(bench.capability.get().with_caching_mode(true));
    let mut unit = bench.start();
    let domain = unit.create_domain(Levels::Four).unwrap();
    unit.attach(DEVICE, domain).unwrap();
    assert_eq!(
        bench.invalidations(),
        [(0x118_0000_0031, 0), (0x1_00e2, 0)],
        "context entry of domain 0, then the domain's translations"
    );
}

#[test]
fn detaching_drops_the_context_entry_and_then_the_translations() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let first = unit.create_domain(Levels::Four).unwrap();
    let second = unit.create_domain(Levels::Four).unwrap();
    assert_eq!([first, second], [DomainId(1), DomainId(2)]);
    unit.attach(DEVICE, first).unwrap();
    unit.attach(DEVICE, second).unwrap();
    let of_first = [(0x118_0001_0031, 0), (0x1_00e2, 0)];
    assert_eq!(bench.invalidations(), of_first);
    unit.detach(DEVICE).unwrap();
    let of_second = [(0x118_0002_0031, 0), (0x2_00e2, 0)];
    assert_eq!(bench.invalidations(), of_second);
    assert_eq!(context(&bench, &unit, DEVICE), None);
    assert_eq!(unit.domain_of(DEVICE), None);
    unit.detach(DEVICE).unwrap();
    assert_eq!(bench.invalidations(), []);
}

#[test]
fn a_domain_in_use_cannot_be_destroyed() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let domain = unit.create_domain(Levels::Four).unwrap();
    unit.attach(DEVICE, domain).unwrap();
    assert_eq!(unit.destroy_domain(domain), Err(Error::DomainInUse(domain)));
    unit.detach(DEVICE).unwrap();
    assert_eq!(unit.destroy_domain(domain), Ok(()));
    assert_eq!(unit.destroy_domain(domain), Err(Error::NoDomain(domain)));
    assert_eq!(unit.attach(DEVICE, domain), Err(Error::NoDomain(domain)));
}

#[test]
fn domains_are_as_the_unit_supports_them() {
    let bench = Bench::new();
    let mut unit = bench.start();
    assert_eq!(
        unit.create_domain(Levels::Five),
        Err(Error::Unsupported(Feature::Levels(5)))
    );
    assert_eq!(
        unit.create_pass_through_domain(),
        Err(Error::Unsupported(Feature::PassThrough))
    );
    // ND is 1: 64 identifiers, of which 0 is not used.
    for _ in 1..64 {
        unit.create_domain(Levels::Three).unwrap();
    }
    assert_eq!(
        unit.create_domain(Levels::Three),
        Err(Error::OutOfDomains { count: 64 })
    );
}
