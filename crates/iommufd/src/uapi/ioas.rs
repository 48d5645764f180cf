//! Address spaces.

use std::ops::RangeInclusive;

use iommufd_bindings::{
    iommu_destroy, iommu_ioas_alloc, iommu_ioas_allow_iovas, iommu_ioas_change_process,
    iommu_ioas_copy, iommu_ioas_iova_ranges, iommu_ioas_map, iommu_ioas_map_file, iommu_ioas_unmap,
    iommu_iova_range, iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA as FIXED_IOVA,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE as READABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE as WRITEABLE,
};
use vm_iommu_spec::Access;

use super::call::{Made, end_of};
use super::{Call, Plain, iommu_ioas_noiommu_get_pa};
use crate::caller::Reply;
use crate::object::MapRequest;
use crate::{Capability, Context, Errno};

/// How many ranges are read before they are looked at.
const RANGES: u32 = 256;

/// The most ranges that are kept.
const MAX_RANGES: u32 = 1 << 20;

impl Context {
    pub(super) fn uapi_destroy(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let command: iommu_destroy = call.read(end_of!(iommu_destroy, id))?;
        self.destroy(command.id)?;
        Ok(Reply::default())
    }

    pub(super) fn uapi_ioas_alloc(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_ioas_alloc = call.read(end_of!(iommu_ioas_alloc, out_ioas_id))?;
        if command.flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let id = self.create_ioas()?;
        command.out_ioas_id = id;
        call.finish(Made {
            answer: command,
            id,
            file: None,
        })
    }

    pub(super) fn uapi_ioas_iova_ranges(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let least = end_of!(iommu_ioas_iova_ranges, out_iova_alignment);
        let mut command: iommu_ioas_iova_ranges = call.read(least)?;
        if command.__reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (ranges, alignment) = {
            let state = self.lock();
            let ioas = &state.objects.ioas(command.ioas_id)?.ioas;
            (ioas.usable(), ioas.alignment())
        };
        let room = command.num_iovas;
        let shown = ranges.iter().take(room as usize);
        let bytes: Vec<u8> = shown
            .flat_map(|range| {
                iommu_iova_range {
                    start: *range.start(),
                    last: *range.end(),
                }
                .to_bytes()
            })
            .collect();
        if !bytes.is_empty() {
            call.caller.write(command.allowed_iovas, &bytes)?;
        }
        command.num_iovas = ranges.len() as u32;
        command.out_iova_alignment = alignment;
        call.respond(&command)?;
        if command.num_iovas > room {
            Err(Errno::EMSGSIZE)
        } else {
            Ok(Reply::default())
        }
    }

    pub(super) fn uapi_ioas_allow_iovas(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let command: iommu_ioas_allow_iovas =
            call.read(end_of!(iommu_ioas_allow_iovas, allowed_iovas))?;
        if command.__reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.lock().objects.ioas(command.ioas_id)?;
        let ranges = read_ranges(call, command.allowed_iovas, command.num_iovas)?;
        self.lock()
            .objects
            .visible_ioas_mut(command.ioas_id)?
            .ioas
            .allow(&ranges)?;
        Ok(Reply::default())
    }

    pub(super) fn uapi_ioas_map(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_ioas_map = call.read(end_of!(iommu_ioas_map, iova))?;
        if command.__reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let request = map_request(command.flags, command.ioas_id, command.iova, command.length)?;
        self.lock().objects.ioas(command.ioas_id)?;
        command.iova = self.map(call.caller, command.user_va, request)?;
        self.told(
            call.respond(&command),
            command.ioas_id,
            command.iova,
            command.length,
        )?;
        Ok(Reply::default())
    }

    pub(super) fn uapi_ioas_map_file(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_ioas_map_file = call.read(end_of!(iommu_ioas_map_file, iova))?;
        let request = map_request(command.flags, command.ioas_id, command.iova, command.length)?;
        self.lock().objects.ioas(command.ioas_id)?;
        command.iova = self.map_file(call.caller, command.fd, command.start, request)?;
        self.told(
            call.respond(&command),
            command.ioas_id,
            command.iova,
            command.length,
        )?;
        Ok(Reply::default())
    }

    pub(super) fn uapi_ioas_copy(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_ioas_copy = call.read(end_of!(iommu_ioas_copy, src_iova))?;
        #[cfg(feature = "selftest")]
        crate::selftest::nth_area(
            self,
            command.src_ioas_id,
            &mut command.src_iova,
            &mut command.flags,
        );
        if command.src_iova == u64::MAX {
            return Err(check_flags(command.flags).err().unwrap_or(Errno::EOVERFLOW));
        }
        let request = map_request(
            command.flags,
            command.dst_ioas_id,
            command.dst_iova,
            command.length,
        )?;
        command.dst_iova = self.copy(command.src_ioas_id, command.src_iova, request)?;
        let told = call.respond(&command);
        self.told(told, command.dst_ioas_id, command.dst_iova, command.length)?;
        Ok(Reply::default())
    }

