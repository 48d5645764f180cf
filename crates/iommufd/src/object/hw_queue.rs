//! Queues in a machine's memory that a unit works off.

use std::sync::Arc;

use vm_iommu_driver::iommu::{HwQueue, HwQueueRequest};
use vm_iommu_spec::{Iova, PhysAddr};

use super::{Context, Object, Shared};
use crate::Errno;
use crate::caller::PAGE_SIZE;
use crate::memory::Placed;

/// A queue that a unit works off. Its memory is pinned and cannot be unmapped.
#[derive(Debug)]
pub(crate) struct HwQueueObject {
    viommu: u32,
    index: u32,
    /// The queue that must not end before it.
    depends_on: Option<u32>,
    access: u32,
    iova: u64,
    length: u64,
    /// Ends what the unit does.
    driver: Option<Box<dyn HwQueue>>,
}

impl Context {
    /// Makes a queue of a vIOMMU; yields its number, which is not published.
    pub(crate) fn create_hw_queue(
        &self,
        viommu: u32,
        kind: u32,
        index: u32,
        iova: u64,
        length: u64,
    ) -> Result<u32, Errno> {
        let reach = length.checked_sub(1).ok_or(Errno::EINVAL)?;
        iova.checked_add(reach).ok_or(Errno::EOVERFLOW)?;
        let first = iova & !(PAGE_SIZE - 1);
        let whole = (iova - first)
            .checked_add(length)
            .and_then(|sum| sum.checked_next_multiple_of(PAGE_SIZE))
            .ok_or(Errno::ERANGE)?;
        let (driver, ioas, id) = {
            let mut state = self.lock();
            let object = state.objects.viommu(viommu)?;
            if !object.driver.has_hw_queue(kind) {
                return Err(Errno::EOPNOTSUPP);
            }
            let driver = Arc::clone(&object.driver);
            let ioas = state.objects.paging(object.parent)?.ioas();
            let id = state.objects.insert(Object::Reserved)?;
            // It must not go meanwhile.
            state.objects.hold(viommu);
            (driver, ioas, id)
        };
        let made = self
            .create_access(ioas, PAGE_SIZE, None)
            .and_then(|access| {
                let mut state = self.lock();
                let placed = state.pin(access, first, whole, false, true);
                let queue = placed.and_then(|placed| {
                    let address = PhysAddr(contiguous(&placed)?.0 + (iova - first));
                    let request = HwQueueRequest {
                        kind,
                        index,
                        iova: Iova(iova),
                        address,
                        length,
                    };
                    Ok(driver.create_hw_queue(request)?)
                });
                queue.map(|queue| (access, queue)).inspect_err(|_| {
                    state.unpin(access, first, whole, true);
                    drop(state);
                    self.end_access(access);
                })
            });
        let mut state = self.lock();
        let (access, queue) = match made {
            Ok(made) => made,
            Err(error) => {
                state.objects.release(viommu);
                state.objects.remove(id);
                return Err(error);
            }
        };
        let depends_on = queue.depends_on();
        let depends_on = depends_on.and_then(|index| {
            state
                .objects
                .viommu(viommu)
                .ok()?
                .hw_queues
                .get(&index)
                .copied()
        });
        let object = HwQueueObject {
            viommu,
            index,
            depends_on,
            access,
            iova: first,
            length: whole,
            driver: Some(queue),
        };
        state.objects.set(id, Object::HwQueue(object));
        if let Ok(viommu) = state.objects.viommu_mut(viommu) {
            viommu.hw_queues.insert(index, id);
        }
        if let Some(other) = depends_on {
            state.objects.hold(other);
        }
        Ok(id)
    }
}

impl Shared {
    pub(super) fn end_hw_queue(&self, mut queue: HwQueueObject) {
        // The unit stops first.
        drop(queue.driver.take());
        {
            let mut state = self.lock();
            state.unpin(queue.access, queue.iova, queue.length, true);
            if let Ok(viommu) = state.objects.viommu_mut(queue.viommu) {
                viommu.hw_queues.remove(&queue.index);
            }
            if let Some(other) = queue.depends_on {
                state.objects.release(other);
            }
            state.objects.release(queue.viommu);
        }
        self.end_access(queue.access);
    }
}

/// Where pages are that are in one piece.
///
/// # Errors
/// [`Errno::EFAULT`] if they are not.
fn contiguous(placed: &[Placed]) -> Result<PhysAddr, Errno> {
    let start = placed.first().ok_or(Errno::EFAULT)?.address;
    let mut next = start.0;
    for piece in placed {
        if piece.address.0 != next {
            return Err(Errno::EFAULT);
        }
        next += piece.run.length;
    }
    Ok(start)
}
