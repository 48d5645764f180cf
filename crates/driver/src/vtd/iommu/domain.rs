//! A domain of the unit.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::{Access, DomainId, Iova, PhysAddr};

use super::Shared;
use crate::iommu::{Domain, DomainKind, Geometry, IommuError, PagingOptions, UnitKind};
use crate::{Pages, RegisterBus};

/// A domain, as long as somebody knows it.
pub(super) struct VtdDomain<B: RegisterBus, M: TableMemory, P: Pages> {
    shared: Arc<Shared<B, M, P>>,
    id: DomainId,
    kind: DomainKind,
}

impl<B, M, P> VtdDomain<B, M, P>
where
    B: RegisterBus + Send + 'static,
    M: TableMemory + 'static,
    P: Pages + Send + 'static,
{
    pub(super) fn new(shared: Arc<Shared<B, M, P>>, id: DomainId, kind: DomainKind) -> Self {
        Self { shared, id, kind }
    }

    /// The identifier of a domain at a unit.
    ///
    /// # Errors
    /// [`IommuError::Invalid`] if it is another unit's.
    pub(super) fn id_in(
        domain: &Arc<dyn Domain>,
        shared: &Arc<Shared<B, M, P>>,
    ) -> Result<DomainId, IommuError> {
        let domain: &dyn Any = &**domain;
        domain
            .downcast_ref::<Self>()
            .filter(|domain| Arc::ptr_eq(&domain.shared, shared))
            .map(|domain| domain.id)
            .ok_or(IommuError::Invalid)
    }
}

impl<B: RegisterBus, M: TableMemory, P: Pages> fmt::Debug for VtdDomain<B, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VtdDomain")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl<B: RegisterBus, M: TableMemory, P: Pages> Drop for VtdDomain<B, M, P> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        if inner.unit.destroy_domain(self.id).is_err() {
            inner.lingering.push(self.id);
        }
    }
}

impl<B, M, P> Domain for VtdDomain<B, M, P>
where
    B: RegisterBus + Send + 'static,
    M: TableMemory + 'static,
    P: Pages + Send + 'static,
{
    fn unit_kind(&self) -> UnitKind {
        UnitKind::Vtd
    }

    fn kind(&self) -> DomainKind {
        self.kind
    }

    fn geometry(&self) -> Geometry {
        let inner = self.shared.lock();
        let width = u32::from(inner.input_width());
        Geometry {
            aperture: Iova(0)..=Iova(u64::MAX.checked_shr(64 - width).unwrap_or(0)),
            page_sizes: inner.page_sizes(),
        }
    }

    /// Requests with PASID are none, so nothing stands against them.
    fn options(&self) -> PagingOptions {
        PagingOptions {
            pasid: true,
            ..PagingOptions::default()
        }
    }

    fn map(
        &self,
        iova: Iova,
        output: PhysAddr,
        length: u64,
        access: Access,
    ) -> Result<(), IommuError> {
        let mut inner = self.shared.lock();
        Ok(inner.unit.map(self.id, iova, output, length, access)?)
    }

    fn unmap(&self, iova: Iova, length: u64) -> Result<u64, IommuError> {
        Ok(self.shared.lock().unit.unmap(self.id, iova, length)?)
    }

    fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr> {
        if self.kind == DomainKind::Identity {
            return Some(PhysAddr(iova.0));
        }
        let inner = self.shared.lock();
        [Access::READ, Access::WRITE]
            .into_iter()
            .find_map(|access| {
                let walk = inner.unit.walk(self.id, iova, access).ok()?.ok()?;
                Some(walk.translation.output)
            })
    }

    fn enforce_cache_coherency(&self) -> bool {
        let mut inner = self.shared.lock();
        inner.unit.enforce_snooping(self.id).unwrap_or(false)
    }

    fn flush(&self) -> Result<(), IommuError> {
        Ok(self.shared.lock().unit.flush(self.id)?)
    }
}
