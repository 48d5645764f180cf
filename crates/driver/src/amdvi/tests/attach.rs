use vm_iommu_pagetable::Levels;
use vm_iommu_spec::amd::DeviceTableEntry;
use vm_iommu_spec::{DomainId, PhysAddr, RequesterId};

use super::bench::{Bench, DEVICE};
use crate::amdvi::{Error, Feature};

const INVALIDATE_DEVICE: (u64, u64) = (2 << 60 | 8, 0);
/// All pages of domain 1, with entries that point to tables.
const INVALIDATE_DOMAIN: (u64, u64) = (3 << 60 | 1 << 32, 0x7fff_ffff_ffff_f003);

#[test]
fn a_requester_gets_its_domains_tables_and_is_blocked_between_two() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let first = unit.create_domain(3).unwrap();
    let second = unit.create_domain(6).unwrap();
    assert_eq!((first, second), (DomainId(1), DomainId(2)));
    unit.attach(DEVICE, first).unwrap();
    assert_eq!(bench.carried_out(), [INVALIDATE_DEVICE, INVALIDATE_DOMAIN]);
    let [dma, domain, interrupt, _] = bench.entry(&unit, DEVICE).words();
    // V, TV, Mode 3, IR, IW, and the root table.
    assert_eq!(dma & !0x000f_ffff_ffff_f000, 3 | 3 << 9 | 3 << 61);
    assert_ne!(dma & 0x000f_ffff_ffff_f000, 0);
    assert_eq!((domain, interrupt), (1, 1));

    // Attached again, it stays as it is.
    unit.attach(DEVICE, first).unwrap();
    assert_eq!(bench.carried_out(), []);

    unit.attach(DEVICE, second).unwrap();
    let blocked_between = [INVALIDATE_DEVICE, INVALIDATE_DOMAIN];
    assert_eq!(bench.carried_out()[..2], blocked_between);
    assert_eq!(bench.entry(&unit, DEVICE).dma.mode(), 6);
    assert_eq!(unit.domain_of(DEVICE), Some(second));
    assert_eq!(unit.destroy_domain(second), Err(Error::DomainInUse(second)));

    unit.detach(DEVICE).unwrap();
    assert_eq!(bench.entry(&unit, DEVICE).words(), [3, 0, 1, 0]);
    assert_eq!(unit.domain_of(DEVICE), None);
    unit.destroy_domain(second).unwrap();
    assert_eq!(unit.destroy_domain(second), Err(Error::NoDomain(second)));
}

#[test]
fn a_requester_that_passes_through_has_permission_and_no_tables() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let domain = unit.create_pass_through_domain().unwrap();
    unit.attach(DEVICE, domain).unwrap();
    let words = bench.entry(&unit, DEVICE).words();
    assert_eq!(words, [3 | 3 << 61, 1, 1, 0]);
    let mapped = unit.map(
        domain,
        vm_iommu_spec::Iova(0),
        PhysAddr(0),
        0x1000,
        vm_iommu_spec::Access::READ,
    );
    assert_eq!(mapped, Err(Error::PassThrough(domain)));
}

#[test]
fn guest_tables_are_reached_through_the_entry_of_pasid_0() {
    let bench = Bench::new();
    bench.feature.set(bench.feature.get().with_guest_levels(1));
    for levels in [Levels::Four, Levels::Five] {
        let mut unit = bench.start();
        let domain = unit.create_guest_domain(levels).unwrap();
        unit.attach(DEVICE, domain).unwrap();
        let entry = bench.entry(&unit, DEVICE);
        assert!(entry.dma.guest_valid() && entry.dma.guest_io_valid());
        assert_eq!((entry.dma.mode(), entry.dma.guest_cr3_levels()), (0, 0));
        assert_eq!(entry.interrupt.guest_paging_mode(), levels.count() - 4);
        let pasid_0 = bench.load(entry.guest_cr3_table());
        assert_eq!(pasid_0 & 0xfff, 1);
        unit.detach(DEVICE).unwrap();
        unit.destroy_domain(domain).unwrap();
    }
}

#[test]
fn what_the_unit_lacks_is_refused() {
    let bench = Bench::new();
    let mut unit = bench.start();
    let beyond = RequesterId::from_source_id(0, 0x100);
    let domain = unit.create_domain(4).unwrap();
    assert_eq!(
        unit.attach(beyond, domain),
        Err(Error::BeyondDeviceTable(beyond))
    );
    for levels in [0, 7] {
        let missing = Error::Unsupported(Feature::HostLevels(levels));
        assert_eq!(unit.create_domain(levels), Err(missing));
    }
    let missing = Error::Unsupported(Feature::GuestLevels(5));
    assert_eq!(unit.create_guest_domain(Levels::Five), Err(missing));
    assert_eq!(DeviceTableEntry::SIZE, 32);
}
