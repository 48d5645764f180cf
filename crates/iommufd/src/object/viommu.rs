//! vIOMMUs and the devices of virtual machines.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use vm_iommu_driver::iommu::{Iommu, IommuError, SharedPages, Viommu, ViommuRequest};
use vm_iommu_spec::RequesterId;

use super::{Context, EventQueue, HwptKind, Object, Shared};
use crate::Errno;

/// A unit's part for one virtual machine.
pub(crate) struct ViommuObject {
    pub(crate) unit: Arc<dyn Iommu>,
    pub(crate) driver: Arc<dyn Viommu>,
    /// The nesting parent.
    pub(crate) parent: u32,
    /// Its devices by the guest's number.
    pub(crate) vdevices: BTreeMap<u64, u32>,
    /// Its queues of events by type.
    pub(crate) event_queues: BTreeMap<u32, Arc<EventQueue>>,
    /// Its hardware queues by index.
    pub(crate) hw_queues: BTreeMap<u32, u32>,
}

/// A device of a virtual machine.
#[derive(Debug)]
pub(crate) struct VdeviceObject {
    pub(crate) viommu: u32,
    pub(crate) device: u32,
    requester: RequesterId,
    pub(crate) virtual_id: u64,
}

impl Context {
    /// Makes a vIOMMU on a nesting parent; yields its number, which is not published. `data` is
    /// read and may be written.
    pub(crate) fn create_viommu(
        &self,
        device: u32,
        parent: u32,
        kind: u32,
        data: &mut dyn FnMut() -> Result<Vec<u8>, Errno>,
        answer: &mut dyn FnMut(&[u8]) -> Result<(), Errno>,
    ) -> Result<u32, Errno> {
        let device = Arc::clone(self.lock().objects.device(device)?.device());
        let (unit, requester) = (Arc::clone(device.unit()), device.requester());
        if !unit.has_viommu(requester, kind) {
            return Err(Errno::EOPNOTSUPP);
        }
        let (domain, id) = {
            let mut state = self.lock();
            let hwpt = Arc::clone(state.objects.paging(parent)?);
            if !matches!(
                hwpt.kind(),
                HwptKind::Paging {
                    nest_parent: true,
                    ..
                }
            ) {
                return Err(Errno::EINVAL);
            }
            // It must not go meanwhile.
            let id = state.objects.insert(Object::Reserved)?;
            state.objects.hold(parent);
            (crate::ownership::Table::domain(&*hwpt), id)
        };
        let mut memory = Vec::new();
        let made = data().and_then(|mut bytes| {
            let mut share = |length| -> Result<Box<dyn SharedPages>, IommuError> {
                let (pages, kept) = self.lock().regions.allocate(length)?;
                memory.push(kept);
                Ok(pages)
            };
            let request = ViommuRequest {
                kind,
                data: &mut bytes,
                share: &mut share,
            };
            let driver = unit.viommu(requester, &domain, request)?;
            answer(&bytes)?;
            Ok(driver)
        });
        let mut state = self.lock();
        let driver = match made {
            Ok(driver) => driver,
            Err(error) => {
                state.regions.give_back(&memory);
                state.objects.release(parent);
                state.objects.remove(id);
                return Err(error);
            }
        };
        state.regions.own(id, memory);
        let viommu = ViommuObject {
            unit,
            driver,
            parent,
            vdevices: BTreeMap::new(),
            event_queues: BTreeMap::new(),
            hw_queues: BTreeMap::new(),
        };
        state.objects.set(id, Object::Viommu(viommu));
        Ok(id)
    }

    /// Makes a device of a virtual machine; yields its number, which is not published.
    pub(crate) fn create_vdevice(
        &self,
        viommu: u32,
        device: u32,
        virtual_id: u64,
    ) -> Result<u32, Errno> {
        let mut state = self.lock();
        let parts = state.objects.viommu(viommu)?;
        let bound = state.objects.device(device)?;
        let (driver, requester) = (Arc::clone(&parts.driver), bound.device().requester());
        if !Arc::ptr_eq(&parts.unit, bound.device().unit()) {
            return Err(Errno::EINVAL);
        }
        if bound.leaving {
            return Err(Errno::ENOENT);
        }
        if bound.vdevice.is_some() || parts.vdevices.contains_key(&virtual_id) {
            return Err(Errno::EEXIST);
        }
        driver.add_device(requester, virtual_id)?;
        let vdevice = VdeviceObject {
            viommu,
            device,
            requester,
            virtual_id,
        };
        let id = match state.objects.insert(Object::Vdevice(vdevice)) {
            Ok(id) => id,
            Err(error) => {
                driver.remove_device(requester);
                return Err(error);
            }
        };
        state
            .objects
            .viommu_mut(viommu)?
            .vdevices
            .insert(virtual_id, id);
        state.objects.hold(viommu);
        state.objects.device_mut(device)?.vdevice = Some(id);
        Ok(id)
    }

    /// Whether a unit's event of a device is for a vIOMMU: that of the nested table that it is
    /// attached to, and the guest's number of the device.
    pub fn event_target(&self, requester: RequesterId) -> Option<(u32, u64)> {
        let state = self.lock();
        let device = state.objects.device(state.device_of(requester)?).ok()?;
        let Ok(Object::Nested(hwpt)) = state.objects.get(device.table(None)?) else {
            return None;
        };
        let HwptKind::Nested {
            viommu: Some(viommu),
            ..
        } = hwpt.kind()
        else {
            return None;
        };
        let vdevice = state.objects.vdevice(device.vdevice?).ok()?;
        (vdevice.viommu == viommu).then_some((viommu, vdevice.virtual_id))
    }
}

impl Shared {
    pub(super) fn end_vdevice(&self, vdevice: &VdeviceObject) {
        let mut state = self.lock();
        if let Ok(device) = state.objects.device_mut(vdevice.device) {
            device.vdevice = None;
        }
        if let Ok(viommu) = state.objects.viommu_mut(vdevice.viommu) {
            viommu.vdevices.remove(&vdevice.virtual_id);
            viommu.driver.remove_device(vdevice.requester);
        }
        state.objects.release(vdevice.viommu);
    }
}

impl fmt::Debug for ViommuObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViommuObject")
            .field("driver", &self.driver)
            .field("parent", &self.parent)
            .field("vdevices", &self.vdevices)
            .finish_non_exhaustive()
    }
}
