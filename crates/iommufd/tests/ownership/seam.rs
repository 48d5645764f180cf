//! The drivers of units behind the interface that all have.

use std::sync::Arc;

use vm_iommu_driver::iommu::{
    DeviceInfo, Domain, DomainKind, Iommu, IommuError, PagingOptions, Reach, RegionKind, UserData,
};
use vm_iommu_spec::{Access, Iova, Pasid, PhysAddr, RequesterId};

use crate::machine::{IDENTITY, Machine, REQUESTERS};
use crate::unit::{
    AmdViKind, CACHES_ABSENT, Kind, PROBE, RW, USUAL, UnitMachine, VtdKind, WRITE_BUFFER,
};

const DEVICE: RequesterId = REQUESTERS[0];

fn machine<K: Kind>() -> UnitMachine<K> {
    let machine = UnitMachine::new();
    machine
        .iommu
        .probe_device(&DeviceInfo::new(DEVICE))
        .unwrap();
    machine
}

fn paging<K: Kind>(machine: &UnitMachine<K>) -> Arc<dyn Domain> {
    let options = PagingOptions::default();
    machine.iommu.paging_domain(DEVICE, options, None).unwrap()
}

/// Runs a test on either unit.
macro_rules! on_each {
    ($test:ident) => {
        $test::<VtdKind<USUAL>>();
        $test::<AmdViKind<USUAL>>();
    };
}

fn on(domain: &Arc<dyn Domain>) -> Reach {
    Reach::Domain(Arc::clone(domain))
}

#[test]
fn a_device_reaches_what_it_is_told_to() {
    on_each!(a_device_reaches_what_it_is_told_to_on);
}

fn a_device_reaches_what_it_is_told_to_on<K: Kind>() {
    let machine = machine::<K>();
    let observe = || machine.observe(DEVICE, None);
    let (one, two) = (paging(&machine), paging(&machine));
    assert!(machine.label(&one, 1) && machine.label(&two, 2));
    let identity = machine.iommu.identity_domain(DEVICE).unwrap();
    assert_eq!(identity.kind(), DomainKind::Identity);
    assert_eq!(observe(), None, "blocked when probed");
    for (reach, expected) in [
        (on(&one), Some(1)),
        (on(&two), Some(2)),
        (Reach::Blocked, None),
        (on(&identity), Some(IDENTITY)),
        (on(&one), Some(1)),
    ] {
        machine.iommu.set_reach(DEVICE, None, &reach).unwrap();
        assert_eq!(observe(), expected);
    }
    machine.iommu.release_device(DEVICE, false).unwrap();
    assert_eq!(observe(), None);
}

#[test]
fn what_the_unit_cannot_is_refused_before_anything_changes() {
    on_each!(what_the_unit_cannot_is_refused_before_anything_changes_on);
}

fn what_the_unit_cannot_is_refused_before_anything_changes_on<K: Kind>() {
    let machine = machine::<K>();
    let iommu = &machine.iommu;
    let before = machine.footprint();
    let foreign = on(&machine.foreign_domain());
    let set = |device, pasid, reach| iommu.set_reach(device, pasid, reach);
    assert_eq!(set(DEVICE, None, &foreign), Err(IommuError::Invalid));
    assert_eq!(
        set(DEVICE, Pasid::new(1), &Reach::Blocked),
        Err(IommuError::Unsupported)
    );
    assert_eq!(
        set(REQUESTERS[1], None, &Reach::Blocked),
        Err(IommuError::NoDevice)
    );
    let paging = |options, data| iommu.paging_domain(DEVICE, options, data).map(|_| ());
    let options = PagingOptions::default();
    for options in [
        PagingOptions {
            nest_parent: true,
            ..options
        },
        PagingOptions {
            dirty_tracking: true,
            ..options
        },
    ] {
        assert_eq!(paging(options, None), Err(IommuError::Unsupported));
    }
    let data = UserData {
        kind: 1,
        bytes: &[],
    };
    let refused = paging(options, Some(data));
    assert_eq!(refused, Err(IommuError::Unsupported));
    let again = iommu.probe_device(&DeviceInfo::new(DEVICE));
    assert_eq!(again, Err(IommuError::Exists));
    let info = iommu.hardware_info(DEVICE, 2);
    assert_eq!(info, Err(IommuError::Unsupported));
    assert_eq!(machine.footprint(), before);
}

