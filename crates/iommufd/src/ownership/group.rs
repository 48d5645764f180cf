//! A group under its lock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vm_iommu_driver::iommu::Reach;
use vm_iommu_spec::Pasid;

use super::default_domain::DefaultDomain;
use super::state::{DeviceKey, State};
use super::{DriverKind, OwnershipError, Table};

/// Asks an owner to release a device.
pub type Request = Arc<dyn Fn() + Send + Sync>;

/// An isolation group: devices that the unit cannot keep apart, or that reach each other past it.
/// They may: that is why they have one owner.
pub struct Group {
    pub(super) state: Mutex<State>,
    /// Notified when a device was released or is gone.
    pub(super) released: Condvar,
    requests: Mutex<BTreeMap<DeviceKey, Request>>,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("view", &self.view())
            .finish_non_exhaustive()
    }
}

impl Group {
    pub(super) fn new(default: DefaultDomain) -> Self {
        Self {
            state: Mutex::new(State::new(default)),
            released: Condvar::new(),
            requests: Mutex::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn set_request(&self, key: DeviceKey, request: Request) {
        lock(&self.requests).insert(key, request);
    }

    pub(super) fn forget_request(&self, key: DeviceKey) {
        lock(&self.requests).remove(&key);
    }

    pub(super) fn bind(&self, key: DeviceKey, driver: DriverKind) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        if state.present_member(key)?.driver.is_some() {
            return Err(OwnershipError::DriverBound);
        }
        if driver == DriverKind::Kernel && state.owner.is_some() {
            return Err(OwnershipError::Owned);
        }
        state.member_mut(key)?.driver = Some(driver);
        Ok(())
    }

    pub(super) fn unbind(&self, key: DeviceKey, wait: bool) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        if state.present_member(key)?.driver == Some(DriverKind::User) {
            state = self.wait_for_release(state, key, wait)?;
        }
        state.member_mut(key)?.driver = None;
        Ok(())
    }

    /// Waits until nobody claims a device, or fails if `wait` is not set. The owner is asked
    /// without the lock.
    pub(super) fn wait_for_release<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        key: DeviceKey,
        wait: bool,
    ) -> Result<MutexGuard<'a, State>, OwnershipError> {
        if state.present_member(key)?.claimed && wait {
            let request = lock(&self.requests).get(&key).cloned();
            if let Some(request) = request {
                drop(state);
                request();
                state = self.lock();
            }
        }
        while state.present_member(key)?.claimed {
            if !wait {
                return Err(OwnershipError::Claimed);
            }
            state = self
                .released
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }

    pub(super) fn is_claimed(&self, key: DeviceKey) -> bool {
        let state = self.lock();
        state.present_member(key).is_ok_and(|member| member.claimed)
    }

    pub(super) fn table_of(&self, key: DeviceKey, pasid: Option<Pasid>) -> Option<Arc<dyn Table>> {
        let state = self.lock();
        let row = state.rows.get(&pasid)?;
        row.members.contains(&key).then(|| Arc::clone(&row.table))
    }

    pub(super) fn reach_of(&self, key: DeviceKey, pasid: Option<Pasid>) -> Reach {
        let state = self.lock();
        match state.member(key) {
            Ok(member) => state.reach(member, pasid),
            Err(_) => Reach::Blocked,
        }
    }
}

/// The state is whole between any two calls, so a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
