//! Making tables, and what callers ask of them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vm_iommu_driver::iommu::{Domain, PagingOptions, UserData, Viommu};

use super::{Hwpt, HwptKind};
use crate::Errno;
use crate::ioas::BitmapRequest;
use crate::object::{Context, FaultQueue, Object, State};

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
        {
            let mut state = self.lock();
            state.objects.device(request.device)?;
            state.objects.get(request.on).map_err(|_| Errno::EINVAL)?;
            // It must not go meanwhile.
            state.objects.hold(request.on);
        }
        let made = self
            .make_domain(request)
            .and_then(|parts| self.insert_hwpt(request, parts));
        self.lock().objects.release(request.on);
        made
    }

    fn insert_hwpt(&self, request: &HwptRequest<'_>, parts: Parts) -> Result<u32, Errno> {
        let mut state = self.lock();
        let space = state.objects.ioas(parts.ioas)?.ioas.space();
        let id = state.objects.insert(Object::Reserved)?;
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
            for_pasids: request.options.pasid,
            fault,
            coherent: parts.coherent,
            adopted: AtomicBool::new(true),
        });
        let object = match parts.kind {
            HwptKind::Paging { .. } => Object::Paging(hwpt),
            HwptKind::Nested { .. } => Object::Nested(hwpt),
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
            Viommu(u32, Arc<dyn Viommu>),
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
