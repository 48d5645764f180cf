//! Hardware page tables.

use iommufd_bindings::{
    iommu_hwpt_alloc, iommu_hwpt_data_type_IOMMU_HWPT_DATA_NONE as NO_DATA,
    iommu_hwpt_get_dirty_bitmap, iommu_hwpt_invalidate, iommu_hwpt_set_dirty_tracking,
    iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_DIRTY_TRACKING as DIRTY_TRACKING,
    iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_NEST_PARENT as NEST_PARENT,
    iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_PASID as PASID,
    iommufd_hwpt_alloc_flags_IOMMU_HWPT_FAULT_ID_VALID as FAULT_ID_VALID,
    iommufd_hwpt_get_dirty_bitmap_flags_IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR as NO_CLEAR,
    iommufd_hwpt_set_dirty_tracking_flags_IOMMU_HWPT_DIRTY_TRACKING_ENABLE as ENABLE,
};
use vm_iommu_driver::iommu::{PagingOptions, UserData};

use super::Call;
use super::call::{Made, end_of};
use crate::caller::{PAGE_SIZE, Reply};
use crate::ioas::BitmapRequest;
use crate::object::HwptRequest;
use crate::{Context, Errno};

/// The most entries of an invalidation.
const ENTRIES: u32 = 1 << 19;

/// How many of them are read at once.
const BATCH: u32 = 256;

impl Context {
    pub(super) fn uapi_hwpt_alloc(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_hwpt_alloc = call.read(end_of!(iommu_hwpt_alloc, __reserved))?;
        if command.__reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let has_data = command.data_len != 0;
        if (command.data_type != NO_DATA) != has_data {
            return Err(Errno::EINVAL);
        }
        self.lock().objects.device(command.dev_id)?;
        self.lock()
            .objects
            .get(command.pt_id)
            .map_err(|_| Errno::EINVAL)?;
        let flags = command.flags;
        if flags & !(NEST_PARENT | DIRTY_TRACKING | FAULT_ID_VALID | PASID) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let data = || {
            let read = || read_data(call, command.data_uptr, command.data_len);
            if has_data {
                read().map(|bytes| Some((command.data_type, bytes)))
            } else {
                Ok(None)
            }
        };
        let id = self.create_hwpt(&HwptRequest {
            device: command.dev_id,
            on: command.pt_id,
            options: PagingOptions {
                nest_parent: flags & NEST_PARENT != 0,
                dirty_tracking: flags & DIRTY_TRACKING != 0,
                pasid: flags & PASID != 0,
            },
            fault: (flags & FAULT_ID_VALID != 0).then_some(command.fault_id),
            data: &data,
            has_data,
        })?;
        command.out_hwpt_id = id;
        call.finish(Made {
            answer: command,
            id,
            file: None,
        })
    }

    pub(super) fn uapi_set_dirty_tracking(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let command: iommu_hwpt_set_dirty_tracking =
            call.read(end_of!(iommu_hwpt_set_dirty_tracking, __reserved))?;
        if command.flags & !ENABLE != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.set_dirty_tracking(command.hwpt_id, command.flags & ENABLE != 0)?;
        Ok(Reply::default())
    }

    pub(super) fn uapi_get_dirty_bitmap(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let command: iommu_hwpt_get_dirty_bitmap =
            call.read(end_of!(iommu_hwpt_get_dirty_bitmap, data))?;
        if command.flags & !NO_CLEAR != 0 || command.__reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let request = BitmapRequest {
            iova: command.iova,
            length: command.length,
            page_size: command.page_size,
            clear: command.flags & NO_CLEAR == 0,
        };
        self.dirty_bitmap(command.hwpt_id, request, &mut |first, bits| {
            // Bits that are set stay so: the caller may gather several tables in one bitmap.
            let place = command.data.checked_add(first / 8).ok_or(Errno::EFAULT)?;
            let mut bytes = vec![0; bits.len()];
            call.caller.read(place, &mut bytes)?;
            bytes
                .iter_mut()
                .zip(bits)
                .for_each(|(byte, bits)| *byte |= bits);
            call.caller.write(place, &bytes)
        })?;
        Ok(Reply::default())
    }

    pub(super) fn uapi_invalidate(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_hwpt_invalidate =
            call.read(end_of!(iommu_hwpt_invalidate, __reserved))?;
        let (done, result) = self.invalidate_entries(call, &command);
        command.entry_num = done;
        call.respond(&command)?;
        result.map(|()| Reply::default())
    }

    fn invalidate_entries(
        &self,
        call: &Call<'_>,
        command: &iommu_hwpt_invalidate,
    ) -> (u32, Result<(), Errno>) {
        let &iommu_hwpt_invalidate {
            entry_len,
            entry_num,
            data_uptr,
            data_type,
            ..
        } = command;
        if command.__reserved != 0 {
            return (0, Err(Errno::EOPNOTSUPP));
        }
        if entry_num != 0
            && (data_uptr == 0
                || entry_len == 0
                || u64::from(entry_len) > PAGE_SIZE
                || entry_num > ENTRIES)
        {
            return (0, Err(Errno::EINVAL));
        }
        if entry_num == 0 {
            let data = UserData {
                kind: data_type,
                bytes: &[],
            };
            return self.invalidate(command.hwpt_id, data, 0);
        }
        let mut done = 0;
        while done < entry_num {
            let now = BATCH.min(entry_num - done);
            let mut bytes = vec![0; now as usize * entry_len as usize];
            let place = data_uptr.checked_add(u64::from(done) * u64::from(entry_len));
            let read = place
                .ok_or(Errno::EFAULT)
                .and_then(|at| call.caller.read(at, &mut bytes));
            if let Err(error) = read {
                return (done, Err(error));
            }
            let data = UserData {
                kind: data_type,
                bytes: &bytes,
            };
            let (count, result) = self.invalidate(command.hwpt_id, data, now);
            done += count.min(now);
            if result.is_err() {
                return (done, result);
            }
            if count < now {
                break;
            }
        }
        (done, Ok(()))
    }
}

/// Reads a description in the unit's format; none is longer than a page.
pub(super) fn read_data(call: &Call<'_>, address: u64, length: u32) -> Result<Vec<u8>, Errno> {
    if u64::from(length) > PAGE_SIZE {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; length as usize];
    call.caller.read(address, &mut bytes)?;
    Ok(bytes)
}
