//! Mock nested tables.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_iommu_driver::iommu::{
    Domain, DomainKind, Geometry, IommuError, PagingOptions, UnitKind, UserData,
};
use vm_iommu_spec::Iova;

use super::domain::Format;
use super::viommu::MockViommu;
use crate::PAGE_SIZE;

/// Linux `IOMMU_HWPT_DATA_SELFTEST`.
const DATA: u32 = 0xdead;
/// Linux `IOMMU_HWPT_INVALIDATE_DATA_SELFTEST`.
const INVALIDATION: u32 = 0xdead_beef;
/// How many entries the cache of a domain has.
const ENTRIES: usize = 4;
/// Linux `IOMMU_TEST_INVALIDATE_FLAG_ALL`.
pub(super) const ALL: u32 = 1;

/// What a user says of a domain: Linux `struct iommu_hwpt_selftest`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Description {
    /// What is in the cache at first.
    cached: u32,
    format: u32,
}

impl Description {
    pub(super) fn read(data: UserData<'_>) -> Result<Self, IommuError> {
        if data.kind != DATA {
            return Err(IommuError::Unsupported);
        }
        let [cached, format] = words(data.bytes, 4..=8)?;
        Ok(Self { cached, format })
    }

    pub(super) fn format(self) -> Result<Format, IommuError> {
        match self.format {
            0 => Ok(Format::Default),
            1 => Ok(Format::Huge),
            _ => Err(IommuError::Unsupported),
        }
    }
}

/// The words of a structure whose length is in a range; what it lacks is 0.
pub(super) fn words<const N: usize>(
    bytes: &[u8],
    lengths: std::ops::RangeInclusive<usize>,
) -> Result<[u32; N], IommuError> {
    if !lengths.contains(&bytes.len()) {
        return Err(IommuError::Invalid);
    }
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(4)) {
        let mut whole = [0; 4];
        whole
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        *word = u32::from_le_bytes(whole);
    }
    Ok(words)
}

/// A nested domain: a cache to be invalidated.
#[derive(Debug)]
pub(super) struct NestedDomain {
    options: PagingOptions,
    viommu: Option<Arc<MockViommu>>,
    cache: Mutex<[u32; ENTRIES]>,
}

impl NestedDomain {
    pub(super) fn new(
        description: Description,
        options: PagingOptions,
        viommu: Option<Arc<MockViommu>>,
    ) -> Self {
        Self {
            options,
            viommu,
            cache: Mutex::new([description.cached; ENTRIES]),
        }
    }

    pub(super) fn viommu(&self) -> Option<&Arc<MockViommu>> {
        self.viommu.as_ref()
    }

    pub(super) fn cached(&self, index: usize) -> Option<u32> {
        self.lock().get(index).copied()
    }

    fn lock(&self) -> MutexGuard<'_, [u32; ENTRIES]> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn invalidate(&self, entry: &[u8]) -> Result<(), IommuError> {
        let [flags, index] = words(entry, 8..=8)?;
        if flags & !ALL != 0 {
            return Err(IommuError::Unsupported);
        }
        let mut cache = self.lock();
        let slot = cache.get_mut(index as usize).ok_or(IommuError::Invalid)?;
        *slot = 0;
        if flags & ALL != 0 {
            *cache = [0; ENTRIES];
        }
        Ok(())
    }
}

impl Domain for NestedDomain {
    fn unit_kind(&self) -> UnitKind {
        UnitKind::Mock
    }

    fn kind(&self) -> DomainKind {
        DomainKind::Nested
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            aperture: Iova(0)..=Iova(u64::MAX),
            page_sizes: PAGE_SIZE,
        }
    }

    fn options(&self) -> PagingOptions {
        self.options
    }

    fn invalidate_user(&self, data: UserData<'_>, entries: u32) -> (u32, Result<(), IommuError>) {
        if data.kind != INVALIDATION {
            return (0, Err(IommuError::Invalid));
        }
        each(data.bytes, entries, |entry| self.invalidate(entry))
    }
}

/// Carries out entries until one fails.
pub(super) fn each(
    bytes: &[u8],
    entries: u32,
    mut carry_out: impl FnMut(&[u8]) -> Result<(), IommuError>,
) -> (u32, Result<(), IommuError>) {
    let Some(size) = bytes
        .len()
        .checked_div(entries as usize)
        .filter(|size| *size > 0)
    else {
        return (0, Ok(()));
    };
    for (done, entry) in bytes.chunks_exact(size).enumerate() {
        if let Err(error) = carry_out(entry) {
            return (done as u32, Err(error));
        }
    }
    (entries, Ok(()))
}
