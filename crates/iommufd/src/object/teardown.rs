//! What follows the end of an object.

use super::{HwptKind, Object, Shared};

impl Shared {
    /// Gives back what an object used, that is in the table no more.
    pub(super) fn clean_up(&self, id: u32, object: Object) {
        match object {
            Object::Reserved
            | Object::Tombstone
            | Object::Ioas(_)
            | Object::Device(_)
            | Object::Access(_) => {}
            Object::Paging(hwpt) | Object::Nested(hwpt) => {
                let mut state = self.lock();
                match hwpt.kind() {
                    HwptKind::Paging { .. } => {
                        if let Ok(ioas) = state.objects.ioas_mut(hwpt.ioas()) {
                            ioas.remove_table(id);
                        }
                        state.objects.release(hwpt.ioas());
                    }
                    HwptKind::Nested {
                        viommu: Some(viommu),
                        ..
                    } => {
                        state.objects.release(viommu);
                    }
                    HwptKind::Nested {
                        parent,
                        viommu: None,
                    } => {
                        state.objects.release(parent);
                    }
                }
                if let Some(fault) = hwpt.fault_id() {
                    state.objects.release(fault);
                }
            }
            Object::Fault(queue) => queue.cancel_all(),
            Object::Viommu(viommu) => {
                let mut state = self.lock();
                state.regions.remove(id);
                state.objects.release(viommu.parent);
            }
            Object::Vdevice(vdevice) => self.end_vdevice(&vdevice),
            Object::EventQueue(queue) => {
                let mut state = self.lock();
                if let Ok(viommu) = state.objects.viommu_mut(queue.viommu()) {
                    viommu.event_queues.remove(&queue.kind());
                }
                state.objects.release(queue.viommu());
            }
            Object::HwQueue(queue) => self.end_hw_queue(queue),
            #[cfg(feature = "selftest")]
            Object::Test(device) => device.end(self),
        }
        self.lock().objects.remove(id);
    }
}
