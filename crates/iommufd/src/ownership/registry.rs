//! All devices and groups.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vm_iommu_driver::iommu::{DeviceInfo, Iommu};
use vm_iommu_spec::RequesterId;

use super::default_domain::{DefaultDomain, DefaultType};
use super::group::{Group, lock};
use super::state::{DeviceKey, Endpoint};
use super::{Device, OwnershipError};

/// A group among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey(pub u64);

/// What the machine's administrator decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnershipConfig {
    /// Lets users have devices whose unit does not remap interrupts (`allow_unsafe_interrupts`).
    pub allow_unsafe_interrupts: bool,
    /// What groups begin with.
    pub default_type: DefaultType,
}

/// All devices that can be owned, and their groups.
#[derive(Debug)]
pub struct Ownership {
    registry: Arc<Registry>,
}

/// What devices lead back to.
#[derive(Debug)]
pub(super) struct Registry {
    default_type: DefaultType,
    unsafe_interrupts: AtomicBool,
    next_key: AtomicU64,
    /// Held before the lock of a group, never after.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    devices: BTreeMap<RequesterId, Arc<Device>>,
    groups: BTreeMap<GroupKey, Arc<Group>>,
}

impl Ownership {
    /// No devices yet.
    pub fn new(config: OwnershipConfig) -> Self {
        Self {
            registry: Arc::new(Registry {
                default_type: config.default_type,
                unsafe_interrupts: AtomicBool::new(config.allow_unsafe_interrupts),
                next_key: AtomicU64::new(0),
                inner: Mutex::default(),
            }),
        }
    }

    /// Whether users may have devices whose unit does not remap interrupts, for claims from now
    /// on.
    pub fn allow_unsafe_interrupts(&self, allow: bool) {
        let flag = &self.registry.unsafe_interrupts;
        flag.store(allow, Ordering::Relaxed);
    }

    /// Takes a device on: blocked, and in no group.
    ///
    /// # Errors
    /// [`InGroup`](OwnershipError::InGroup) if there is one of that requester id, also one that
    /// was removed by surprise and is still claimed; what the unit refuses.
    pub fn probe(
        &self,
        unit: &Arc<dyn Iommu>,
        info: DeviceInfo,
    ) -> Result<Arc<Device>, OwnershipError> {
        let requester = info.requester;
        let mut inner = lock(&self.registry.inner);
        if inner
            .devices
            .get(&requester)
            .is_some_and(|device| !device.has_departed())
        {
            return Err(OwnershipError::InGroup);
        }
        unit.probe_device(&info)?;
        let capabilities = match unit.device_capabilities(requester) {
            Ok(capabilities) => capabilities,
            Err(error) => {
                unit.release_device(requester, false)?;
                return Err(error.into());
            }
        };
        let key = DeviceKey(self.registry.next_key.fetch_add(1, Ordering::Relaxed));
        let device = Arc::new(Device {
            endpoint: Arc::new(Endpoint {
                key,
                info,
                unit: Arc::clone(unit),
                capabilities,
                regions: unit.reserved_regions(requester),
            }),
            registry: Arc::downgrade(&self.registry),
            group: Mutex::default(),
        });
        inner.devices.insert(requester, Arc::clone(&device));
        Ok(device)
    }

    /// Adds a device that was probed to a group, which is made if there is none. The device
    /// reaches at once what the group's devices reach: its default domain, nothing, or the owner's
    /// table.
    ///
    /// # Errors
    /// [`InGroup`](OwnershipError::InGroup) if it is in one,
    /// [`RequiresDirect`](OwnershipError::RequiresDirect) while a user owns the group, and what
    /// the unit refuses; the device then stays in no group, and blocked.
    pub fn hot_add(&self, device: &Device, group: GroupKey) -> Result<Arc<Group>, OwnershipError> {
        let mut inner = lock(&self.registry.inner);
        let mut place = lock(&device.group);
        if place.is_some() {
            return Err(OwnershipError::InGroup);
        }
        // A group whose last device was gone and then released is no more.
        let existing = inner.groups.get(&group).filter(|group| !group.is_empty());
        let joined = match existing {
            Some(group) => Arc::clone(group),
            None => {
                let kind = self.registry.default_type;
                Arc::new(Group::new(DefaultDomain::new(kind, &device.endpoint)?))
            }
        };
        joined.join(&device.endpoint)?;
        *place = Some(Arc::clone(&joined));
        inner.groups.insert(group, Arc::clone(&joined));
        Ok(joined)
    }

    /// Takes a device on and adds it to a group.
    ///
    /// # Errors
    /// As [`probe`](Self::probe) and [`hot_add`](Self::hot_add); then it is not known, and its
    /// requests are refused.
    pub fn add(
        &self,
        unit: &Arc<dyn Iommu>,
        info: DeviceInfo,
        group: GroupKey,
    ) -> Result<Arc<Device>, OwnershipError> {
        let device = self.probe(unit, info)?;
        if let Err(error) = self.hot_add(&device, group) {
            device.surprise_remove();
            return Err(error);
        }
        Ok(device)
    }

    /// The device of a requester id.
    pub fn device(&self, requester: RequesterId) -> Option<Arc<Device>> {
        let device = lock(&self.registry.inner).devices.get(&requester).cloned();
        device.filter(|device| !device.has_departed())
    }

    /// The group of a key.
    pub fn group(&self, key: GroupKey) -> Option<Arc<Group>> {
        let group = lock(&self.registry.inner).groups.get(&key).cloned();
        group.filter(|group| !group.is_empty())
    }

    /// All groups, by their keys.
    pub fn groups(&self) -> Vec<(GroupKey, Arc<Group>)> {
        let inner = lock(&self.registry.inner);
        let groups = inner.groups.iter();
        groups
            .filter(|(_, group)| !group.is_empty())
            .map(|(key, group)| (*key, Arc::clone(group)))
            .collect()
    }
}

impl Registry {
    pub(super) fn unsafe_interrupts(&self) -> bool {
        self.unsafe_interrupts.load(Ordering::Relaxed)
    }

    /// A device was removed: forgets it, unless it is still claimed, and its group with the last.
    pub(super) fn forget(&self, device: &Device) {
        let mut inner = lock(&self.inner);
        if !device.has_departed() && device.group().is_some() {
            return;
        }
        let requester = device.requester();
        if inner
            .devices
            .get(&requester)
            .is_some_and(|known| known.endpoint.key == device.endpoint.key)
        {
            inner.devices.remove(&requester);
        }
        inner.groups.retain(|_, group| !group.is_empty());
    }
}

impl Device {
    /// Whether it was in a group and is there no more, nor claimed.
    fn has_departed(&self) -> bool {
        self.group()
            .is_some_and(|group| !group.knows(self.endpoint.key))
    }
}
