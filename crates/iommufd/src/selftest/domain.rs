//! Mock tables.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_iommu_driver::iommu::{Domain, DomainKind, Geometry, IommuError, PagingOptions, UnitKind};
use vm_iommu_spec::{Access, Iova, PhysAddr};

use super::{APERTURE_LAST, APERTURE_START, MOCK_HUGE_PAGE_SIZE, MOCK_PAGE_SIZE};
use crate::PAGE_SIZE;

/// What pages there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Of each power of two from 2 KiB, as AMD's format has them.
    Default,
    /// Of 4 KiB and 1 MiB.
    Huge,
}

impl Format {
    pub(super) fn page_sizes(self) -> u64 {
        match self {
            Self::Default => !(MOCK_PAGE_SIZE - 1) & ((1 << 51) - 1),
            Self::Huge => MOCK_HUGE_PAGE_SIZE | PAGE_SIZE,
        }
    }

    /// The largest page that fits.
    fn page(self, address: u64, length: u64) -> Option<u64> {
        let aligned = 1_u64
            .checked_shl(address.trailing_zeros())
            .unwrap_or(1 << 63);
        let limit = aligned.min(1 << length.checked_ilog2()?);
        let fitting = self.page_sizes() & (limit | (limit - 1));
        fitting.checked_ilog2().map(|log| 1 << log)
    }
}

/// A paging domain: its table is a tree of pages.
#[derive(Debug)]
pub(super) struct MockDomain {
    format: Format,
    options: PagingOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pages: BTreeMap<u64, Page>,
    tracking: bool,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    output: u64,
    size: u64,
    dirty: bool,
}

impl MockDomain {
    pub(super) fn new(format: Format, options: PagingOptions) -> Self {
        Self {
            format,
            options,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was made to track what is written.
    pub(super) fn tracks(&self) -> bool {
        self.options.dirty_tracking
    }

    /// Whether it does now.
    pub(super) fn is_tracking(&self) -> bool {
        self.lock().tracking
    }

    /// The size of its smallest page.
    pub(super) fn page_size(&self) -> u64 {
        let sizes = self.format.page_sizes();
        sizes & sizes.wrapping_neg()
    }

    /// As a write of a device: marks the page at an address.
    pub(super) fn set_dirty(&self, iova: u64) {
        let mut state = self.lock();
        if let Some((start, page)) = state.pages.range_mut(..=iova).next_back()
            && iova - start < page.size
        {
            page.dirty = true;
        }
    }
}

impl Domain for MockDomain {
    fn unit_kind(&self) -> UnitKind {
        UnitKind::Mock
    }

    fn kind(&self) -> DomainKind {
        DomainKind::Paging
    }

    fn geometry(&self) -> Geometry {
        let aperture = match self.format {
            Format::Default => Iova(APERTURE_START)..=Iova(APERTURE_LAST),
            Format::Huge => Iova(0)..=Iova((1 << 56) - 1),
        };
        Geometry {
            aperture,
            page_sizes: self.format.page_sizes(),
        }
    }

    fn options(&self) -> PagingOptions {
        self.options
    }

    fn map(&self, iova: Iova, output: PhysAddr, length: u64, _: Access) -> Result<(), IommuError> {
        let smallest = self.page_size();
        let last = iova.last_byte(length).ok_or(IommuError::Invalid)?.0;
        if (iova.0 | output.0 | length) & (smallest - 1) != 0 {
            return Err(IommuError::Invalid);
        }
        let mut state = self.lock();
        let nearest = state.pages.range(..=last).next_back();
        if nearest.is_some_and(|(start, page)| start + (page.size - 1) >= iova.0) {
            return Err(IommuError::Exists);
        }
        let mut done = 0;
        while done < length {
            let (address, output) = (iova.0 + done, output.0 + done);
            let size = self.format.page(address | output, length - done);
            let size = size.ok_or(IommuError::Invalid)?;
            state.pages.insert(
                address,
                Page {
                    output,
                    size,
                    dirty: false,
                },
            );
            done += size;
        }
        Ok(())
    }

    fn unmap(&self, iova: Iova, length: u64) -> Result<u64, IommuError> {
        let last = iova.last_byte(length).ok_or(IommuError::Invalid)?.0;
        let mut state = self.lock();
        let gone = state.pages.extract_if(iova.0..=last, |_, _| true);
        Ok(gone.map(|(_, page)| page.size).sum())
    }

    fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr> {
        let state = self.lock();
        let (start, page) = state.pages.range(..=iova.0).next_back()?;
        let offset = iova.0 - start;
        (offset < page.size).then(|| PhysAddr(page.output + offset))
    }

    fn set_dirty_tracking(&self, enable: bool) -> Result<(), IommuError> {
        if enable && !self.tracks() {
            return Err(IommuError::Invalid);
        }
        self.lock().tracking = enable;
        Ok(())
    }

    fn read_and_clear_dirty(
        &self,
        iova: Iova,
        length: u64,
        clear: bool,
        dirty: &mut dyn FnMut(Iova, u64),
    ) -> Result<(), IommuError> {
        let last = iova.last_byte(length).ok_or(IommuError::Invalid)?.0;
        let mut state = self.lock();
        let nearest = state
            .pages
            .range(..=iova.0)
            .next_back()
            .map(|(start, _)| *start);
        for (start, page) in state.pages.range_mut(nearest.unwrap_or(iova.0)..=last) {
            if page.dirty && start + (page.size - 1) >= iova.0 {
                page.dirty = !clear;
                dirty(Iova(*start), page.size);
            }
        }
        Ok(())
    }
}

/// A domain that passes requests through.
#[derive(Debug)]
pub(super) struct Identity;

impl Domain for Identity {
    fn unit_kind(&self) -> UnitKind {
        UnitKind::Mock
    }

    fn kind(&self) -> DomainKind {
        DomainKind::Identity
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            aperture: Iova(0)..=Iova(u64::MAX),
            page_sizes: PAGE_SIZE,
        }
    }
}
