//! What a group's devices reach while nobody owns it.

use std::sync::Arc;

use vm_iommu_driver::iommu::{Domain, IommuError, PagingOptions, RegionKind};
use vm_iommu_spec::Iova;

use super::OwnershipError;
use super::state::Endpoint;

/// How a group's default domain treats requests (Linux `/sys/kernel/iommu_groups/*/type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DefaultType {
    /// By tables in which kernel drivers map what they use (`DMA`).
    #[default]
    Translated,
    /// Untranslated (`identity`); where a unit cannot, they are translated.
    Identity,
}

/// A group's default domain.
#[derive(Clone, Debug)]
pub(super) struct DefaultDomain {
    pub(super) kind: DefaultType,
    pub(super) domain: Arc<dyn Domain>,
}

impl DefaultDomain {
    /// A new one for a group of `device`, with its regions mapped.
    pub(super) fn new(kind: DefaultType, device: &Endpoint) -> Result<Self, OwnershipError> {
        let requester = device.requester();
        if kind == DefaultType::Identity {
            match device.unit.identity_domain(requester) {
                Ok(domain) => return Ok(Self { kind, domain }),
                Err(IommuError::Unsupported) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let options = PagingOptions::default();
        let default = Self {
            kind: DefaultType::Translated,
            domain: device.unit.paging_domain(requester, options, None)?,
        };
        default.map_regions(device)?;
        Ok(default)
    }

    /// Maps one to one what a device needs mapped so, and yields what was not mapped before.
    pub(super) fn map_regions(
        &self,
        device: &Endpoint,
    ) -> Result<Vec<(Iova, u64)>, OwnershipError> {
        let mut mapped = Vec::new();
        let sizes = self.domain.geometry().page_sizes;
        let page = sizes & sizes.wrapping_neg();
        if self.kind == DefaultType::Identity || page == 0 {
            return Ok(mapped);
        }
        for region in &device.regions {
            if !matches!(
                region.kind,
                RegionKind::Direct | RegionKind::DirectRelaxable
            ) {
                continue;
            }
            let mut start = region.range.start().align_down(page);
            // Page by page: a part may be mapped for another device already.
            while start <= *region.range.end() {
                if self.domain.iova_to_phys(start).map(|output| output.0) != Some(start.0) {
                    let output = start.0.into();
                    if let Err(error) = self.domain.map(start, output, page, region.access) {
                        self.unmap(&mapped);
                        return Err(error.into());
                    }
                    mapped.push((start, page));
                }
                match start.checked_add(page) {
                    Some(next) => start = next,
                    None => break,
                }
            }
        }
        Ok(mapped)
    }

    /// Takes back what [`map_regions`](Self::map_regions) mapped.
    pub(super) fn unmap(&self, mapped: &[(Iova, u64)]) {
        for &(start, length) in mapped {
            if let Err(error) = self.domain.unmap(start, length) {
                log::error!("a region at {start} stays mapped in a default domain: {error}");
            }
        }
    }
}
