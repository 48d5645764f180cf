//! Hardware page tables.

mod create;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use vm_iommu_driver::iommu::{Domain, ReservedRegion};
use vm_iommu_spec::{Pasid, RequesterId};

use super::{FaultQueue, Object, Shared};
use crate::Errno;
use crate::ioas::Owner;
use crate::ownership::{ContextId, OwnershipError, SpaceId, Table};

pub(crate) use create::HwptRequest;

/// A hardware page table (HWPT): a unit's domain that shows an address space, or that translates
/// by a user's tables on top of one.
pub struct Hwpt {
    shared: Weak<Shared>,
    context: ContextId,
    id: u32,
    ioas: u32,
    space: SpaceId,
    domain: Arc<dyn Domain>,
    kind: HwptKind,
    for_pasids: bool,
    fault: Option<(u32, Arc<FaultQueue>)>,
    /// DMA through it is coherent whatever the device asks for.
    coherent: bool,
    /// It is an object of the context, which then cleans up after it.
    adopted: AtomicBool,
}

/// What a table translates by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HwptKind {
    /// By an address space.
    Paging {
        /// Made for a device that was attached to the address space.
        automatic: bool,
        nest_parent: bool,
    },
    /// By tables of a user, on top of a parent.
    Nested { parent: u32, viommu: Option<u32> },
}

impl Hwpt {
    /// An automatic table of an address space, that is no object until a device uses it.
    pub(super) fn automatic(
        shared: &Arc<Shared>,
        ioas: u32,
        space: SpaceId,
        domain: Arc<dyn Domain>,
        coherent: bool,
    ) -> Result<Arc<Self>, Errno> {
        let mut state = shared.lock();
        let id = state.objects.insert(Object::Reserved)?;
        let joined = match state.objects.ioas_mut(ioas) {
            Ok(object) if object.ioas.space() == space => object.add_table(id, &domain),
            _ => Err(Errno::ENOENT),
        };
        if let Err(error) = joined {
            state.objects.remove(id);
            return Err(error);
        }
        state.objects.hold(ioas);
        let hwpt = Arc::new(Self {
            shared: Arc::downgrade(shared),
            context: shared.id,
            id,
            ioas,
            space,
            domain,
            kind: HwptKind::Paging {
                automatic: true,
                nest_parent: false,
            },
            for_pasids: false,
            fault: None,
            coherent,
            adopted: AtomicBool::new(false),
        });
        state.unused.insert(id, Arc::downgrade(&hwpt));
        Ok(hwpt)
    }

    /// Its number in the context.
    pub fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn ioas(&self) -> u32 {
        self.ioas
    }

    pub(crate) fn kind(&self) -> HwptKind {
        self.kind
    }

    pub(crate) fn is_automatic(&self) -> bool {
        matches!(
            self.kind,
            HwptKind::Paging {
                automatic: true,
                ..
            }
        )
    }

    pub(crate) fn fault_id(&self) -> Option<u32> {
        self.fault.as_ref().map(|(id, _)| *id)
    }

    /// Where page requests go.
    pub fn fault_queue(&self) -> Option<&Arc<FaultQueue>> {
        self.fault.as_ref().map(|(_, queue)| queue)
    }

    /// Whether DMA through it is coherent whatever the device asks for.
    pub(crate) fn is_coherent(&self) -> bool {
        self.coherent
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.upgrade()
    }
}

impl Table for Hwpt {
    fn context(&self) -> ContextId {
        self.context
    }

    fn domain(&self) -> Arc<dyn Domain> {
        Arc::clone(&self.domain)
    }

    fn space(&self) -> SpaceId {
        self.space
    }

    fn for_pasids(&self) -> bool {
        self.for_pasids
    }

    fn has_fault_queue(&self) -> bool {
        self.fault.is_some()
    }

    fn begin_use(&self, device: RequesterId, pasid: Option<Pasid>) {
        let Some(shared) = self.shared() else { return };
        let mut state = shared.lock();
        if let Some(hwpt) = state
            .unused
            .remove(&self.id)
            .and_then(|hwpt| hwpt.upgrade())
        {
            self.adopted.store(true, Ordering::Relaxed);
            state.objects.set(self.id, Object::Paging(hwpt));
            state.objects.publish(self.id);
        }
        state.objects.hold(self.id);
        state.attach_device(device, pasid, self.id);
    }

    fn end_use(&self, device: RequesterId, pasid: Option<Pasid>) {
        let Some(shared) = self.shared() else { return };
        let object = {
            let mut state = shared.lock();
            state.detach_device(device, pasid, self.id);
            let last = state.objects.release(self.id);
            if last && self.is_automatic() {
                state.objects.take(self.id)
            } else {
                None
            }
        };
        if let Some(object) = object {
            shared.clean_up(self.id, object);
        }
    }

    fn reserve(
        &self,
        device: RequesterId,
        regions: &[ReservedRegion],
    ) -> Result<(), OwnershipError> {
        let Some(shared) = self.shared() else {
            return Err(OwnershipError::NoTable);
        };
        let mut state = shared.lock();
        let object = state.objects.ioas_mut(self.ioas).map_err(ownership_error)?;
        for region in regions {
            let range = region.range.start().0..=region.range.end().0;
            if let Err(error) = object.ioas.reserve(range, Owner::Device(device)) {
                object.ioas.unreserve(Owner::Device(device));
                return Err(ownership_error(error));
            }
        }
        Ok(())
    }

    fn unreserve(&self, device: RequesterId) {
        let Some(shared) = self.shared() else { return };
        if let Ok(object) = shared.lock().objects.ioas_mut(self.ioas) {
            object.ioas.unreserve(Owner::Device(device));
        }
    }

    fn cancel_page_requests(&self, device: RequesterId, pasid: Option<Pasid>) {
        if let Some((_, queue)) = &self.fault {
            queue.cancel(self.id, device, pasid);
        }
    }
}

impl Drop for Hwpt {
    fn drop(&mut self) {
        if self.adopted.load(Ordering::Relaxed) {
            return;
        }
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let mut state = shared.lock();
        state.unused.remove(&self.id);
        if let Ok(object) = state.objects.ioas_mut(self.ioas) {
            object.remove_table(self.id);
        }
        state.objects.release(self.ioas);
        state.objects.remove(self.id);
    }
}

impl fmt::Debug for Hwpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hwpt")
            .field("id", &self.id)
            .field("ioas", &self.ioas)
            .field("kind", &self.kind)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

/// The refusal of ownership that has a number.
pub(super) fn ownership_error(error: Errno) -> OwnershipError {
    use vm_iommu_driver::iommu::IommuError;
    match error {
        Errno::ENOENT => OwnershipError::NoTable,
        Errno::ENOMEM => OwnershipError::NoMemory,
        Errno::EINVAL => OwnershipError::NotCompatible,
        Errno::EADDRINUSE => OwnershipError::AddressInUse,
        Errno::EOPNOTSUPP => OwnershipError::Unsupported,
        Errno::EFAULT => OwnershipError::Unit(IommuError::Fault),
        Errno::EBUSY => OwnershipError::Unit(IommuError::Busy),
        Errno::EEXIST => OwnershipError::Unit(IommuError::Exists),
        Errno::ENOSPC => OwnershipError::Unit(IommuError::NoSpace),
        _ => OwnershipError::Unit(IommuError::Io),
    }
}
