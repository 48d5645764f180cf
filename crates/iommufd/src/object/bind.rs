//! Binding devices to a context.

use std::fmt;
use std::sync::Arc;

use vm_iommu_spec::Pasid;

use super::device::Change;
use super::{AttachTarget, Context, DeviceObject, Object, Shared};
use crate::Errno;
use crate::ownership::Device;

/// A device that is bound to a context; dropping it unbinds the device, as the close of its file
/// does: it is detached, and the context's claim ends.
pub struct BoundDevice {
    context: Arc<Context>,
    id: u32,
}

impl Context {
    /// Claims a device for the context.
    ///
    /// # Errors
    /// What [`Device::claim`] says.
    pub fn bind(self: &Arc<Self>, device: &Arc<Device>) -> Result<BoundDevice, Errno> {
        let id = self.shared.bind(device)?;
        Ok(BoundDevice {
            context: Arc::clone(self),
            id,
        })
    }
}

impl BoundDevice {
    /// Its number in the context.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Attaches the device, or puts it on another table if it is attached already: to a table, or
    /// one of the automatic tables of an address space. `pasid` chooses which requests. Yields the
    /// number of the table.
    ///
    /// # Errors
    /// [`Errno::ENOENT`], [`EINVAL`](Errno::EINVAL) for other objects, and what
    /// [`Device::attach`] and [`Device::replace`] say.
    pub fn attach(&self, pasid: Option<Pasid>, on: &impl AttachTarget) -> Result<u32, Errno> {
        let attached = {
            let state = self.context.lock();
            state.objects.device(self.id)?.table(pasid).is_some()
        };
        let change = if attached {
            Change::Replace
        } else {
            Change::Attach
        };
        self.context.change_table(self.id, pasid, on.id(), change)
    }

    /// Detaches the device. Nothing happens if it is not attached.
    ///
    /// # Errors
    /// [`Errno::ENOENT`].
    pub fn detach(&self, pasid: Option<Pasid>) -> Result<(), Errno> {
        self.context.detach(self.id, pasid)
    }
}

impl Drop for BoundDevice {
    fn drop(&mut self) {
        self.context.shared.unbind(self.id);
    }
}

impl fmt::Debug for BoundDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundDevice")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn bind(&self, device: &Arc<Device>) -> Result<u32, Errno> {
        let id = self.lock().objects.insert(Object::Reserved)?;
        if let Err(error) = device.claim(self.id) {
            self.lock().objects.remove(id);
            return Err(error.into());
        }
        let mut state = self.lock();
        state
            .objects
            .set(id, Object::Device(DeviceObject::new(Arc::clone(device))));
        // Only who bound it may end it.
        state.objects.hold(id);
        state.objects.publish(id);
        state.devices.insert(device.requester(), id);
        Ok(id)
    }

    pub(crate) fn unbind(&self, id: u32) {
        let device = {
            let mut state = self.lock();
            let Ok(object) = state.objects.device_mut(id) else {
                return;
            };
            object.leaving = true;
            Arc::clone(object.device())
        };
        if let Err(error) = device.close() {
            let requester = device.requester();
            log::error!("device {requester} was not claimed when it was unbound: {error}");
        }
        // The guest's device ends with it; its number stays, for the guest's VMM names it yet.
        let vdevice = {
            let mut state = self.lock();
            let vdevice = state
                .objects
                .device_mut(id)
                .ok()
                .and_then(|object| object.vdevice);
            vdevice.and_then(|vdevice| state.objects.bury(vdevice, id))
        };
        if let Some(vdevice) = vdevice {
            self.end_vdevice(&vdevice);
        }
        let mut state = self.lock();
        state.devices.remove(&device.requester());
        state.objects.remove(id);
    }
}
