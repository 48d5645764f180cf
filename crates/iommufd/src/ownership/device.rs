//! A device, and the events that concern one.

use std::sync::{Arc, Mutex, Weak};

use vm_iommu_driver::iommu::{DeviceCapabilities, DeviceInfo, Iommu, Reach, ReservedRegion};
use vm_iommu_spec::{Pasid, RequesterId};

use super::group::{Group, Request, lock};
use super::registry::Registry;
use super::state::Endpoint;
use super::{ContextId, OwnershipError, Table, Target};

/// What kind of driver has a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DriverKind {
    /// Does DMA on the default domain: holds the group for the kernel until it is unbound.
    Kernel,
    /// Does no DMA, like pci-stub or a port driver.
    Safe,
    /// Hands the device to a user, like vfio: only its claim counts.
    User,
}

/// A device of a unit.
///
/// A group's devices are known to [`Ownership`](super::Ownership) until they are removed. A
/// PASID of `None`, or 0, stands for requests without PASID.
#[derive(Debug)]
pub struct Device {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) registry: Weak<Registry>,
    /// None as long as it is in no group; stays after a removal, for what is still claimed.
    pub(super) group: Mutex<Option<Arc<Group>>>,
}

impl Device {
    /// Who it is.
    pub fn requester(&self) -> RequesterId {
        self.endpoint.requester()
    }

    /// As the bus describes it.
    pub fn info(&self) -> &DeviceInfo {
        &self.endpoint.info
    }

    /// The unit that it is behind.
    pub fn unit(&self) -> &Arc<dyn Iommu> {
        &self.endpoint.unit
    }

    /// What it can do at its unit.
    pub fn capabilities(&self) -> DeviceCapabilities {
        self.endpoint.capabilities
    }

    /// Its addresses that are not free.
    pub fn reserved_regions(&self) -> &[ReservedRegion] {
        &self.endpoint.regions
    }

    /// The group that it is in, or was in when it was removed.
    pub fn group(&self) -> Option<Arc<Group>> {
        lock(&self.group).clone()
    }

    fn grouped(&self) -> Result<Arc<Group>, OwnershipError> {
        self.group().ok_or(OwnershipError::NoGroup)
    }

    /// Gives the device a driver.
    ///
    /// # Errors
    /// [`NoGroup`](OwnershipError::NoGroup), [`DriverBound`](OwnershipError::DriverBound);
    /// [`Owned`](OwnershipError::Owned) for a kernel driver, while a user owns the group.
    pub fn bind(&self, driver: DriverKind) -> Result<(), OwnershipError> {
        self.grouped()?.bind(self.endpoint.key, driver)
    }

    /// Takes the driver away. A user driver is waited for until the device is released; its owner
    /// is asked for that ([`on_request`](Self::on_request)).
    ///
    /// # Errors
    /// [`NoGroup`](OwnershipError::NoGroup).
    pub fn unbind(&self) -> Result<(), OwnershipError> {
        self.grouped()?.unbind(self.endpoint.key, true)
    }

    /// As [`unbind`](Self::unbind), without waiting.
    ///
    /// # Errors
    /// [`Claimed`](OwnershipError::Claimed) where that would wait.
    pub fn try_unbind(&self) -> Result<(), OwnershipError> {
        self.grouped()?.unbind(self.endpoint.key, false)
    }

    /// Whom to ask for the release of this device, when its driver is to be unbound or it is to be
    /// removed. Called without any lock, each time somebody begins to wait; forgotten with the
    /// release.
    pub fn on_request(&self, request: Request) {
        if let Some(group) = self.group() {
            group.set_request(self.endpoint.key, request);
        }
    }

    /// A context claims the device. The first claim in a group makes the context its owner, and
    /// blocks all its devices.
    ///
    /// # Errors
    /// In this order: [`ClaimedAlready`](OwnershipError::ClaimedAlready),
    /// [`NotCoherent`](OwnershipError::NotCoherent), [`NoGroup`](OwnershipError::NoGroup),
    /// [`SharedInterrupts`](OwnershipError::SharedInterrupts),
    /// [`NotPermitted`](OwnershipError::NotPermitted); for a first claim
    /// [`Recovering`](OwnershipError::Recovering),
    /// [`RequiresDirect`](OwnershipError::RequiresDirect), and what the unit refuses.
    #[doc(alias = "init_user_dma")]
    #[doc(alias = "iommu_device_init_user_dma")]
    pub fn claim(&self, context: ContextId) -> Result<(), OwnershipError> {
        let unsafe_interrupts = self
            .registry
            .upgrade()
            .is_some_and(|registry| registry.unsafe_interrupts());
        if let Some(group) = self.group()
            && group.is_claimed(self.endpoint.key)
        {
            return Err(OwnershipError::ClaimedAlready);
        }
        let capabilities = self.endpoint.unit.capabilities();
        if !capabilities.coherent {
            return Err(OwnershipError::NotCoherent);
        }
        let group = self.grouped()?;
        group.claim_device(
            self.endpoint.key,
            context,
            capabilities.isolated_msi || unsafe_interrupts,
        )
    }

    /// The context gives the device back. With the last one, the group is on its default domain
    /// again. All devices that do not take it stay blocked ([`GroupView::stuck`]).
    ///
    /// [`GroupView::stuck`]: super::GroupView::stuck
    ///
    /// # Errors
    /// [`NotClaimed`](OwnershipError::NotClaimed), [`Attached`](OwnershipError::Attached).
    #[doc(alias = "exit_user_dma")]
    #[doc(alias = "iommu_device_exit_user_dma")]
    pub fn release(&self) -> Result<(), OwnershipError> {
        let group = self.group().ok_or(OwnershipError::NotClaimed)?;
        group.release_device(self.endpoint.key)
    }

