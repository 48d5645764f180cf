use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_iommu_spec::{Access, Iova};
use vm_memory::iommu::Iommu;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, IommuMemory, Permissions};

use super::remapper::{MapRemapper, READ_WRITE, ram};
use crate::{DmaRemapper, IotlbConfig, PortIommu};

struct Machine {
    remapper: Arc<MapRemapper>,
    memory: IommuMemory<GuestMemoryMmap, PortIommu>,
    guest: Arc<GuestMemoryMmap>,
}

fn machine() -> Machine {
    let remapper = MapRemapper::new(IotlbConfig::default());
    remapper.map(0x4000, 0x8000, 12, READ_WRITE);
    remapper.map(0x5000, 0x10_2000, 12, Access::READ);
    let ram = ram();
    let guest = ram.memory();
    let iommu = PortIommu::new(&remapper.port(&ram), None);
    Machine {
        memory: IommuMemory::new((*guest).clone(), iommu, true, ()),
        remapper,
        guest,
    }
}

#[test]
fn iommu_memory_reads_and_writes_through_the_unit() {
    let machine = machine();
    let data: Vec<u8> = (0..100).collect();
    machine
        .guest
        .write_slice(&data[50..], GuestAddress(0x10_2000))
        .unwrap();
    machine
        .memory
        .write_slice(&data[..50], GuestAddress(0x4fce))
        .unwrap();
    let mut back = vec![0; 100];
    machine
        .memory
        .read_slice(&mut back, GuestAddress(0x4fce))
        .unwrap();
    assert_eq!(back, data);
    let denied = machine.memory.write_slice(&[1], GuestAddress(0x5000));
    assert!(denied.is_err());
    let check = |address, len, access| {
        machine
            .memory
            .check_range(GuestAddress(address), len, access)
    };
    assert!(check(0x4000, 0x2000, Permissions::Read));
    assert!(!check(0x4000, 0x2001, Permissions::Read));
    assert!(!check(0x4000, 0x2000, Permissions::ReadWrite));
    assert!(!check(u64::MAX - 1, 8, Permissions::Read));
    assert!(!check(0xfee0_0000, 4, Permissions::Write));
}

#[test]
fn an_empty_range_translates_to_nothing() {
    let machine = machine();
    let iommu = machine.memory.iommu();
    let empty = iommu.translate(GuestAddress(0x4000), 0, Permissions::Read);
    assert_eq!(empty.unwrap().count(), 0);
}

#[test]
fn what_is_kept_is_used_until_the_unit_invalidates_it() {
    let machine = machine();
    let read = || machine.memory.read_obj::<u8>(GuestAddress(0x4123)).unwrap();
    let write = |address: u64| {
        machine
            .guest
            .write_obj(address as u8, GuestAddress(address << 12 | 0x123))
            .unwrap();
    };
    write(0x8);
    write(0x9);
    assert_eq!((read(), read()), (0x8, 0x8));
    assert_eq!(machine.remapper.walks.load(Ordering::Relaxed), 1);
    machine.remapper.map(0x4000, 0x9000, 12, READ_WRITE);
    assert_eq!(read(), 0x8);
    let tag = &machine.remapper.tag;
    let iotlb = machine.remapper.iotlb();
    iotlb.invalidate_range(tag, Iova(0x4000), Iova(0x4fff));
    assert_eq!(read(), 0x9);
    machine.remapper.unmap(0x4000);
    iotlb.invalidate_tag(tag);
    assert!(machine.memory.read_obj::<u8>(GuestAddress(0x4123)).is_err());
}
