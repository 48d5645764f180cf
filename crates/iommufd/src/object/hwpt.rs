//! Hardware page tables.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use vm_iommu_driver::iommu::{Domain, PagingOptions, ReservedRegion, UserData};
use vm_iommu_spec::{Pasid, RequesterId};

use super::{Context, FaultQueue, Object, Shared, State};
use crate::Errno;
use crate::ioas::{BitmapRequest, Owner};
use crate::ownership::{ContextId, OwnershipError, SpaceId, Table};

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

/// A table that a caller asks for.
pub(crate) struct HwptRequest<'a> {
    pub(crate) device: u32,
    /// An address space, a nesting parent or a vIOMMU.
    pub(crate) on: u32,
    pub(crate) options: PagingOptions,
    /// The fault queue that page requests go to.
    pub(crate) fault: Option<u32>,
    /// Gets the user's description; `None` if there is none.
    pub(crate) data: &'a dyn Fn() -> Result<Option<(u32, Vec<u8>)>, Errno>,
    /// Whether there is a description, before it is read.
    pub(crate) has_data: bool,
}

/// Gets the number of the first of some bits, and the bits.
pub(crate) type ReportBits<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Errno> + 'a;

/// How a table is made, as its parts are known.
struct Parts {
    ioas: u32,
    kind: HwptKind,
    domain: Arc<dyn Domain>,
    coherent: bool,
}

impl Context {
    /// Makes a table; yields its number, which is not published.
    pub(crate) fn create_hwpt(&self, request: &HwptRequest<'_>) -> Result<u32, Errno> {
        let options = request.options;
        let parts = self.make_domain(request)?;
        let mut state = self.lock();
        let space = state.objects.ioas(parts.ioas)?.ioas.space();
        if let HwptKind::Nested { parent, viommu } = parts.kind {
            state.objects.get(viommu.unwrap_or(parent))?;
        }
        let id = state.objects.insert(Object::Reserved)?;
        let paging = matches!(parts.kind, HwptKind::Paging { .. });
        let fault = match self.join(&mut state, id, &parts, request.fault) {
            Ok(fault) => fault,
            Err(error) => {
                state.objects.remove(id);
                return Err(error);
            }
        };
        match parts.kind {
            HwptKind::Paging { .. } => state.objects.hold(parts.ioas),
            HwptKind::Nested { parent, viommu } => state.objects.hold(viommu.unwrap_or(parent)),
        }
        let hwpt = Arc::new(Hwpt {
            shared: Arc::downgrade(&self.shared),
            context: self.shared.id,
            id,
            ioas: parts.ioas,
            space,
            domain: parts.domain,
            kind: parts.kind,
            for_pasids: options.pasid,
            fault,
            coherent: parts.coherent,
            adopted: AtomicBool::new(true),
        });
        let object = if paging {
            Object::Paging(hwpt)
        } else {
            Object::Nested(hwpt)
        };
        state.objects.set(id, object);
        Ok(id)
    }

    /// Shows the address space in a new table and finds its fault queue.
    fn join(
        &self,
        state: &mut State,
        id: u32,
        parts: &Parts,
        fault: Option<u32>,
    ) -> Result<Option<(u32, Arc<FaultQueue>)>, Errno> {
        let paging = matches!(parts.kind, HwptKind::Paging { .. });
        if paging {
            state
                .objects
                .ioas_mut(parts.ioas)?
                .add_table(id, &parts.domain)?;
        }
        let Some(fault) = fault else { return Ok(None) };
        let queue = match state.objects.fault(fault) {
            Ok(queue) => Arc::clone(queue),
            Err(error) => {
                if paging {
                    state.objects.ioas_mut(parts.ioas)?.remove_table(id);
                }
                return Err(error);
            }
        };
        state.objects.hold(fault);
        Ok(Some((fault, queue)))
    }

