//! An address space as ownership sees it.

use std::sync::{Arc, Weak};

use vm_iommu_driver::iommu::{Iommu, PagingOptions};
use vm_iommu_spec::RequesterId;

use super::hwpt::ownership_error;
use super::{Hwpt, Shared};
use crate::ownership::{AddressSpace, ContextId, OwnershipError, SpaceId, Table};

/// An address space of a context.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) shared: Weak<Shared>,
    pub(super) context: ContextId,
    pub(super) ioas: u32,
    pub(super) space: SpaceId,
}

impl AddressSpace for Space {
    fn context(&self) -> ContextId {
        self.context
    }

    fn automatic_tables(&self) -> Vec<Arc<dyn Table>> {
        let Some(shared) = self.shared.upgrade() else {
            return Vec::new();
        };
        let state = shared.lock();
        let Ok(object) = state.objects.ioas(self.ioas) else {
            return Vec::new();
        };
        if object.ioas.space() != self.space {
            return Vec::new();
        }
        let tables = object
            .tables
            .iter()
            .filter_map(|id| state.objects.paging(*id).ok());
        tables
            .filter(|table| table.is_automatic())
            .map(|table| Arc::clone(table) as Arc<dyn Table>)
            .collect()
    }

    fn create_automatic_table(
        &self,
        unit: &Arc<dyn Iommu>,
        device: RequesterId,
    ) -> Result<Arc<dyn Table>, OwnershipError> {
        let shared = self.shared.upgrade().ok_or(OwnershipError::NoTable)?;
        let domain = unit.paging_domain(device, PagingOptions::default(), None)?;
        let enforce = unit.capabilities().enforce_coherency;
        let coherent = enforce && domain.enforce_cache_coherency();
        let table = Hwpt::automatic(&shared, self.ioas, self.space, domain, coherent);
        table
            .map(|table| table as Arc<dyn Table>)
            .map_err(ownership_error)
    }
}
