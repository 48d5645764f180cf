//! The same objects by types.

use std::sync::Weak;

use super::*;
use vm_iommu_driver::iommu::{DeviceInfo, Iommu, PagingOptions};
use vm_iommu_spec::{Access, Iova, RequesterId};
use vm_iommufd::ownership::{Device, GroupKey, Ownership, OwnershipConfig};
use vm_iommufd::selftest::{APERTURE_START, MockUnit};

const RW: Access = Access::READ.union(Access::WRITE);

/// Two devices in one group.
fn devices(ownership: &Ownership) -> [Arc<Device>; 2] {
    let unit: Arc<dyn Iommu> = Arc::new(MockUnit::default());
    [8, 16].map(|raw| {
        let info = DeviceInfo::new(RequesterId::from_raw(raw));
        ownership.add(&unit, info, GroupKey(1)).unwrap()
    })
}

#[test]
fn a_groups_devices_share_a_table_and_a_context() {
    let ownership = Ownership::new(OwnershipConfig::default());
    let [one, other] = devices(&ownership);
    let bench = Bench::new();
    let ioas = bench.context.ioas().unwrap();
    let first = bench.context.bind(&one).unwrap();
    let stranger = bench.system.open();
    assert_eq!(
        stranger.bind(&other).err(),
        Some(Errno::EPERM),
        "the group is owned"
    );
    assert_eq!(
        bench.context.bind(&one).err(),
        Some(Errno::EINVAL),
        "bound already"
    );
    let second = bench.context.bind(&other).unwrap();
    let table = ioas.table(&first, PagingOptions::default(), None).unwrap();
    assert_eq!(first.attach(None, &table), Ok(table.id()));
    let automatic = second.attach(None, &ioas);
    assert_eq!(
        automatic,
        Err(Errno::EINVAL),
        "the group is on a table that was made by hand"
    );
    assert_eq!(second.attach(None, &table), Ok(table.id()));
    assert_eq!(table.destroy(), Err(Errno::EBUSY));
    // One device's replacement moves the group, and the users with it.
    let next = first.attach(None, &ioas).unwrap();
    assert_ne!(next, table.id());
    assert_eq!(table.destroy(), Ok(()));
    drop(first);
    assert_eq!(ioas.destroy(), Err(Errno::EBUSY));
    assert_eq!(second.detach(None), Ok(()));
    assert_eq!(second.detach(None), Ok(()), "twice is no error");
    assert_eq!(ioas.destroy(), Ok(()));
    assert_eq!(stranger.bind(&one).err(), Some(Errno::EPERM));
    drop(second);
    assert!(stranger.bind(&one).is_ok());
}

#[test]
fn a_device_that_is_bound_keeps_its_context() {
    let ownership = Ownership::new(OwnershipConfig::default());
    let [device, _] = devices(&ownership);
    let Bench {
        system,
        context,
        program,
    } = Bench::new();
    let ioas = context.ioas().unwrap();
    let iova = Iova(APERTURE_START);
    assert_eq!(
        ioas.map(&program, MEMORY, 2 * PAGE, Some(iova), RW),
        Ok(iova)
    );
    let bound = context.bind(&device).unwrap();
    bound.attach(None, &ioas).unwrap();
    drop((context, ioas));
    assert_eq!(system.pins(program.id()).pinned_pages, 2);
    drop(bound);
    assert_eq!(system.pins(program.id()).pinned_pages, 0);
}

#[test]
fn address_spaces_by_type_are_those_of_the_calls() {
    let bench = Bench::new();
    let (ioas, other) = (bench.context.ioas().unwrap(), bench.context.ioas().unwrap());
    let at = Iova(0x10_0000);
    assert_eq!(
        ioas.map(&bench.program, MEMORY, PAGE, Some(at), Access::empty()),
        Err(Errno::EINVAL)
    );
    assert_eq!(ioas.map(&bench.program, MEMORY, PAGE, Some(at), RW), Ok(at));
    assert_eq!(
        bench.map(ioas.id(), MEMORY, PAGE, Some(at.0)),
        Err(Errno::EEXIST)
    );
    assert_eq!(
        other.copy(&ioas, at, PAGE, Some(Iova(0x5000)), RW),
        Ok(Iova(0x5000))
    );
    let foreign = bench.system.open().ioas().unwrap();
    assert_eq!(foreign.copy(&ioas, at, PAGE, None, RW), Err(Errno::EINVAL));
    other.allow(&[Iova(0x9000)..=Iova(0x9fff)]).unwrap();
    assert_eq!(
        other.map(&bench.program, MEMORY, PAGE, None, RW),
        Ok(Iova(0x9000))
    );
    assert_eq!(
        other.map(&bench.program, MEMORY, PAGE, None, RW),
        Err(Errno::ENOSPC)
    );
    let user: Weak<Nobody> = Weak::new();
    let access = bench.context.access(other.id(), false, user).unwrap();
    access.write(0x5004, b"seen in both").unwrap();
    let mut found = [0; 12];
    bench.program.peek(MEMORY + 4, &mut found).unwrap();
    assert_eq!(&found, b"seen in both");
    drop(access);
    assert_eq!(other.unmap(Iova(0)..=Iova(u64::MAX)), Ok(2 * PAGE));
    assert_eq!(bench.unmap(ioas.id(), at.0, PAGE), Ok(PAGE));
    assert_eq!(ioas.destroy(), Ok(()));
    assert_eq!(ioas.unmap(Iova(0)..=Iova(u64::MAX)), Err(Errno::ENOENT));
}

struct Nobody;

impl vm_iommufd::AccessUser for Nobody {
    fn unmap(&self, _: u64, _: u64) {}
}