#[test]
fn the_unit_says_what_it_is() {
    let machine = machine::<VtdKind<USUAL>>();
    let capabilities = machine.iommu.capabilities();
    assert!(capabilities.isolated_msi && capabilities.coherent);
    assert_eq!(
        (capabilities.input_width, capabilities.output_width),
        (48, 46)
    );
    assert_eq!(capabilities.page_sizes, 1 << 12 | 1 << 21 | 1 << 30);
    assert_eq!(capabilities.pasid_bits, 0);
    let aperture = paging(&machine).geometry().aperture;
    assert_eq!(aperture, Iova(0)..=Iova((1 << 48) - 1));
    let info = machine.iommu.hardware_info(DEVICE, 0).unwrap();
    assert_eq!((info.kind, info.bytes.len()), (1, 24));
    let regions = machine.iommu.reserved_regions(DEVICE);
    assert_eq!(regions.len(), 1);
    assert_eq!(regions[0].kind, RegionKind::Msi);
}

#[test]
fn the_amdvi_unit_says_what_it_is() {
    let machine = machine::<AmdViKind<USUAL>>();
    let capabilities = machine.iommu.capabilities();
    assert!(capabilities.isolated_msi && capabilities.coherent);
    assert_eq!(
        (capabilities.input_width, capabilities.output_width),
        (48, 46)
    );
    assert_eq!(capabilities.page_sizes, (1 << 48) - (1 << 12));
    let domain = paging(&machine);
    assert_eq!(domain.geometry().aperture, Iova(0)..=Iova((1 << 48) - 1));
    assert!(domain.enforce_cache_coherency());
    let beyond = domain.map(Iova(1 << 48), PhysAddr(0x1000), 0x1000, RW);
    assert_eq!(beyond, Err(IommuError::Invalid));
    let info = machine.iommu.hardware_info(DEVICE, 4).unwrap();
    assert_eq!((info.kind, info.bytes.len()), (4, 16));
    let no_such = machine
        .iommu
        .probe_device(&DeviceInfo::new(RequesterId::from_source_id(0, 0xff00)));
    assert_eq!(no_such, Err(IommuError::Invalid));
}

#[test]
fn requests_under_an_alias_are_the_devices() {
    on_each!(requests_under_an_alias_on);
}

fn requests_under_an_alias_on<K: Kind>() {
    let machine = UnitMachine::<K>::new();
    // Device 2 asks in the name of device 3.
    let (device, alias) = (REQUESTERS[2], REQUESTERS[3]);
    let info = DeviceInfo {
        aliases: vec![alias],
        ..DeviceInfo::new(device)
    };
    machine.iommu.probe_device(&info).unwrap();
    let options = PagingOptions::default();
    let domain = machine.iommu.paging_domain(device, options, None).unwrap();
    assert!(machine.label(&domain, 5));
    machine.iommu.set_reach(device, None, &on(&domain)).unwrap();
    let both = || [device, alias].map(|device| machine.observe(device, None));
    assert_eq!(both(), [Some(5); 2]);
    machine
        .iommu
        .set_reach(device, None, &Reach::Blocked)
        .unwrap();
    assert_eq!(both(), [None; 2]);
}

#[test]
fn snooping_is_forced_only_before_anything_is_mapped() {
    let machine = machine::<VtdKind<USUAL>>();
    let early = paging(&machine);
    assert!(early.enforce_cache_coherency());
    let late = paging(&machine);
    assert!(machine.label(&late, 1));
    assert!(!late.enforce_cache_coherency());
    assert!(machine.label(&early, 2));
    machine.iommu.set_reach(DEVICE, None, &on(&early)).unwrap();
    assert_eq!(machine.observe(DEVICE, None), Some(2));
}

