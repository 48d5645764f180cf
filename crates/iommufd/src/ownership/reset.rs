//! Resets: a device with a translation cache of its own is kept off memory meanwhile, since
//! nothing can be invalidated in it.

use vm_iommu_driver::iommu::Reach;
use vm_iommu_spec::Pasid;

use super::OwnershipError;
use super::group::Group;
use super::state::{DeviceKey, State};

impl Group {
    pub(super) fn reset_begin(&self, key: DeviceKey) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        let member = state.present_member(key)?;
        if !member.endpoint.capabilities.ats {
            return Ok(());
        }
        let depth = member
            .reset_depth
            .checked_add(1)
            .ok_or(OwnershipError::Recovering)?;
        if !member.is_parked() {
            state.park(key)?;
        }
        state.member_mut(key)?.reset_depth = depth;
        Ok(())
    }

    pub(super) fn reset_end(&self, key: DeviceKey) -> Result<(), OwnershipError> {
        let mut state = self.lock();
        let member = state.present_member(key)?;
        if !member.endpoint.capabilities.ats {
            return Ok(());
        }
        let depth = member
            .reset_depth
            .checked_sub(1)
            .ok_or(OwnershipError::NotInReset)?;
        state.member_mut(key)?.reset_depth = depth;
        if depth == 0 {
            state.unpark(key);
        }
        Ok(())
    }
}

impl State {
    /// Blocks all requests of a device, or none.
    fn park(&mut self, key: DeviceKey) -> Result<(), OwnershipError> {
        let endpoint = &self.member(key)?.endpoint;
        let kinds = self.kinds(key);
        for (done, &pasid) in kinds.iter().enumerate() {
            let requester = endpoint.requester();
            if let Err(error) = endpoint.unit.set_reach(requester, pasid, &Reach::Blocked) {
                for &pasid in kinds.iter().take(done).rev() {
                    self.restore_member(key, pasid);
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn unpark(&mut self, key: DeviceKey) {
        for pasid in self.kinds(key) {
            self.restore_member(key, pasid);
        }
    }

    /// The kinds of requests of a device that may be on a table.
    fn kinds(&self, key: DeviceKey) -> Vec<Option<Pasid>> {
        let pasids = self
            .rows
            .iter()
            .filter(|(_, row)| row.written.contains(&key));
        let pasids = pasids.filter_map(|(pasid, _)| pasid.map(Some));
        [None].into_iter().chain(pasids).collect()
    }

    fn restore_member(&mut self, key: DeviceKey, pasid: Option<Pasid>) {
        let index = self
            .members
            .iter()
            .position(|member| member.endpoint.key == key);
        if let Some(index) = index {
            self.restore(index, pasid);
        }
    }
}
