//! Devices.

use iommufd_bindings::{
    iommu_hw_info, iommufd_hw_capabilities_IOMMU_HW_CAP_DIRTY_TRACKING as DIRTY_TRACKING,
    iommufd_hw_capabilities_IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED as ATS_NOT_SUPPORTED,
    iommufd_hw_info_flags_IOMMU_HW_INFO_FLAG_INPUT_TYPE as INPUT_TYPE,
};

use super::Call;
use super::call::end_of;
use crate::caller::Reply;
use crate::{Caller, Context, Errno};

/// How many zeros are written at once.
const ZEROS: usize = 4096;

impl Context {
    pub(super) fn uapi_get_hw_info(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_hw_info = call.read(end_of!(iommu_hw_info, __reserved))?;
        if command.flags & !INPUT_TYPE != 0 || command.__reserved != [0; 3] {
            return Err(Errno::EOPNOTSUPP);
        }
        // SAFETY: both fields of the union are the same integer.
        let asked = unsafe { command.__bindgen_anon_1.in_data_type };
        let kind = if command.flags & INPUT_TYPE == 0 {
            0
        } else {
            asked
        };
        let report = self.device_report(command.dev_id, kind)?;
        let bytes = &report.info.bytes;
        let room = command.data_len as usize;
        let shown = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        if !shown.is_empty() {
            call.caller.write(command.data_uptr, shown)?;
        }
        let rest = command
            .data_uptr
            .checked_add(shown.len() as u64)
            .ok_or(Errno::EFAULT)?;
        clear(call.caller, rest, room - shown.len())?;
        command.data_len = bytes.len() as u32;
        command.__bindgen_anon_1.out_data_type = report.info.kind;
        command.out_max_pasid_log2 = report.pasid_bits;
        command.out_capabilities = 0;
        if report.dirty_tracking {
            command.out_capabilities |= u64::from(DIRTY_TRACKING);
        }
        if !report.ats {
            command.out_capabilities |= u64::from(ATS_NOT_SUPPORTED);
        }
        call.respond(&command)?;
        Ok(Reply::default())
    }
}

/// Fills a caller's memory with zeros.
fn clear(caller: &dyn Caller, address: u64, length: usize) -> Result<(), Errno> {
    let mut done = 0;
    while done < length {
        let part = ZEROS.min(length - done);
        let place = address.checked_add(done as u64).ok_or(Errno::EFAULT)?;
        caller.write(place, [0; ZEROS].get(..part).unwrap_or_default())?;
        done += part;
    }
    Ok(())
}
