//! Fault queues.

use std::mem::offset_of;
use std::sync::Arc;

use iommufd_bindings::iommu_fault_alloc;

use super::Call;
use super::call::{Made, end_of};
use crate::caller::Reply;
use crate::{Context, Errno};

impl Context {
    pub(super) fn uapi_fault_queue_alloc(
        self: &Arc<Self>,
        call: &Call<'_>,
    ) -> Result<Reply, Errno> {
        let mut command: iommu_fault_alloc = call.read(end_of!(iommu_fault_alloc, out_fault_fd))?;
        if command.flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (id, file) = self.create_fault_queue()?;
        command.out_fault_id = id;
        let place = offset_of!(iommu_fault_alloc, out_fault_fd);
        call.finish(Made {
            answer: command,
            id,
            file: Some((file, place)),
        })
    }
}
