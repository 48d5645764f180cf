//! Groups from the PCI fabric.

use vm_iommu_driver::iommu::DeviceInfo;
use vm_iommu_pci::{ConfigSpace, Fabric, FunctionId, IsolationGroup};

use super::GroupKey;

const FIRST_EXTENDED_CAPABILITY: u16 = 0x100;
/// Address Translation Services.
const ATS: u16 = 0x0f;
/// Page Request Interface.
const PRI: u16 = 0x13;
/// Process Address Space ID.
const PASID: u16 = 0x1b;

/// A function as a member of its isolation group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The function in its fabric.
    pub function: FunctionId,
    /// What its unit must know of it.
    pub info: DeviceInfo,
}

/// The members of an isolation group as its unit knows them, and the group's key: it is that of
/// the first function, which stays when others come. Functions that requests do not reach are left
/// out.
pub fn members_of(fabric: &Fabric, group: &IsolationGroup) -> (GroupKey, Vec<GroupMember>) {
    let first = group.members.first().map_or(0, |first| first.index());
    let key = u64::from(fabric.segment()) << 32 | first as u64;
    let members = group.members.iter();
    let members = members.filter_map(|&function| {
        let info = info_of(fabric, function)?;
        Some(GroupMember { function, info })
    });
    (GroupKey(key), members.collect())
}

fn info_of(fabric: &Fabric, function: FunctionId) -> Option<DeviceInfo> {
    let mut info = DeviceInfo::new(fabric.address(function)?);
    let alias = fabric.requester(function)?;
    if alias != info.requester {
        info.aliases.push(alias);
    }
    let (device, ..) = fabric.function(function)?;
    let config = device.config();
    for (id, at) in extended_capabilities(config) {
        match id {
            ATS => info.ats = true,
            PRI => info.pri = true,
            // Max PASID Width, bits 12:8 of the capability register.
            PASID => info.pasid_bits = (config.read_u16(at + 4) >> 8 & 0x1f).min(20) as u8,
            _ => {}
        }
    }
    Some(info)
}

/// The extended capabilities of a function with their offsets: at most as many as there is room
/// for.
fn extended_capabilities(config: &ConfigSpace) -> impl Iterator<Item = (u16, u16)> {
    let mut next = match config.pcie_capability() {
        Some(_) => FIRST_EXTENDED_CAPABILITY,
        None => 0,
    };
    let most = usize::from(0x1000 - FIRST_EXTENDED_CAPABILITY) / 4;
    std::iter::from_fn(move || {
        let at = next;
        if at < FIRST_EXTENDED_CAPABILITY {
            return None;
        }
        let header = config.read_u32(at);
        // ID in bits 15:0, the next one's offset in bits 31:20.
        next = (header >> 20) as u16 & 0xffc;
        let id = header as u16;
        (id != 0 && id != 0xffff).then_some((id, at))
    })
    .take(most)
}
