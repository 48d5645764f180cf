//! A domain of the unit.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use vm_iommu_pagetable::Mapping;
use vm_iommu_spec::{Access, DomainId, Iova, PhysAddr};

use super::{Hardware, Shared};
use crate::iommu::{Domain, DomainKind, Geometry, IommuError, PagingOptions, UnitKind};

/// A domain, as long as somebody knows it.
pub(super) struct UnitDomain<U: Hardware> {
    shared: Arc<Shared<U>>,
    id: DomainId,
    kind: DomainKind,
}

impl<U: Hardware> UnitDomain<U> {
    pub(super) fn new(shared: Arc<Shared<U>>, id: DomainId, kind: DomainKind) -> Self {
        Self { shared, id, kind }
    }

    /// The identifier of a domain at a unit.
    ///
    /// # Errors
    /// [`IommuError::Invalid`] if it is another unit's.
    pub(super) fn id_in(
        domain: &Arc<dyn Domain>,
        shared: &Arc<Shared<U>>,
    ) -> Result<DomainId, IommuError> {
        let domain: &dyn Any = &**domain;
        domain
            .downcast_ref::<Self>()
            .filter(|domain| Arc::ptr_eq(&domain.shared, shared))
            .map(|domain| domain.id)
            .ok_or(IommuError::Invalid)
    }
}

impl<U: Hardware> fmt::Debug for UnitDomain<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitDomain")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl<U: Hardware> Drop for UnitDomain<U> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        if inner.unit.destroy_domain(self.id).is_err() {
            inner.lingering.push(self.id);
        }
    }
}

impl<U: Hardware> Domain for UnitDomain<U> {
    fn unit_kind(&self) -> UnitKind {
        U::KIND
    }

    fn kind(&self) -> DomainKind {
        self.kind
    }

    fn geometry(&self) -> Geometry {
        let capabilities = self.shared.lock().unit.capabilities();
        let width = u32::from(capabilities.input_width);
        Geometry {
            aperture: Iova(0)..=Iova(u64::MAX.checked_shr(64 - width).unwrap_or(0)),
            page_sizes: capabilities.page_sizes,
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
        let mapping = Mapping::new(iova, output, length, access);
        self.shared.lock().unit.map(self.id, mapping)
    }

    fn map_in_small_pages(
        &self,
        iova: Iova,
        output: PhysAddr,
        length: u64,
        access: Access,
    ) -> Result<(), IommuError> {
        let mut mapping = Mapping::new(iova, output, length, access);
        mapping.max_page_shift = 12;
        self.shared.lock().unit.map(self.id, mapping)
    }

    fn unmap(&self, iova: Iova, length: u64) -> Result<u64, IommuError> {
        self.shared.lock().unit.unmap(self.id, iova, length)
    }

    fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr> {
        if self.kind == DomainKind::Identity {
            return Some(PhysAddr(iova.0));
        }
        self.shared.lock().unit.output_of(self.id, iova)
    }

    fn enforce_cache_coherency(&self) -> bool {
        self.shared.lock().unit.enforce_coherency(self.id)
    }

    fn flush(&self) -> Result<(), IommuError> {
        self.shared.lock().unit.flush(self.id)
    }
}