/// A range that takes tables of two levels more, and a large page.
const RANGE: (Iova, PhysAddr, u64) = (Iova(0x7fff_f000), PhysAddr(0x1f_f000), 0x20_2000);

fn map(domain: &Arc<dyn Domain>) -> Result<(), IommuError> {
    let (iova, output, length) = RANGE;
    domain.map(iova, output, length, RW)
}

fn mapped(domain: &Arc<dyn Domain>) -> Vec<bool> {
    let pages = (0..RANGE.2).step_by(0x1000);
    pages
        .map(|offset| {
            let output = domain.iova_to_phys(Iova(RANGE.0.0 + offset));
            assert!(output.is_none_or(|output| output.0 == RANGE.1.0 + offset));
            output.is_some()
        })
        .collect()
}

fn a_range_is_mapped_whole_or_not<K: Kind>() {
    let machine = machine::<K>();
    let empty = machine.footprint();
    for passing in 0.. {
        let domain = paging(&machine);
        machine.iommu.set_reach(DEVICE, None, &on(&domain)).unwrap();
        machine.faults().arm(passing);
        let outcome = map(&domain);
        let struck = machine.faults().disarm();
        let all = outcome.is_ok();
        assert!(
            mapped(&domain).iter().all(|page| *page == all),
            "fault at {passing}"
        );
        if !all {
            map(&domain).expect("it goes well now");
        }
        // And taken away: with a fault it may be half done, but never stays so.
        machine.faults().arm(passing);
        let taken = domain.unmap(RANGE.0, RANGE.2);
        machine.faults().disarm();
        if taken.is_err() {
            domain.unmap(RANGE.0, RANGE.2).unwrap();
            domain.flush().unwrap();
        }
        assert!(mapped(&domain).iter().all(|page| !page));
        machine
            .iommu
            .set_reach(DEVICE, None, &Reach::Blocked)
            .unwrap();
        // Nor does a fault in the end lose any memory.
        assert!(machine.label(&domain, 1));
        machine.faults().arm(passing);
        drop(domain);
        let lost = machine.faults().disarm();
        assert_eq!(machine.footprint(), empty, "fault at {passing}");
        if !struck && taken.is_ok() && !lost {
            return;
        }
        assert!(passing < 1000, "it does not end");
    }
}

#[test]
fn a_range_is_mapped_whole_or_not_at_all() {
    a_range_is_mapped_whole_or_not::<VtdKind<USUAL>>();
    a_range_is_mapped_whole_or_not::<VtdKind<CACHES_ABSENT>>();
    a_range_is_mapped_whole_or_not::<VtdKind<WRITE_BUFFER>>();
    a_range_is_mapped_whole_or_not::<AmdViKind<USUAL>>();
    a_range_is_mapped_whole_or_not::<AmdViKind<CACHES_ABSENT>>();
}

#[test]
fn a_range_that_is_unmapped_is_not_reached() {
    on_each!(a_range_that_is_unmapped_is_not_reached_on);
}

fn a_range_that_is_unmapped_is_not_reached_on<K: Kind>() {
    let machine = machine::<K>();
    let domain = paging(&machine);
    assert!(machine.label(&domain, 3));
    machine.iommu.set_reach(DEVICE, None, &on(&domain)).unwrap();
    assert_eq!(machine.observe(DEVICE, None), Some(3));
    assert_eq!(domain.unmap(PROBE, 0x1000), Ok(0x1000));
    assert_eq!(machine.observe(DEVICE, None), None);
    let again = domain.map(PROBE, machine.page_of(4), 0x1000, Access::READ);
    assert_eq!(again, Ok(()));
    assert_eq!(machine.observe(DEVICE, None), Some(4));
    let twice = domain.map(PROBE, machine.page_of(4), 0x1000, RW);
    assert_eq!(twice, Err(IommuError::Exists));
}
