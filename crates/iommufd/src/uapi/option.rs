//! Options and the VFIO compatibility address space.

use std::mem::offset_of;

use iommufd_bindings::{
    iommu_option, iommu_vfio_ioas, iommufd_option_IOMMU_OPTION_HUGE_PAGES as HUGE_PAGES,
    iommufd_option_IOMMU_OPTION_RLIMIT_MODE as RLIMIT_MODE,
    iommufd_option_ops_IOMMU_OPTION_OP_GET as GET, iommufd_option_ops_IOMMU_OPTION_OP_SET as SET,
    iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_CLEAR as CLEAR_IOAS,
    iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_GET as GET_IOAS,
    iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_SET as SET_IOAS,
};

use super::Call;
use super::call::end_of;
use crate::caller::Reply;
use crate::{Capability, Context, Errno};

impl Context {
    pub(super) fn uapi_option(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let command: iommu_option = call.read(end_of!(iommu_option, val64))?;
        if command.__reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let value = match command.option_id {
            RLIMIT_MODE => self.rlimit_mode(call, &command)?,
            HUGE_PAGES => self.huge_pages(&command)?,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let place = offset_of!(iommu_option, val64) as u64;
        let place = call.argument.checked_add(place).ok_or(Errno::EFAULT)?;
        call.caller.write(place, &value.to_le_bytes())?;
        Ok(Reply::default())
    }

    fn rlimit_mode(&self, call: &Call<'_>, command: &iommu_option) -> Result<u64, Errno> {
        if command.object_id != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        match command.op.into() {
            GET => Ok(self.lock().per_process.into()),
            SET => {
                if !call.caller.capable(Capability::SysResource) {
                    return Err(Errno::EPERM);
                }
                self.set_rlimit_mode(command.val64)?;
                Ok(command.val64)
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn huge_pages(&self, command: &iommu_option) -> Result<u64, Errno> {
        let mut state = self.lock();
        let ioas = &mut state.objects.visible_ioas_mut(command.object_id)?.ioas;
        match command.op.into() {
            GET => Ok(ioas.large_pages().into()),
            SET => {
                match command.val64 {
                    0 => ioas.set_large_pages(false)?,
                    1 => ioas.set_large_pages(true)?,
                    _ => return Err(Errno::EINVAL),
                }
                Ok(command.val64)
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    pub(super) fn uapi_vfio_ioas(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_vfio_ioas = call.read(end_of!(iommu_vfio_ioas, __reserved))?;
        if command.__reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        match command.op.into() {
            GET_IOAS => {
                command.ioas_id = self.lock().compatible()?;
                call.respond(&command)?;
            }
            SET_IOAS => {
                let mut state = self.lock();
                state.objects.ioas(command.ioas_id)?;
                state.compatible = Some(command.ioas_id);
            }
            CLEAR_IOAS => self.lock().compatible = None,
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(Reply::default())
    }
}
