//! Who owns a group: claims and releases.

use std::sync::Arc;

use vm_iommu_driver::iommu::{Domain, Reach};

use super::default_domain::{DefaultDomain, DefaultType};
use super::group::Group;
use super::state::{DeviceKey, Endpoint, State};
use super::{ContextId, OwnershipError};

impl Group {
    pub(super) fn claim_device(
        &self,
        key: DeviceKey,
        context: ContextId,
        isolated: bool,
    ) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        // It may have been claimed since the caller looked.
        if state.present_member(key)?.claimed {
            return Err(OwnershipError::ClaimedAlready);
        }
        if !isolated {
            return Err(OwnershipError::SharedInterrupts);
        }
        let shared = state.owner == Some(context) && !state.whole;
        if state.owner.is_some() && !shared || state.held_by_kernel() {
            return Err(OwnershipError::NotPermitted);
        }
        if state.owner.is_none() {
            state.take(context)?;
        }
        state.member_mut(key)?.claimed = true;
        Ok(())
    }

    /// A context claims the group as a whole, as the legacy container does, and gives it back so.
    ///
    /// # Errors
    /// [`NoGroup`](OwnershipError::NoGroup) if no device is there,
    /// [`NotPermitted`](OwnershipError::NotPermitted) if the group is owned, even by the same
    /// context, or held by a kernel driver; then as a first [`claim`](super::Device::claim).
    pub fn claim(&self, context: ContextId) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        if state.present().next().is_none() {
            return Err(OwnershipError::NoGroup);
        }
        if state.owner.is_some() || state.held_by_kernel() {
            return Err(OwnershipError::NotPermitted);
        }
        state.take(context)?;
        state.whole = true;
        for member in &mut state.members {
            member.claimed = !member.gone;
        }
        Ok(())
    }

    /// Gives back a group that was claimed as a whole.
    ///
    /// # Errors
    /// [`NotClaimed`](OwnershipError::NotClaimed) if it was not, by this context;
    /// [`Attached`](OwnershipError::Attached) if a device is still attached.
    pub fn release(&self, context: ContextId) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        if !state.whole || state.owner != Some(context) {
            return Err(OwnershipError::NotClaimed);
        }
        if !state.rows.is_empty() {
            return Err(OwnershipError::Attached);
        }
        state.members.retain(|member| !member.gone);
        for member in &mut state.members {
            member.claimed = false;
            self.forget_request(member.endpoint.key);
        }
        state.give_back();
        self.released.notify_all();
        Ok(())
    }

    pub(super) fn release_device(&self, key: DeviceKey) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        state.release(key)?;
        self.forget_request(key);
        self.released.notify_all();
        Ok(())
    }

    pub(super) fn close(&self, key: DeviceKey) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        if !state.may_release(key) {
            return Err(OwnershipError::NotClaimed);
        }
        let pasids: Vec<_> = state.rows.keys().copied().flatten().collect();
        for pasid in pasids.into_iter().map(Some).chain([None]) {
            state.detach(key, pasid);
        }
        state.release(key)?;
        self.forget_request(key);
        self.released.notify_all();
        Ok(())
    }

    /// The group's default domain: where kernel drivers map what their devices use.
    pub fn default_domain(&self) -> Arc<dyn Domain> {
        Arc::clone(&self.lock().default.domain)
    }

    /// Changes how the default domain treats requests, and puts the group on the new one.
    ///
    /// # Errors
    /// [`NotPermitted`](OwnershipError::NotPermitted) while the group is owned or held by a kernel
    /// driver, [`NoGroup`](OwnershipError::NoGroup) if no device is there, and what the unit
    /// refuses.
    pub fn set_default_type(&self, kind: DefaultType) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        if state.owner.is_some() || state.held_by_kernel() {
            return Err(OwnershipError::NotPermitted);
        }
        if state.default.kind == kind {
            return Ok(());
        }
        let mut devices = state.present().map(|member| &*member.endpoint);
        let first = devices.next().ok_or(OwnershipError::NoGroup)?;
        let default = new_default(kind, first, devices)?;
        state.write(None, &Reach::Domain(default.domain.clone()))?;
        state.default = default;
        Ok(())
    }
}

fn new_default<'a>(
    kind: DefaultType,
    first: &Endpoint,
    others: impl Iterator<Item = &'a Endpoint>,
) -> Result<DefaultDomain, OwnershipError> {
    let default = DefaultDomain::new(kind, first)?;
    for device in others {
        default.map_regions(device)?;
    }
    Ok(default)
}

impl State {
    /// The first claim: from here on nothing is reached but what the owner attaches.
    fn take(&mut self, context: ContextId) -> Result<(), OwnershipError> {
        if self.is_recovering() {
            return Err(OwnershipError::Recovering);
        }
        if self.present().any(|member| member.endpoint.is_direct()) {
            return Err(OwnershipError::RequiresDirect);
        }
        self.write(None, &Reach::Blocked)?;
        self.owner = Some(context);
        Ok(())
    }

    /// The last release: the group is on its default domain again.
    fn give_back(&mut self) {
        self.owner = None;
        self.whole = false;
        self.settle(None);
    }

    /// Whether a device was claimed by itself.
    fn may_release(&self, key: DeviceKey) -> bool {
        !self.whole && self.member(key).is_ok_and(|member| member.claimed)
    }

    fn release(&mut self, key: DeviceKey) -> Result<(), OwnershipError> {
        if !self.may_release(key) {
            return Err(OwnershipError::NotClaimed);
        }
        if self.rows.values().any(|row| row.members.contains(&key)) {
            return Err(OwnershipError::Attached);
        }
        let member = self.member_mut(key)?;
        member.claimed = false;
        if member.gone {
            self.members.retain(|member| member.endpoint.key != key);
        }
        if !self.members.iter().any(|member| member.claimed) {
            self.give_back();
        }
        Ok(())
    }
}
