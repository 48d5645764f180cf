//! vIOMMUs, their devices, events and queues.

use std::mem::offset_of;
use std::sync::Arc;

use iommufd_bindings::{
    iommu_hw_queue_alloc, iommu_hw_queue_type_IOMMU_HW_QUEUE_TYPE_DEFAULT as NO_QUEUE,
    iommu_vdevice_alloc, iommu_veventq_alloc,
    iommu_veventq_type_IOMMU_VEVENTQ_TYPE_DEFAULT as NO_EVENTS, iommu_viommu_alloc,
    iommu_viommu_type_IOMMU_VIOMMU_TYPE_DEFAULT as NO_VIOMMU,
};

use super::Call;
use super::call::{Made, end_of};
use super::hwpt::read_data;
use crate::caller::Reply;
use crate::{Context, Errno};

impl Context {
    pub(super) fn uapi_viommu_alloc(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_viommu_alloc =
            call.read(end_of!(iommu_viommu_alloc, out_viommu_id))?;
        if command.flags != 0 || command.type_ == NO_VIOMMU {
            return Err(Errno::EOPNOTSUPP);
        }
        let id = self.create_viommu(
            command.dev_id,
            command.hwpt_id,
            command.type_,
            &mut || read_data(call, command.data_uptr, command.data_len),
            &mut |bytes| match bytes {
                [] => Ok(()),
                bytes => call.caller.write(command.data_uptr, bytes),
            },
        )?;
        command.out_viommu_id = id;
        call.finish(Made {
            answer: command,
            id,
            file: None,
        })
    }

    pub(super) fn uapi_vdevice_alloc(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_vdevice_alloc = call.read(end_of!(iommu_vdevice_alloc, virt_id))?;
        let id = self.create_vdevice(command.viommu_id, command.dev_id, command.virt_id)?;
        command.out_vdevice_id = id;
        call.finish(Made {
            answer: command,
            id,
            file: None,
        })
    }

    pub(super) fn uapi_veventq_alloc(self: &Arc<Self>, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_veventq_alloc =
            call.read(end_of!(iommu_veventq_alloc, out_veventq_fd))?;
        if command.flags != 0 || command.__reserved != 0 || command.type_ == NO_EVENTS {
            return Err(Errno::EOPNOTSUPP);
        }
        let (id, file) =
            self.create_event_queue(command.viommu_id, command.type_, command.veventq_depth)?;
        command.out_veventq_id = id;
        let place = offset_of!(iommu_veventq_alloc, out_veventq_fd);
        call.finish(Made {
            answer: command,
            id,
            file: Some((file, place)),
        })
    }

    pub(super) fn uapi_hw_queue_alloc(&self, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut command: iommu_hw_queue_alloc = call.read(end_of!(iommu_hw_queue_alloc, length))?;
        if command.flags != 0 || command.type_ == NO_QUEUE {
            return Err(Errno::EOPNOTSUPP);
        }
        let id = self.create_hw_queue(
            command.viommu_id,
            command.type_,
            command.index,
            command.nesting_parent_iova,
            command.length,
        )?;
        command.out_hw_queue_id = id;
        call.finish(Made {
            answer: command,
            id,
            file: None,
        })
    }
}
