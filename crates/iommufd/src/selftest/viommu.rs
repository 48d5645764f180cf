//! Mock vIOMMUs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vm_iommu_driver::iommu::{
    Domain, HwQueue, HwQueueRequest, IommuError, PagingOptions, SharedPages, UserData, Viommu,
    ViommuRequest,
};
use vm_iommu_spec::RequesterId;

use super::nested::{ALL, Description, NestedDomain, each, words};
use super::unit::{CACHES, Devices};
use crate::PAGE_SIZE;

/// Linux `IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST`.
const INVALIDATION: u32 = 0xdead_beef;
/// Linux `IOMMU_HW_QUEUE_TYPE_SELFTEST`.
const HW_QUEUE: u32 = 0xdead_beef;
/// How many queues there are.
const HW_QUEUES: u32 = 2;
/// The size of Linux `struct iommu_viommu_selftest`, and of its part that must be there.
const DATA: usize = 24;
const LEAST: usize = 8;

/// A mock vIOMMU: loops back a word, in its structure and in memory that it shares, and has
/// queues that must be made in order.
#[derive(Debug)]
pub(super) struct MockViommu {
    this: Weak<Self>,
    parent: Arc<dyn Domain>,
    /// The guest's numbers of its devices.
    devices: Mutex<BTreeMap<RequesterId, u64>>,
    queues: Arc<Mutex<[bool; HW_QUEUES as usize]>>,
    /// All devices of the unit.
    all: Arc<Devices>,
    _shared: Option<Box<dyn SharedPages>>,
}

impl MockViommu {
    /// Linux `IOMMU_VIOMMU_TYPE_SELFTEST`.
    pub(super) const KIND: u32 = 0xdead_beef;

    pub(super) fn create(
        parent: Arc<dyn Domain>,
        all: Arc<Devices>,
        request: ViommuRequest<'_>,
    ) -> Result<Arc<dyn Viommu>, IommuError> {
        if request.kind != Self::KIND {
            return Err(IommuError::Unsupported);
        }
        let data = request.data;
        let shared = if data.is_empty() {
            None
        } else {
            let [word] = words(data, LEAST..=DATA)?;
            let length = 2 * PAGE_SIZE;
            let pages = (request.share)(length)?;
            pages.write(0, &word.to_le_bytes())?;
            let mut answer = Vec::with_capacity(DATA);
            answer.extend_from_slice(&word.to_le_bytes());
            answer.extend_from_slice(&word.to_le_bytes());
            answer.extend_from_slice(&pages.offset().to_le_bytes());
            answer.extend_from_slice(&length.to_le_bytes());
            data.iter_mut()
                .zip(answer)
                .for_each(|(to, from)| *to = from);
            Some(pages)
        };
        Ok(Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            parent,
            devices: Mutex::default(),
            queues: Arc::default(),
            all,
            _shared: shared,
        }))
    }

    pub(super) fn has_device(&self, device: RequesterId) -> bool {
        self.lock().contains_key(&device)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RequesterId, u64>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn invalidate(&self, entry: &[u8]) -> Result<(), IommuError> {
        let [flags, virtual_id, cache] = words(entry, 12..=12)?;
        if flags & !ALL != 0 {
            return Err(IommuError::Unsupported);
        }
        if cache as usize >= CACHES {
            return Err(IommuError::Invalid);
        }
        let device = {
            let devices = self.lock();
            let found = devices.iter().find(|(_, id)| **id == u64::from(virtual_id));
            *found.ok_or(IommuError::Invalid)?.0
        };
        self.all
            .invalidate(device, (flags & ALL == 0).then_some(cache as usize));
        Ok(())
    }
}

impl Viommu for MockViommu {
    fn nested_domain(
        &self,
        options: PagingOptions,
        data: UserData<'_>,
    ) -> Result<Arc<dyn Domain>, IommuError> {
        let viommu = self.this.upgrade();
        Ok(Arc::new(NestedDomain::new(
            Description::read(data)?,
            options,
            viommu,
        )))
    }

    fn add_device(&self, device: RequesterId, virtual_id: u64) -> Result<(), IommuError> {
        self.lock().insert(device, virtual_id);
        Ok(())
    }

    fn remove_device(&self, device: RequesterId) {
        self.lock().remove(&device);
    }

    fn invalidate_user(&self, data: UserData<'_>, entries: u32) -> (u32, Result<(), IommuError>) {
        if data.kind != INVALIDATION {
            return (0, Err(IommuError::Invalid));
        }
        each(data.bytes, entries, |entry| self.invalidate(entry))
    }

    fn has_hw_queue(&self, kind: u32) -> bool {
        kind == HW_QUEUE
    }

    fn create_hw_queue(&self, request: HwQueueRequest) -> Result<Box<dyn HwQueue>, IommuError> {
        let index = request.index as usize;
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let before = index
            .checked_sub(1)
            .is_none_or(|before| queues.get(before) == Some(&true));
        let place = queues.get_mut(index).ok_or(IommuError::Invalid)?;
        if *place {
            return Err(IommuError::Exists);
        }
        if !before {
            return Err(IommuError::Io);
        }
        if self.parent.iova_to_phys(request.iova) != Some(request.address) {
            return Err(IommuError::Fault);
        }
        *place = true;
        Ok(Box::new(MockQueue {
            index: request.index,
            queues: Arc::clone(&self.queues),
        }))
    }
}

#[derive(Debug)]
struct MockQueue {
    index: u32,
    queues: Arc<Mutex<[bool; HW_QUEUES as usize]>>,
}

impl HwQueue for MockQueue {
    fn depends_on(&self) -> Option<u32> {
        self.index.checked_sub(1)
    }
}

impl Drop for MockQueue {
    fn drop(&mut self) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = queues.get_mut(self.index as usize) {
            *place = false;
        }
    }
}
