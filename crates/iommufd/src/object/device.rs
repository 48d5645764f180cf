//! Devices as objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use vm_iommu_driver::iommu::HardwareInfo;
use vm_iommu_spec::{Pasid, RequesterId};

use super::space::Space;
use super::{Context, Object, State};
use crate::Errno;
use crate::ownership::{Device, Target};

/// A device that is bound to a context.
#[derive(Debug)]
pub(crate) struct DeviceObject {
    device: Arc<Device>,
    /// The tables that it is attached to.
    tables: BTreeMap<Option<Pasid>, u32>,
    /// The device of a virtual machine that it is.
    pub(crate) vdevice: Option<u32>,
    /// It is being unbound: nothing new may refer to it.
    pub(crate) leaving: bool,
}

impl DeviceObject {
    pub(super) fn new(device: Arc<Device>) -> Self {
        Self {
            device,
            tables: BTreeMap::new(),
            vdevice: None,
            leaving: false,
        }
    }

    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The table that it is attached to.
    pub(crate) fn table(&self, pasid: Option<Pasid>) -> Option<u32> {
        self.tables.get(&pasid).copied()
    }
}

/// Whether a device is to be put on a table, or on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Attach,
    Replace,
}

/// What a caller can learn about a device.
#[derive(Debug)]
pub(crate) struct DeviceReport {
    pub(crate) info: HardwareInfo,
    pub(crate) dirty_tracking: bool,
    pub(crate) ats: bool,
    pub(crate) pasid_bits: u8,
}

impl Context {
    /// Attaches a device to an address space or a table; yields the table.
    pub(crate) fn change_table(
        &self,
        device: u32,
        pasid: Option<Pasid>,
        on: u32,
        change: Change,
    ) -> Result<u32, Errno> {
        let (handle, target) = {
            let mut state = self.lock();
            let handle = Arc::clone(state.objects.device(device)?.device());
            let target = match state.objects.get(on)? {
                Object::Ioas(object) => Target::Space(Arc::new(Space {
                    shared: Arc::downgrade(&self.shared),
                    context: self.shared.id,
                    ioas: on,
                    space: object.ioas.space(),
                })),
                Object::Paging(hwpt) | Object::Nested(hwpt) => Target::Table(Arc::clone(hwpt) as _),
                _ => return Err(Errno::EINVAL),
            };
            // It must not go meanwhile.
            state.objects.hold(on);
            (handle, target)
        };
        let context = self.shared.id;
        let result = match change {
            Change::Attach => handle.attach(context, pasid, &target),
            Change::Replace => handle.replace(context, pasid, &target),
        };
        let (gone, table) = {
            let mut state = self.lock();
            let last = state.objects.release(on);
            // An automatic table may have lost its last device meanwhile.
            let ended = last
                && matches!(state.objects.get(on), Ok(Object::Paging(hwpt)) if hwpt.is_automatic());
            let gone = if ended { state.objects.take(on) } else { None };
            (
                gone,
                state
                    .objects
                    .device(device)
                    .ok()
                    .and_then(|device| device.table(pasid)),
            )
        };
        if let Some(gone) = gone {
            self.shared.clean_up(on, gone);
        }
        result.map_err(Errno::from)?;
        table.ok_or(Errno::ENODEV)
    }

    /// Detaches a device, if it is attached.
    pub(crate) fn detach(&self, device: u32, pasid: Option<Pasid>) -> Result<(), Errno> {
        let handle = Arc::clone(self.lock().objects.device(device)?.device());
        handle.detach(pasid);
        Ok(())
    }

    /// What the unit says about itself and a device; `kind` asks for one format, 0 for its own.
    pub(crate) fn device_report(&self, device: u32, kind: u32) -> Result<DeviceReport, Errno> {
        let handle = Arc::clone(self.lock().objects.device(device)?.device());
        let unit = handle.unit();
        let capabilities = handle.capabilities();
        Ok(DeviceReport {
            info: unit.hardware_info(handle.requester(), kind)?,
            dirty_tracking: unit.capabilities().dirty_tracking,
            ats: capabilities.ats,
            pasid_bits: capabilities.pasid_bits,
        })
    }
}

impl State {
    /// The number of the device of a requester.
    pub(crate) fn device_of(&self, requester: RequesterId) -> Option<u32> {
        self.devices.get(&requester).copied()
    }

    pub(super) fn attach_device(&mut self, device: RequesterId, pasid: Option<Pasid>, table: u32) {
        let Some(id) = self.device_of(device) else {
            return;
        };
        if let Ok(object) = self.objects.device_mut(id)
            && object.tables.insert(pasid, table).is_none()
        {
            self.objects.hold(id);
        }
    }

    pub(super) fn detach_device(&mut self, device: RequesterId, pasid: Option<Pasid>, table: u32) {
        let Some(id) = self.device_of(device) else {
            return;
        };
        // After a replacement it is on another table already.
        if let Ok(object) = self.objects.device_mut(id)
            && object.tables.get(&pasid) == Some(&table)
        {
            object.tables.remove(&pasid);
            self.objects.release(id);
        }
    }
}
