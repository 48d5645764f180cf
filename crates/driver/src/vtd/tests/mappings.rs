use vm_iommu_pagetable::{EditError, Levels};
use vm_iommu_spec::{Access, DomainId, Iova, PhysAddr};

use super::bench::{Bench, Driver};
use crate::vtd::Error;

const RW: Access = Access::READ.union(Access::WRITE);

fn domain<'a>(bench: &'a Bench) -> (Driver<'a>, DomainId) {
    let mut unit = bench.start();
    let domain = unit.create_domain(Levels::Four).unwrap();
    (unit, domain)
}

fn output(unit: &Driver<'_>, domain: DomainId, iova: u64) -> Option<u64> {
    let walk = unit.walk(domain, Iova(iova), Access::READ).unwrap();
    walk.ok().map(|walk| walk.output.0)
}

#[test]
fn a_new_mapping_needs_an_invalidation_in_caching_mode_only() {
    for (caching_mode, expected) in [(false, &[][..]), (true, &[(0x1_00f2, 0x40_0000)])] {
        let bench = Bench::new();
        bench
            .capability
            .set(bench.capability.get().with_caching_mode(caching_mode));
        let (mut unit, domain) = domain(&bench);
        unit.map(domain, Iova(0x40_0000), PhysAddr(0x7000), 0x1000, RW)
            .unwrap();
        assert_eq!(bench.invalidations(), expected);
        assert_eq!(output(&unit, domain, 0x40_0123), Some(0x7123));
    }
}

#[test]
fn a_unit_with_a_write_buffer_has_it_flushed_after_mapping() {
    let bench = Bench::new();
    bench
        .capability
        .set(bench.capability.get().with_write_buffer_flush(true));
    let (mut unit, domain) = domain(&bench);
    unit.map(domain, Iova(0), PhysAddr(0x7000), 0x1000, RW)
        .unwrap();
    let flush = super::bench::Event::Write(0x18, 1 << 27 | 1 << 26 | 1 << 25);
    assert_eq!(bench.events(), [flush]);
}

#[test]
fn unmapping_invalidates_the_pages_it_took_away() {
    let bench = Bench::new();
    let (mut unit, domain) = domain(&bench);
    unit.map(domain, Iova(0x10_0000), PhysAddr(0x70_0000), 0x8000, RW)
        .unwrap();
    bench.events();
    let unmapped = unit.unmap(domain, Iova(0x10_2000), 0x2000);
    assert_eq!(unmapped, Ok(0x2000));
    // Two pages, aligned: mask 1, and the hint that only leaves changed.
    assert_eq!(bench.invalidations(), [(0x1_00f2, 0x10_2041)]);
    assert_eq!(output(&unit, domain, 0x10_2000), None);
    assert_eq!(output(&unit, domain, 0x10_4000), Some(0x70_4000));
}

#[test]
fn a_range_beyond_the_largest_mask_invalidates_the_domain() {
    for (selective, length, expected) in [
        // MAMV is 9: 2 MiB.
        (true, 0x20_0000, (0x1_00f2, 9)),
        (true, 0x20_1000, (0x1_00e2, 0)),
        (false, 0x1000, (0x1_00e2, 0)),
    ] {
        let bench = Bench::new();
        bench.capability.set(
            bench
                .capability
                .get()
                .with_page_selective_invalidation(selective),
        );
        let (mut unit, domain) = domain(&bench);
        unit.map(domain, Iova(0), PhysAddr(0x20_0000), 0x40_0000, RW)
            .unwrap();
        unit.unmap(domain, Iova(0), length).unwrap();
        let invalidations = bench.invalidations();
        let [(low, high)] = invalidations[..] else {
            panic!("{invalidations:x?}");
        };
        // The hint is the editor's to give.
        assert_eq!((low, high & !0x40), expected, "{length:#x}");
    }
}

#[test]
fn unmapping_nothing_invalidates_nothing() {
    let bench = Bench::new();
    let (mut unit, domain) = domain(&bench);
    assert_eq!(unit.unmap(domain, Iova(0x5000), 0x1000), Ok(0));
    assert_eq!(bench.invalidations(), []);
}

#[test]
fn fewer_permissions_are_invalidated() {
    let bench = Bench::new();
    let (mut unit, domain) = domain(&bench);
    unit.map(domain, Iova(0x5000), PhysAddr(0x7000), 0x1000, RW)
        .unwrap();
    bench.events();
    let changed = unit.protect(domain, Iova(0x5000), 0x1000, Access::READ);
    assert_eq!(changed, Ok(0x1000));
    assert_eq!(bench.invalidations(), [(0x1_00f2, 0x5040)]);
    let walk = unit.walk(domain, Iova(0x5000), Access::WRITE).unwrap();
    assert!(walk.is_err());
}

#[test]
fn addresses_beyond_the_unit_cannot_be_mapped() {
    let bench = Bench::new();
    bench
        .capability
        .set(bench.capability.get().with_maximum_width(38));
    let (mut unit, domain) = domain(&bench);
    let beyond = EditError::BeyondWidth {
        iova: Iova(1 << 39),
        length: 0x1000,
    };
    assert_eq!(
        unit.map(domain, Iova(1 << 39), PhysAddr(0), 0x1000, RW),
        Err(Error::Edit(beyond))
    );
    unit.map(domain, Iova((1 << 39) - 0x1000), PhysAddr(0), 0x1000, RW)
        .unwrap();
}

#[test]
fn a_mapping_that_fails_leaves_what_was_there() {
    let bench = Bench::new();
    let (mut unit, domain) = domain(&bench);
    unit.map(domain, Iova(0x3000), PhysAddr(0x7000), 0x1000, RW)
        .unwrap();
    let iova = Iova(0x3000);
    assert_eq!(
        unit.map(domain, Iova(0x1000), PhysAddr(0x1000), 0x4000, RW),
        Err(Error::Edit(EditError::AlreadyMapped { iova }))
    );
    for page in [0x1000, 0x2000, 0x4000] {
        assert_eq!(output(&unit, domain, page), None);
    }
    assert_eq!(output(&unit, domain, 0x3000), Some(0x7000));
}

#[test]
fn tables_of_destroyed_domains_are_used_again() {
    let bench = Bench::new();
    let (mut unit, domain) = domain(&bench);
    let unused = |unit: &Driver<'_>| unit.pages.unused();
    let mut before = None;
    unit.destroy_domain(domain).unwrap();
    for _ in 0..3 {
        let domain = unit.create_domain(Levels::Four).unwrap();
        unit.map(domain, Iova(0x40_0000), PhysAddr(0), 0x5000, RW)
            .unwrap();
        unit.destroy_domain(domain).unwrap();
        assert_eq!(*before.get_or_insert(unused(&unit)), unused(&unit));
    }
}
