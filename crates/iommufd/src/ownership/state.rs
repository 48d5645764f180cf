//! The state of one group, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vm_iommu_driver::iommu::{
    DeviceCapabilities, DeviceInfo, Iommu, Reach, RegionKind, ReservedRegion,
};
use vm_iommu_spec::{Pasid, RequesterId};

use super::default_domain::DefaultDomain;
use super::{ContextId, DriverKind, OwnershipError, Table};

/// A device among all that were ever known, also those that had its requester id before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DeviceKey(pub(super) u64);

/// What does not change about a device.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) key: DeviceKey,
    pub(super) info: DeviceInfo,
    pub(super) unit: Arc<dyn Iommu>,
    pub(super) capabilities: DeviceCapabilities,
    pub(super) regions: Vec<ReservedRegion>,
}

impl Endpoint {
    pub(super) fn requester(&self) -> RequesterId {
        self.info.requester
    }

    /// Whether a region must be mapped one to one at all times.
    pub(super) fn is_direct(&self) -> bool {
        self.regions
            .iter()
            .any(|region| region.kind == RegionKind::Direct)
    }

    /// The regions that a user must keep clear of.
    pub(super) fn reserved(&self) -> Vec<ReservedRegion> {
        self.regions
            .iter()
            .filter(|region| region.kind != RegionKind::DirectRelaxable)
            .cloned()
            .collect()
    }

    /// Whether it has requests of this kind at all.
    pub(super) fn serves(&self, pasid: Option<Pasid>) -> bool {
        pasid.is_none() || self.capabilities.pasid_bits != 0
    }
}

/// A device in its group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) driver: Option<DriverKind>,
    pub(super) claimed: bool,
    /// How many resets are under way; parked unless 0.
    pub(super) reset_depth: u32,
    /// Removed by surprise, and here only because it is still claimed.
    pub(super) gone: bool,
    /// For which requests it is blocked because the unit did not take what it should reach.
    pub(super) stuck: BTreeSet<Option<Pasid>>,
}

impl Member {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            driver: None,
            claimed: false,
            reset_depth: 0,
            gone: false,
            stuck: BTreeSet::new(),
        }
    }

    pub(super) fn is_parked(&self) -> bool {
        self.reset_depth != 0
    }

    /// Whether a write of a table for such requests concerns it.
    pub(super) fn takes(&self, pasid: Option<Pasid>) -> bool {
        !self.gone && !self.is_parked() && self.endpoint.serves(pasid)
    }
}

/// What a kind of requests is attached to: those without PASID, or those of one PASID.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) table: Arc<dyn Table>,
    /// Who asked for it.
    pub(super) members: BTreeSet<DeviceKey>,
    /// Who was in the group when it was last written.
    pub(super) written: BTreeSet<DeviceKey>,
}

/// The state of one group.
#[derive(Debug)]
pub(super) struct State {
    pub(super) members: Vec<Member>,
    pub(super) default: DefaultDomain,
    pub(super) owner: Option<ContextId>,
    /// Claimed as a whole, and to be released so.
    pub(super) whole: bool,
    /// By PASID; requests without one come first.
    pub(super) rows: BTreeMap<Option<Pasid>, Row>,
}

impl State {
    pub(super) fn new(default: DefaultDomain) -> Self {
        Self {
            members: Vec::new(),
            default,
            owner: None,
            whole: false,
            rows: BTreeMap::new(),
        }
    }

    pub(super) fn member(&self, key: DeviceKey) -> Result<&Member, OwnershipError> {
        self.members
            .iter()
            .find(|member| member.endpoint.key == key)
            .ok_or(OwnershipError::NoGroup)
    }

    pub(super) fn member_mut(&mut self, key: DeviceKey) -> Result<&mut Member, OwnershipError> {
        self.members
            .iter_mut()
            .find(|member| member.endpoint.key == key)
            .ok_or(OwnershipError::NoGroup)
    }

    /// The devices that are there.
    pub(super) fn present(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.gone)
    }

    /// A device that is there.
    pub(super) fn present_member(&self, key: DeviceKey) -> Result<&Member, OwnershipError> {
        self.member(key)
            .ok()
            .filter(|member| !member.gone)
            .ok_or(OwnershipError::NoGroup)
    }

    /// A device that `context` claimed, and that is there.
    pub(super) fn claimed_member(
        &self,
        key: DeviceKey,
        context: ContextId,
    ) -> Result<&Member, OwnershipError> {
        let member = self.present_member(key)?;
        if member.claimed && self.owner == Some(context) {
            Ok(member)
        } else {
            Err(OwnershipError::NotClaimed)
        }
    }

    /// Whether a kernel driver uses the default domain.
    pub(super) fn held_by_kernel(&self) -> bool {
        self.present()
            .any(|member| member.driver == Some(DriverKind::Kernel))
    }

    /// Whether a device is being reset.
    pub(super) fn is_recovering(&self) -> bool {
        self.present().any(Member::is_parked)
    }

    pub(super) fn is_attached(&self, key: DeviceKey, pasid: Option<Pasid>) -> bool {
        self.rows
            .get(&pasid)
            .is_some_and(|row| row.members.contains(&key))
    }

    pub(super) fn has_pasids(&self) -> bool {
        self.rows.keys().any(Option::is_some)
    }

    /// What the unit's tables must say about requests of a member.
    pub(super) fn reach(&self, member: &Member, pasid: Option<Pasid>) -> Reach {
        let row = self.rows.get(&pasid);
        match (pasid, row) {
            _ if member.gone || member.is_parked() => Reach::Blocked,
            (None, _) if self.owner.is_none() => Reach::Domain(Arc::clone(&self.default.domain)),
            (None, Some(row)) => Reach::Domain(row.table.domain()),
            (Some(_), Some(row))
                if member.endpoint.serves(pasid) && row.written.contains(&member.endpoint.key) =>
            {
                Reach::Domain(row.table.domain())
            }
            _ => Reach::Blocked,
        }
    }
}