    /// A caller that could not be told where something is mapped does not have it mapped.
    fn told(
        &self,
        told: Result<(), Errno>,
        ioas: u32,
        iova: u64,
        length: u64,
    ) -> Result<(), Errno> {
        if told.is_err()
            && let Ok(range) = range(iova, length)
            && let Err(error) = self.unmap(ioas, range)
        {
            log::warn!("a mapping at {iova:#x} stays that its caller does not know of: {error}");
        }
        told
    }

    pub(super) fn uapi_ioas_unmap(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_ioas_unmap = call.read(end_of!(iommu_ioas_unmap, length))?;
        self.lock().objects.ioas(command.ioas_id)?;
        let unmapped = if command.iova == 0 && command.length == u64::MAX {
            self.unmap(command.ioas_id, 0..=u64::MAX)?
        } else {
            if command.iova == u64::MAX || command.length == u64::MAX {
                return Err(Errno::EOVERFLOW);
            }
            let range = range(command.iova, command.length)?;
            match self.unmap(command.ioas_id, range)? {
                0 => return Err(Errno::ENOENT),
                unmapped => unmapped,
            }
        };
        command.length = unmapped;
        call.respond(&command)?;
        Ok(Reply::default())
    }

    pub(super) fn uapi_ioas_change_process(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let command: iommu_ioas_change_process =
            call.read(end_of!(iommu_ioas_change_process, __reserved))?;
        if command.__reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.change_process(call.caller)?;
        Ok(Reply::default())
    }

    /// Physical addresses are told only of devices without a unit, which do not exist here.
    pub(super) fn uapi_noiommu_get_pa(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let command: iommu_ioas_noiommu_get_pa =
            call.read(end_of!(iommu_ioas_noiommu_get_pa, out_phys))?;
        if !call.caller.capable(Capability::SysRawio) {
            return Err(Errno::EPERM);
        }
        if command.flags != 0 || command.__reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if command.length == 0 {
            return Err(Errno::EINVAL);
        }
        if command.iova == u64::MAX {
            return Err(Errno::EOVERFLOW);
        }
        let state = self.lock();
        let ioas = &state.objects.ioas(command.ioas_id)?.ioas;
        ioas.contiguous(&(command.iova..=command.iova))?;
        Err(Errno::EOPNOTSUPP)
    }
}

fn check_flags(flags: u32) -> Result<(), Errno> {
    if flags & !(FIXED_IOVA | WRITEABLE | READABLE) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(())
}

fn map_request(flags: u32, ioas: u32, iova: u64, length: u64) -> Result<MapRequest, Errno> {
    check_flags(flags)?;
    if iova == u64::MAX || length == u64::MAX {
        return Err(Errno::EOVERFLOW);
    }
    let mut access = Access::empty();
    access.set(Access::READ, flags & READABLE != 0);
    access.set(Access::WRITE, flags & WRITEABLE != 0);
    if access.is_empty() {
        return Err(Errno::EINVAL);
    }
    let iova = (flags & FIXED_IOVA != 0).then_some(iova);
    Ok(MapRequest {
        ioas,
        iova,
        length,
        access,
    })
}

/// A range of addresses that a caller gives.
pub(super) fn range(iova: u64, length: u64) -> Result<RangeInclusive<u64>, Errno> {
    let reach = length.checked_sub(1).ok_or(Errno::EINVAL)?;
    Ok(iova..=iova.checked_add(reach).ok_or(Errno::EOVERFLOW)?)
}

/// Reads ranges, no more of them than are good: bad ones end it.
fn read_ranges(
    call: &Call<'_>,
    address: u64,
    count: u32,
) -> Result<Vec<RangeInclusive<u64>>, Errno> {
    if count > MAX_RANGES {
        return Err(Errno::ENOMEM);
    }
    let size = size_of::<iommu_iova_range>();
    let mut seen = std::collections::BTreeMap::new();
    let mut ranges = Vec::new();
    let mut done = 0;
    while done < count {
        let now = RANGES.min(count - done);
        let mut bytes = vec![0; now as usize * size];
        let place = address
            .checked_add(u64::from(done) * size as u64)
            .ok_or(Errno::EFAULT)?;
        call.caller.read(place, &mut bytes)?;
        for bytes in bytes.chunks_exact(size) {
            let range = iommu_iova_range::from_bytes(bytes);
            let meets = seen.range(..=range.last).next_back();
            if range.start >= range.last || meets.is_some_and(|(_, last)| *last >= range.start) {
                return Err(Errno::EINVAL);
            }
            seen.insert(range.start, range.last);
            ranges.push(range.start..=range.last);
        }
        done += now;
    }
    Ok(ranges)
}
