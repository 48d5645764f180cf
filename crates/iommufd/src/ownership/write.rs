//! Putting a group on another table.

use vm_iommu_driver::iommu::Reach;
use vm_iommu_spec::Pasid;

use super::state::{DeviceKey, Member, State};
use super::{OwnershipError, Table};

/// How often a driver is told what it cannot refuse.
const ATTEMPTS: usize = 2;

impl State {
    /// Puts every member that a write concerns on `reach`, in order. If one fails, those before it
    /// go back to what the state says; the one that failed never left.
    pub(super) fn write(
        &mut self,
        pasid: Option<Pasid>,
        reach: &Reach,
    ) -> Result<(), OwnershipError> {
        let targets = self.targets(pasid);
        for (done, &index) in targets.iter().enumerate() {
            let Some(member) = self.members.get_mut(index) else {
                continue;
            };
            let endpoint = &member.endpoint;
            match endpoint.unit.set_reach(endpoint.requester(), pasid, reach) {
                Ok(()) => {
                    member.stuck.remove(&pasid);
                }
                Err(error) => {
                    for &index in targets.iter().take(done).rev() {
                        self.restore(index, pasid);
                    }
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Puts every member that a write concerns on what the state says. Who does not take it stays
    /// blocked.
    pub(super) fn settle(&mut self, pasid: Option<Pasid>) {
        for index in self.targets(pasid) {
            self.restore(index, pasid);
        }
    }

    /// Puts one member on what the state says.
    pub(super) fn restore(&mut self, index: usize, pasid: Option<Pasid>) {
        let Some(member) = self.members.get(index) else {
            return;
        };
        let reach = self.reach(member, pasid);
        if let Some(member) = self.members.get_mut(index) {
            force(member, pasid, &reach);
        }
    }

    /// The keys of the members that serve such requests: who has been in the group at a write.
    pub(super) fn written(&self, pasid: Option<Pasid>) -> impl Iterator<Item = DeviceKey> {
        self.present()
            .filter(move |member| member.endpoint.serves(pasid))
            .map(|member| member.endpoint.key)
    }

    fn targets(&self, pasid: Option<Pasid>) -> Vec<usize> {
        let members = self.members.iter().enumerate();
        members
            .filter(|(_, member)| member.takes(pasid))
            .map(|(index, _)| index)
            .collect()
    }
}

/// Has the unit take `reach` for a member, or else block it, and remembers whether it did.
pub(super) fn force(member: &mut Member, pasid: Option<Pasid>, reach: &Reach) {
    let endpoint = &member.endpoint;
    let requester = endpoint.requester();
    let takes = |reach: &Reach| {
        (0..ATTEMPTS).any(|_| endpoint.unit.set_reach(requester, pasid, reach).is_ok())
    };
    if takes(reach) {
        member.stuck.remove(&pasid);
        return;
    }
    let blocked = !matches!(reach, Reach::Blocked) && takes(&Reach::Blocked);
    log::error!(
        "{requester}: the unit does not take what the device should reach; {}",
        if blocked {
            "it is blocked"
        } else {
            "nor does it block it"
        }
    );
    member.stuck.insert(pasid);
}

/// Tells the table that its devices left it.
pub(super) fn cancel_page_requests<'a>(
    members: impl Iterator<Item = &'a Member>,
    table: &dyn Table,
    pasid: Option<Pasid>,
) {
    for member in members {
        table.cancel_page_requests(member.endpoint.requester(), pasid);
    }
}
