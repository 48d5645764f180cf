//! The calls of a VFIO container with a type 1 IOMMU.

use std::mem::offset_of;

use vfio_bindings::bindings::vfio;
use vm_iommu_spec::Access;

use super::call::end_of;
use super::ioas::range;
use super::{Plain, request};
use crate::caller::{PAGE_SIZE, Reply};
use crate::ioas::Ioas;
use crate::object::MapRequest;
use crate::{Caller, Context, Errno};

const GET_API_VERSION: u32 = request(vfio::VFIO_BASE);
const CHECK_EXTENSION: u32 = request(vfio::VFIO_BASE + 1);
const SET_IOMMU: u32 = request(vfio::VFIO_BASE + 2);
const IOMMU_GET_INFO: u32 = request(vfio::VFIO_BASE + 12);
const IOMMU_MAP_DMA: u32 = request(vfio::VFIO_BASE + 13);
const IOMMU_UNMAP_DMA: u32 = request(vfio::VFIO_BASE + 14);

impl Context {
    pub(super) fn vfio(
        &self,
        caller: &dyn Caller,
        request: u32,
        argument: u64,
    ) -> Result<Reply, Errno> {
        let value = match request {
            GET_API_VERSION => vfio::VFIO_API_VERSION as i32,
            CHECK_EXTENSION => self.check_extension(argument)?,
            SET_IOMMU => self.set_iommu(argument)?,
            IOMMU_GET_INFO => self.iommu_info(caller, argument)?,
            IOMMU_MAP_DMA => self.map_dma(caller, argument)?,
            IOMMU_UNMAP_DMA => self.unmap_dma(caller, argument)?,
            _ => return Err(Errno::ENOTTY),
        };
        Ok(Reply {
            value,
            files: Vec::new(),
        })
    }

    fn check_extension(&self, extension: u64) -> Result<i32, Errno> {
        const TYPE1: u64 = vfio::VFIO_TYPE1_IOMMU as u64;
        const TYPE1V2: u64 = vfio::VFIO_TYPE1v2_IOMMU as u64;
        const UNMAP_ALL: u64 = vfio::VFIO_UNMAP_ALL as u64;
        const DMA_CC: u64 = vfio::VFIO_DMA_CC_IOMMU as u64;
        match extension {
            TYPE1 | TYPE1V2 | UNMAP_ALL => Ok(1),
            DMA_CC => {
                let state = self.lock();
                let ioas = state.objects.ioas(state.compatible()?)?;
                let mut tables = ioas
                    .tables
                    .iter()
                    .filter_map(|id| state.objects.paging(*id).ok());
                Ok(tables.all(|table| table.is_coherent()).into())
            }
            _ => Ok(0),
        }
    }

    fn set_iommu(&self, kind: u64) -> Result<i32, Errno> {
        let type1 = kind == u64::from(vfio::VFIO_TYPE1_IOMMU);
        if !type1 && kind != u64::from(vfio::VFIO_TYPE1v2_IOMMU) {
            return Err(Errno::EINVAL);
        }
        let mut state = self.lock();
        let ioas = state.compatible()?;
        if type1 {
            // Its users may unmap a part of what they mapped, for which large pages would have to
            // be split.
            state
                .objects
                .visible_ioas_mut(ioas)?
                .ioas
                .set_large_pages(false)?;
        }
        Ok(0)
    }

    fn map_dma(&self, caller: &dyn Caller, argument: u64) -> Result<i32, Errno> {
        type Map = vfio::vfio_iommu_type1_dma_map;
        let least = end_of!(Map, size);
        let map: Map = read(caller, argument, least)?;
        if (map.argsz as usize) < least
            || map.flags & !(vfio::VFIO_DMA_MAP_FLAG_READ | vfio::VFIO_DMA_MAP_FLAG_WRITE) != 0
        {
            return Err(Errno::EINVAL);
        }
        let mut access = Access::empty();
        access.set(Access::READ, map.flags & vfio::VFIO_DMA_MAP_FLAG_READ != 0);
        access.set(
            Access::WRITE,
            map.flags & vfio::VFIO_DMA_MAP_FLAG_WRITE != 0,
        );
        let ioas = self.lock().compatible()?;
        let request = MapRequest {
            ioas,
            iova: Some(map.iova),
            length: map.size,
            access,
        };
        self.map(caller, map.vaddr, request)?;
        Ok(0)
    }