    fn make_domain(&self, request: &HwptRequest<'_>) -> Result<Parts, Errno> {
        enum On {
            Space,
            Parent(Arc<Hwpt>),
            Viommu(u32, Arc<dyn vm_iommu_driver::iommu::Viommu>),
        }
        let options = request.options;
        let (device, on, ioas, parent) = {
            let state = self.lock();
            let device = Arc::clone(state.objects.device(request.device)?.device());
            match state.objects.get(request.on).map_err(|_| Errno::EINVAL)? {
                Object::Ioas(_) => (device, On::Space, request.on, 0),
                Object::Paging(hwpt) => {
                    (device, On::Parent(Arc::clone(hwpt)), hwpt.ioas, request.on)
                }
                Object::Viommu(viommu) => {
                    if !Arc::ptr_eq(&viommu.unit, device.unit()) {
                        return Err(Errno::EINVAL);
                    }
                    let parent = viommu.parent;
                    let ioas = state.objects.paging(parent)?.ioas;
                    (
                        device,
                        On::Viommu(request.on, Arc::clone(&viommu.driver)),
                        ioas,
                        parent,
                    )
                }
                _ => return Err(Errno::EINVAL),
            }
        };
        let (unit, requester) = (device.unit(), device.requester());
        if matches!(on, On::Space) {
            let capabilities = unit.capabilities();
            if options.dirty_tracking && !capabilities.dirty_tracking {
                return Err(Errno::EOPNOTSUPP);
            }
            if request.fault.is_some() && options.nest_parent {
                return Err(Errno::EOPNOTSUPP);
            }
            let data = (request.data)()?;
            let domain = unit.paging_domain(requester, options, user_data(&data))?;
            let coherent = capabilities.enforce_coherency && domain.enforce_cache_coherency();
            let kind = HwptKind::Paging {
                automatic: false,
                nest_parent: options.nest_parent,
            };
            return Ok(Parts {
                ioas,
                kind,
                domain,
                coherent,
            });
        }
        if options.nest_parent || options.dirty_tracking || !request.has_data {
            return Err(Errno::EOPNOTSUPP);
        }
        if let On::Parent(hwpt) = &on {
            let usable = HwptKind::Paging {
                automatic: false,
                nest_parent: true,
            };
            if hwpt.kind != usable || hwpt.domain.unit_kind() != unit.kind() {
                return Err(Errno::EINVAL);
            }
        }
        let data = (request.data)()?;
        let data = user_data(&data).ok_or(Errno::EOPNOTSUPP)?;
        let (domain, viommu) = match on {
            On::Viommu(id, driver) => (driver.nested_domain(options, data)?, Some(id)),
            On::Parent(hwpt) => (
                unit.nested_domain(requester, &hwpt.domain, options, data)?,
                None,
            ),
            On::Space => return Err(Errno::EINVAL),
        };
        Ok(Parts {
            ioas,
            kind: HwptKind::Nested { parent, viommu },
            domain,
            coherent: false,
        })
    }

    /// Begins or ends to track what is written through a table.
    pub(crate) fn set_dirty_tracking(&self, hwpt: u32, enable: bool) -> Result<(), Errno> {
        let state = self.lock();
        let hwpt = state.objects.paging(hwpt)?;
        state
            .objects
            .ioas(hwpt.ioas)?
            .ioas
            .set_dirty_tracking(&hwpt.domain, enable)
    }

    /// Reports what was written through a table.
    pub(crate) fn dirty_bitmap(
        &self,
        hwpt: u32,
        request: BitmapRequest,
        report: &mut ReportBits<'_>,
    ) -> Result<(), Errno> {
        let mut at = Some(request);
        while let Some(part) = at {
            let (result, next) = {
                let state = self.lock();
                let hwpt = state.objects.paging(hwpt)?;
                state
                    .objects
                    .ioas(hwpt.ioas)?
                    .ioas
                    .dirty_bitmap(&hwpt.domain, request, part)?
            };
            let (bit, bits) = result;
            report(bit, &bits)?;
            at = next;
        }
        Ok(())
    }

    /// Invalidates what a user changed in the tables of a nested table, or caches of a vIOMMU.
    pub(crate) fn invalidate(
        &self,
        object: u32,
        data: UserData<'_>,
        entries: u32,
    ) -> (u32, Result<(), Errno>) {
        let (domain, viommu) = {
            let state = self.lock();
            match state.objects.get(object) {
                Ok(Object::Nested(hwpt)) => (Some(Arc::clone(&hwpt.domain)), None),
                Ok(Object::Viommu(viommu)) => (None, Some(Arc::clone(&viommu.driver))),
                Ok(_) => return (0, Err(Errno::EINVAL)),
                Err(error) => return (0, Err(error)),
            }
        };
        let (done, result) = match (domain, viommu) {
            (Some(domain), _) => domain.invalidate_user(data, entries),
            (None, Some(viommu)) => viommu.invalidate_user(data, entries),
            (None, None) => return (0, Err(Errno::EINVAL)),
        };
        (done, result.map_err(Errno::from))
    }
}

fn user_data(data: &Option<(u32, Vec<u8>)>) -> Option<UserData<'_>> {
    data.as_ref()
        .map(|(kind, bytes)| UserData { kind: *kind, bytes })
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
                state.objects.remove(self.id)
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
