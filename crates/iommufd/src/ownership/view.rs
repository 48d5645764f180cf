//! What a group looks like from outside.

use vm_iommu_spec::{Pasid, RequesterId};

use super::group::Group;
use super::state::Member;
use super::{ContextId, DefaultType, DriverKind};

/// The state of a group at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Who owns it.
    pub owner: Option<ContextId>,
    /// How its default domain treats requests.
    pub default_type: DefaultType,
    /// Its devices, in the order in which they came.
    pub devices: Vec<DeviceView>,
    /// By PASID, the devices that are attached; requests without PASID come first.
    pub attached: Vec<(Option<Pasid>, Vec<RequesterId>)>,
}

/// A device in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceView {
    /// Who it is.
    pub requester: RequesterId,
    /// The kind of its driver.
    pub driver: Option<DriverKind>,
    /// It is claimed by the owner.
    pub claimed: bool,
    /// How many resets of it are under way.
    pub reset_depth: u32,
    /// It was removed by surprise and is still claimed.
    pub gone: bool,
    /// For which requests it is blocked because the unit did not take what it should reach.
    pub stuck: Vec<Option<Pasid>>,
}

impl GroupView {
    /// How many devices are claimed (`user_dma_cnt`).
    pub fn claims(&self) -> usize {
        self.devices.iter().filter(|device| device.claimed).count()
    }

    /// How many devices are attached for such requests (`attach_cnt`).
    pub fn attachments(&self, pasid: Option<Pasid>) -> usize {
        self.attached
            .iter()
            .find(|(row, _)| *row == pasid)
            .map_or(0, |(_, devices)| devices.len())
    }

    /// The devices that are blocked because their unit did not take what they should reach.
    pub fn stuck(&self) -> impl Iterator<Item = RequesterId> {
        self.devices
            .iter()
            .filter(|device| !device.stuck.is_empty())
            .map(|device| device.requester)
    }

    /// How many devices are being reset (`recovery_cnt`).
    pub fn recovering(&self) -> usize {
        let parked = |device: &&DeviceView| device.reset_depth != 0;
        self.devices.iter().filter(parked).count()
    }
}

impl Group {
    /// The state now.
    pub fn view(&self) -> GroupView {
        let state = self.lock();
        let requester = |member: &Member| member.endpoint.requester();
        GroupView {
            owner: state.owner,
            default_type: state.default.kind,
            devices: state
                .members
                .iter()
                .map(|member| DeviceView {
                    requester: requester(member),
                    driver: member.driver,
                    claimed: member.claimed,
                    reset_depth: member.reset_depth,
                    gone: member.gone,
                    stuck: member.stuck.iter().copied().collect(),
                })
                .collect(),
            attached: state
                .rows
                .iter()
                .map(|(pasid, row)| {
                    let attached = state.members.iter();
                    let attached =
                        attached.filter(|member| row.members.contains(&member.endpoint.key));
                    (*pasid, attached.map(requester).collect())
                })
                .collect(),
        }
    }
}