    fn unmap_dma(&self, caller: &dyn Caller, argument: u64) -> Result<i32, Errno> {
        type Unmap = vfio::vfio_iommu_type1_dma_unmap;
        let least = end_of!(Unmap, size);
        let mut bytes = [0; 24];
        caller.read(argument, bytes.get_mut(..least).ok_or(Errno::EFAULT)?)?;
        let unmap = UnmapHeader::from_bytes(&bytes);
        if (unmap.argsz as usize) < least || unmap.flags & !vfio::VFIO_DMA_UNMAP_FLAG_ALL != 0 {
            return Err(Errno::EINVAL);
        }
        let ioas = self.lock().compatible()?;
        let result = if unmap.flags & vfio::VFIO_DMA_UNMAP_FLAG_ALL != 0 {
            if unmap.iova != 0 || unmap.size != 0 {
                return Err(Errno::EINVAL);
            }
            self.unmap(ioas, 0..=u64::MAX)
        } else {
            range(unmap.iova, unmap.size).and_then(|range| self.unmap_cut(ioas, range))
        };
        // What could not be unmapped is reported in the size as well.
        let size = *result.as_ref().unwrap_or(&0);
        let place = argument
            .checked_add(offset_of!(Unmap, size) as u64)
            .ok_or(Errno::EFAULT)?;
        caller.write(place, &size.to_le_bytes())?;
        result.map(|_| 0)
    }

    fn iommu_info(&self, caller: &dyn Caller, argument: u64) -> Result<i32, Errno> {
        type Info = vfio::vfio_iommu_type1_info;
        let least = end_of!(Info, iova_pgsizes);
        let mut info: Info = read(caller, argument, least)?;
        let room = info.argsz as usize;
        if room < least {
            return Err(Errno::EINVAL);
        }
        let (sizes, capabilities) = {
            let state = self.lock();
            let ioas = &state.objects.ioas(state.compatible()?)?.ioas;
            (page_sizes(ioas), capabilities(ioas))
        };
        info.flags = vfio::VFIO_IOMMU_INFO_PGSIZES | vfio::VFIO_IOMMU_INFO_CAPS;
        info.iova_pgsizes = sizes;
        info.cap_offset = 0;
        let mut at = size_of::<Info>();
        let last = capabilities.len() - 1;
        for (index, mut capability) in capabilities.into_iter().enumerate() {
            let end = at + capability.len();
            if index < last {
                let next = offset_of!(vfio::vfio_info_cap_header, next);
                if let Some(field) = capability.get_mut(next..next + 4) {
                    field.copy_from_slice(&(end as u32).to_le_bytes());
                }
            }
            if room >= end {
                let place = argument.checked_add(at as u64).ok_or(Errno::EFAULT)?;
                caller.write(place, &capability)?;
            }
            at = end;
        }
        if room >= at {
            info.cap_offset = size_of::<Info>() as u32;
        }
        info.argsz = at as u32;
        let bytes = info.to_bytes();
        let shown = room.min(bytes.len());
        caller.write(argument, bytes.get(..shown).unwrap_or_default())?;
        Ok(0)
    }
}

/// What an unmapping begins with; dirty pages, which may follow, are not reported here.
#[repr(C)]
#[derive(Clone, Copy)]
struct UnmapHeader {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

// SAFETY: integers without gaps.
unsafe impl Plain for UnmapHeader {}

fn read<T: Plain>(caller: &dyn Caller, address: u64, length: usize) -> Result<T, Errno> {
    let mut bytes = vec![0; length];
    caller.read(address, &mut bytes)?;
    Ok(T::from_bytes(&bytes))
}

/// The page sizes that all domains have, as VFIO tells them: none smaller than the processor's.
fn page_sizes(ioas: &Ioas) -> u64 {
    let mut sizes = ioas
        .domains()
        .fold(u64::MAX, |all, one| all & one.geometry().page_sizes);
    if sizes & (PAGE_SIZE - 1) != 0 {
        sizes = sizes & !(PAGE_SIZE - 1) | PAGE_SIZE;
    }
    sizes.max(ioas.alignment())
}

/// The capabilities of an address space, each a multiple of 8 bytes long.
fn capabilities(ioas: &Ioas) -> Vec<Vec<u8>> {
    let header = |id: u32| vfio::vfio_info_cap_header {
        id: id as u16,
        version: 1,
        next: 0,
    };
    let mut available = vfio::vfio_iommu_type1_info_dma_avail {
        header: header(vfio::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL),
        // There is no limit to the number of mappings.
        avail: u32::MAX,
    }
    .to_bytes();
    available.resize(available.len().next_multiple_of(8), 0);
    let usable = ioas.usable();
    let mut ranges = header(vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE).to_bytes();
    ranges.extend_from_slice(&(usable.len() as u32).to_le_bytes());
    ranges.extend_from_slice(&[0; 4]);
    for range in usable {
        ranges.extend(
            vfio::vfio_iova_range {
                start: *range.start(),
                end: *range.end(),
            }
            .to_bytes(),
        );
    }
    vec![available, ranges]
}
