use vm_iommu_pagetable::{EditError, Levels};
use vm_iommu_spec::amd::command::raw::PageSelector;
use vm_iommu_spec::{Access, DomainId, Iova, PhysAddr};

use super::bench::{Bench, DEVICE};
use crate::amdvi::{Error, Setup};

const RW: Access = Access::READ.union(Access::WRITE);

/// INVALIDATE_IOMMU_PAGES of domain 1.
fn pages(first: u64, last: u64, directories: bool, guest: bool) -> (u64, u64) {
    let selector = PageSelector::of_range(&(Iova(first)..=Iova(last)))
        .with_directories(directories)
        .with_guest(guest);
    (3 << 60 | 1 << 32, selector.into_bits())
}

#[test]
fn what_is_unmapped_is_invalidated_and_what_is_mapped_only_if_absence_may_be_cached() {
    for np_cache in [false, true] {
        let bench = Bench::new();
        let setup = Setup {
            np_cache,
            ..Bench::SETUP
        };
        let mut unit = bench.start_with(&setup).unwrap();
        let domain = unit.create_domain(4).unwrap();
        bench.events();
        unit.map(domain, Iova(0x5000), PhysAddr(0x20_0000), 0x2000, RW)
            .unwrap();
        let expected: &[_] = match np_cache {
            true => &[pages(0x5000, 0x6fff, true, false)],
            false => &[],
        };
        assert_eq!(bench.carried_out(), expected);
        let walk = unit.walk(domain, Iova(0x6008), Access::WRITE).unwrap();
        assert_eq!(walk.unwrap().output, PhysAddr(0x20_1008));

        assert_eq!(unit.unmap(domain, Iova(0x5000), 0x1000), Ok(0x1000));
        assert_eq!(bench.carried_out(), [pages(0x5000, 0x5fff, false, false)]);
        assert_eq!(
            unit.protect(domain, Iova(0x6000), 0x1000, Access::READ),
            Ok(0x1000)
        );
        assert_eq!(bench.carried_out(), [pages(0x6000, 0x6fff, false, false)]);
    }
}

#[test]
fn guest_tables_are_invalidated_as_those_of_pasid_0() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let domain = unit.create_guest_domain(Levels::Four).unwrap();
    unit.map(domain, Iova(0x5000), PhysAddr(0x20_0000), 0x1000, RW)
        .unwrap();
    bench.events();
    unit.unmap(domain, Iova(0x5000), 0x1000).unwrap();
    assert_eq!(bench.carried_out(), [pages(0x5000, 0x5fff, false, true)]);
}

#[test]
fn host_tables_grow_and_their_requesters_follow() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let domain = unit.create_domain(3).unwrap();
    unit.attach(DEVICE, domain).unwrap();
    unit.map(domain, Iova(0x5000), PhysAddr(0x20_0000), 0x1000, RW)
        .unwrap();
    bench.events();
    let far = Iova(1 << 50);
    unit.map(domain, far, PhysAddr(0x30_0000), 0x1000, RW)
        .unwrap();
    assert_eq!(bench.carried_out(), [(2 << 60 | 8, 0)]);
    assert_eq!(bench.entry(&unit, DEVICE).dma.mode(), 5);
    for (iova, output) in [(Iova(0x5000), 0x20_0000), (far, 0x30_0000)] {
        let walk = unit.walk(domain, iova, Access::READ).unwrap();
        assert_eq!(walk.unwrap().output, PhysAddr(output));
    }
    // As tall as the unit allows.
    bench.feature.set(bench.feature.get().with_host_levels(0));
    let mut unit = bench.start();
    let domain = unit.create_domain(4).unwrap();
    let beyond = EditError::BeyondWidth {
        iova: Iova(1 << 48),
        length: 0x1000,
    };
    assert_eq!(
        unit.map(domain, Iova(1 << 48), PhysAddr(0), 0x1000, RW),
        Err(Error::Edit(beyond))
    );
}

#[test]
fn a_command_that_the_unit_refuses_is_told_and_the_next_one_works() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let domain = unit.create_domain(4).unwrap();
    unit.map(domain, Iova(0x5000), PhysAddr(0x20_0000), 0x2000, RW)
        .unwrap();
    bench.refuses.set(Some(3));
    // The flush of the start took the first two places.
    let address = PhysAddr(Bench::MEMORY + 0x2020);
    assert_eq!(
        unit.unmap(domain, Iova(0x5000), 0x1000),
        Err(Error::Command { address })
    );
    bench.events();
    assert_eq!(unit.unmap(domain, Iova(0x6000), 0x1000), Ok(0x1000));
    assert_eq!(bench.carried_out().len(), 1);
    assert_eq!(
        unit.unmap(DomainId(9), Iova(0), 0x1000),
        Err(Error::NoDomain(DomainId(9)))
    );
}

#[test]
fn the_command_buffer_wraps() {
    let bench = Bench::new();
    let setup = Setup {
        command_length: 8,
        ..Bench::SETUP
    };
    let mut unit = bench.start_with(&setup).unwrap();
    let domain = unit.create_domain(4).unwrap();
    for page in 0..300 {
        let iova = Iova(page << 12);
        unit.map(domain, iova, PhysAddr(0x20_0000), 0x1000, RW)
            .unwrap();
        bench.events();
        unit.unmap(domain, iova, 0x1000).unwrap();
        assert_eq!(bench.carried_out().len(), 1);
    }
}
