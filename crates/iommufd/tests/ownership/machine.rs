//! What the tests ask of a machine with a unit, whatever the unit is.

use std::sync::Arc;

use vm_iommu_driver::iommu::{DeviceInfo, Domain, Iommu, RegionKind, ReservedRegion};
use vm_iommu_spec::{Access, Iova, Pasid, RequesterId};

use crate::faults::Faults;

/// The devices. The first five are there from the beginning.
pub const DEVICES: usize = 8;
pub const FIRST: usize = 5;

pub const REQUESTERS: [RequesterId; DEVICES] = [
    RequesterId::from_source_id(0, 0x0100),
    RequesterId::from_source_id(0, 0x0101),
    RequesterId::from_source_id(0, 0x0208),
    RequesterId::from_source_id(0, 0x0300),
    RequesterId::from_source_id(0, 0x0301),
    RequesterId::from_source_id(0, 0x0102),
    RequesterId::from_source_id(0, 0x0400),
    RequesterId::from_source_id(0, 0x0302),
];

/// The group of each device.
pub const GROUP_OF: [u64; DEVICES] = [0, 0, 0, 1, 1, 0, 0, 1];

/// Must be mapped one to one at all times.
pub const DIRECT: [usize; 2] = [4, 6];
/// Has a region that only firmware needs.
pub const RELAXABLE: usize = 7;

/// What a device reads when it passes through.
pub const IDENTITY: u64 = 2000;

/// A device as its bus describes it.
pub fn info_of(device: usize) -> DeviceInfo {
    let mut info = DeviceInfo::new(REQUESTERS[device]);
    match device {
        0 => {
            info.ats = true;
            info.pasid_bits = 4;
        }
        2 => {
            info.ats = true;
            info.pasid_bits = 8;
            info.pri = true;
            info.virtual_function = true;
        }
        5 => info.pasid_bits = 4,
        _ => {}
    }
    info
}

/// The regions that firmware reserved for a device.
pub fn direct_regions(device: RequesterId) -> Vec<ReservedRegion> {
    let index = REQUESTERS.iter().position(|other| *other == device);
    let kind = match index {
        Some(index) if DIRECT.contains(&index) => RegionKind::Direct,
        Some(RELAXABLE) => RegionKind::DirectRelaxable,
        _ => return Vec::new(),
    };
    vec![ReservedRegion {
        range: Iova(0x7000_0000)..=Iova(0x7000_1fff),
        access: Access::READ | Access::WRITE,
        kind,
    }]
}

/// A machine with one unit that the devices are behind.
pub trait Machine {
    /// Whether the unit serves requests with PASID.
    const PASIDS: bool;

    fn new() -> Self;

    /// The unit.
    fn unit(&self) -> Arc<dyn Iommu>;

    /// A domain of another unit of the same kind.
    fn foreign_domain(&self) -> Arc<dyn Domain>;

    /// Has devices on a domain of the unit read `label`. False if there is no memory for it.
    fn label(&self, domain: &Arc<dyn Domain>, label: u64) -> bool;

    /// The label that a device reads, or nothing if it is refused.
    fn observe(&self, device: RequesterId, pasid: Option<Pasid>) -> Option<u64>;

    fn faults(&self) -> &Faults;

    /// All that the unit's tables say, and the memory they take.
    fn footprint(&self) -> Vec<u64>;
}
