//! Devices that come and go.

use std::sync::Arc;

use vm_iommu_driver::iommu::Reach;

use super::OwnershipError;
use super::group::Group;
use super::state::{DeviceKey, Endpoint, Member, State};
use super::write::force;

/// How often a unit is told to forget a device that is gone.
const ATTEMPTS: usize = 2;

impl Group {
    /// Takes a device in. It reaches at once what the group's devices reach without PASID; PASIDs
    /// are blocked until they are written again. If that fails it stays outside, and blocked.
    pub(super) fn join(&self, endpoint: &Arc<Endpoint>) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        if state.owner.is_some() && endpoint.is_direct() {
            return Err(OwnershipError::RequiresDirect);
        }
        let mapped = state.default.map_regions(endpoint)?;
        let member = Member::new(Arc::clone(endpoint));
        let reach = state.reach(&member, None);
        let requester = endpoint.requester();
        if let Err(error) = endpoint.unit.set_reach(requester, None, &reach) {
            state.default.unmap(&mapped);
            return Err(error.into());
        }
        state.members.push(member);
        Ok(())
    }

    pub(super) fn remove(&self, key: DeviceKey, wait: bool) -> Result<(), OwnershipError> {
        let state = self.lock();
        let mut state = self.wait_for_release(state, key, wait)?;
        let endpoint = &state.member(key)?.endpoint;
        endpoint
            .unit
            .release_device(endpoint.requester(), endpoint.is_direct())?;
        state.forget(key);
        self.forget_request(key);
        Ok(())
    }

    /// A device is gone.
    pub(super) fn lose(&self, key: DeviceKey) {
        let mut state = self.lock();
        let pasids: Vec<_> = state.rows.keys().copied().flatten().collect();
        let Ok(member) = state.member_mut(key) else {
            return;
        };
        if member.gone {
            return;
        }
        if !member.endpoint.abandon() {
            for pasid in [None].into_iter().chain(pasids.into_iter().map(Some)) {
                if member.endpoint.serves(pasid) {
                    force(member, pasid, &Reach::Blocked);
                }
            }
        }
        member.gone = true;
        member.driver = None;
        member.reset_depth = 0;
        if member.claimed {
            for row in state.rows.values_mut() {
                row.written.remove(&key);
            }
        } else {
            state.forget(key);
        }
        self.released.notify_all();
    }

    /// Whether no device is left, gone ones included.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().members.is_empty()
    }

    /// Whether a device is in the group, or gone and still claimed.
    pub(super) fn knows(&self, key: DeviceKey) -> bool {
        self.lock().member(key).is_ok()
    }
}

impl State {
    fn forget(&mut self, key: DeviceKey) {
        self.members.retain(|member| member.endpoint.key != key);
        for row in self.rows.values_mut() {
            row.written.remove(&key);
        }
    }
}

impl Endpoint {
    /// Has the unit forget a device that is gone, and refuse what still comes in its name; whether
    /// the unit did.
    pub(super) fn abandon(&self) -> bool {
        let requester = self.requester();
        let done = (0..ATTEMPTS).any(|_| self.unit.release_device(requester, false).is_ok());
        if !done {
            log::error!("{requester}: the unit does not forget the device, which is gone");
        }
        done
    }
}