    /// What the end of a device file does: detaches all PASIDs in ascending order, then requests
    /// without PASID, and releases the device.
    ///
    /// # Errors
    /// [`NotClaimed`](OwnershipError::NotClaimed).
    pub fn close(&self) -> Result<(), OwnershipError> {
        let group = self.group().ok_or(OwnershipError::NotClaimed)?;
        group.close(self.endpoint.key)
    }

    /// Attaches the device to a table of `context`, or to one of the automatic tables of an
    /// address space. The first device of a group puts the whole group on the table; the others
    /// must name the same.
    ///
    /// # Errors
    /// In this order: [`NoTable`](OwnershipError::NoTable),
    /// [`NotClaimed`](OwnershipError::NotClaimed), [`Attached`](OwnershipError::Attached),
    /// [`OtherTable`](OwnershipError::OtherTable),
    /// [`AddressInUse`](OwnershipError::AddressInUse). For the first device
    /// [`VirtualFunctionPri`](OwnershipError::VirtualFunctionPri),
    /// [`NotForPasids`](OwnershipError::NotForPasids),
    /// [`Unsupported`](OwnershipError::Unsupported),
    /// [`NotCompatible`](OwnershipError::NotCompatible) for a table of another kind of unit,
    /// [`Recovering`](OwnershipError::Recovering), [`PasidLimit`](OwnershipError::PasidLimit),
    /// [`NotCompatible`](OwnershipError::NotCompatible) for a table that does not fit a device,
    /// and what the unit refuses. [`NoGroup`](OwnershipError::NoGroup) of a removed device.
    #[doc(alias = "iommu_attach_device")]
    pub fn attach(
        &self,
        context: ContextId,
        pasid: Option<Pasid>,
        target: &Target,
    ) -> Result<(), OwnershipError> {
        let group = self.grouped()?;
        group.attach(self.endpoint.key, context, row_of(pasid), target)
    }

    /// Puts the whole group on another table in place of the one that this device is attached to,
    /// without anything between: a request sees the old table, the new one, or is refused.
    ///
    /// # Errors
    /// As [`attach`](Self::attach), but for [`NotAttached`](OwnershipError::NotAttached) in place
    /// of `Attached` and `OtherTable`.
    pub fn replace(
        &self,
        context: ContextId,
        pasid: Option<Pasid>,
        target: &Target,
    ) -> Result<(), OwnershipError> {
        let group = self.grouped()?;
        group.replace(self.endpoint.key, context, row_of(pasid), target)
    }

    /// Detaches the device, if it is attached. The last device of a group leaves the whole group
    /// blocked.
    #[doc(alias = "iommu_detach_device")]
    pub fn detach(&self, pasid: Option<Pasid>) {
        if let Some(group) = self.group() {
            group.detach(self.endpoint.key, row_of(pasid));
        }
    }

    /// The table that the device is attached to.
    pub fn table(&self, pasid: Option<Pasid>) -> Option<Arc<dyn Table>> {
        self.group()?.table_of(self.endpoint.key, row_of(pasid))
    }

    /// What its requests are to reach now.
    pub fn reach(&self, pasid: Option<Pasid>) -> Reach {
        match self.group() {
            Some(group) => group.reach_of(self.endpoint.key, row_of(pasid)),
            None => Reach::Blocked,
        }
    }

    /// A reset begins: a device with a translation cache of its own (ATS) is blocked until the
    /// last end of it. For others nothing happens.
    ///
    /// # Errors
    /// [`NoGroup`](OwnershipError::NoGroup), and what the unit refuses.
    pub fn reset_begin(&self) -> Result<(), OwnershipError> {
        self.grouped()?.reset_begin(self.endpoint.key)
    }

    /// A reset has ended. After the last the device reaches what it is to reach at this moment.
    ///
    /// # Errors
    /// [`NoGroup`](OwnershipError::NoGroup), [`NotInReset`](OwnershipError::NotInReset).
    pub fn reset_end(&self) -> Result<(), OwnershipError> {
        self.grouped()?.reset_end(self.endpoint.key)
    }

    /// Removes the device in order: waits until it is released, for which its owner is asked
    /// ([`on_request`](Self::on_request)), and takes its driver and its group away. Its requests
    /// are refused from then on, or pass through if firmware requires a region of it.
    ///
    /// # Errors
    /// [`NoGroup`](OwnershipError::NoGroup); what the unit refuses, then it is still there.
    pub fn remove(&self) -> Result<(), OwnershipError> {
        self.remove_in_order(true)
    }

    /// As [`remove`](Self::remove), without waiting.
    ///
    /// # Errors
    /// [`Claimed`](OwnershipError::Claimed) where that would wait.
    pub fn try_remove(&self) -> Result<(), OwnershipError> {
        self.remove_in_order(false)
    }

    fn remove_in_order(&self, wait: bool) -> Result<(), OwnershipError> {
        match self.group() {
            Some(group) => group.remove(self.endpoint.key, wait)?,
            None => self.endpoint.unit.release_device(self.requester(), false)?,
        }
        self.forget();
        Ok(())
    }

    /// The device is gone: its requests are refused from now on. Calls answer
    /// [`NoGroup`](OwnershipError::NoGroup), but what was claimed and attached is detached and
    /// released as ever.
    pub fn surprise_remove(&self) {
        match self.group() {
            Some(group) => group.lose(self.endpoint.key),
            None => {
                self.endpoint.abandon();
            }
        }
        self.forget();
    }

    fn forget(&self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.forget(self);
        }
    }
}

/// PASID 0 is how Linux names requests without PASID.
fn row_of(pasid: Option<Pasid>) -> Option<Pasid> {
    pasid.filter(|pasid| pasid.raw() != 0)
}
