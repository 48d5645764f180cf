//! What a virtual machine monitor needs of a unit for its guest, as types: nested tables, vIOMMUs
//! with their devices, events and queues, and page requests.

use std::sync::Arc;

use vm_iommu_driver::iommu::{PagingOptions, UserData};
use vm_iommu_spec::Iova;

use super::VirtualEvent;
use super::event_queue::EventFile;
use super::fault_queue::FaultFile;
use super::{BoundDevice, Context, HwPageTable, HwptRequest, PageRequests, PageResponse};
use crate::Errno;
use crate::caller::{ContextFile, Waker};

/// A queue of page requests of devices on the tables that were made with it. Like its tables, it
/// stays when this is dropped, as long as the context, or until it is destroyed.
#[derive(Clone)]
pub struct PageFaults {
    file: Arc<FaultFile>,
}

impl Context {
    /// A new queue of page requests.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`] if there are no more numbers.
    pub fn page_faults(self: &Arc<Self>) -> Result<PageFaults, Errno> {
        let (id, file) = self.create_fault_queue()?;
        self.publish(id);
        Ok(PageFaults { file })
    }
}

impl PageFaults {
    /// Its number in the context.
    pub fn id(&self) -> u32 {
        self.file.id
    }

    /// Destroys it.
    ///
    /// # Errors
    /// [`Errno::EBUSY`] while a table has it, or a clone of this is there.
    pub fn destroy(self) -> Result<(), Errno> {
        let (context, id) = (Arc::clone(&self.file.context), self.file.id);
        drop(self);
        context.destroy(id)
    }

    pub(super) fn is_of(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.file.context, context)
    }

    /// The oldest group of requests that was not taken yet. It stays open until it is answered, or
    /// its device leaves the table.
    pub fn take(&self) -> Option<PageRequests> {
        self.file.queue.take()
    }

    /// Answers a group of requests.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if none of that cookie is open.
    pub fn answer(&self, cookie: u32, response: PageResponse) -> Result<(), Errno> {
        self.file.queue.answer(cookie, response)
    }

    /// Sets what is called when there is something to take.
    pub fn set_waker(&self, waker: Option<Waker>) {
        self.file.set_waker(waker);
    }
}

impl HwPageTable {
    /// A table of a device that translates by a guest's tables on top of this one, which was made
    /// as a nesting parent. `data` says, in the unit's format, where these are; `faults` is where
    /// page requests go.
    ///
    /// # Errors
    /// [`Errno::EOPNOTSUPP`] if the unit cannot nest, [`EINVAL`](Errno::EINVAL) if this is no
    /// nesting parent or another unit's; what the unit says of `data`.
    pub fn nested(
        &self,
        device: &BoundDevice,
        options: PagingOptions,
        data: UserData<'_>,
        faults: Option<&PageFaults>,
    ) -> Result<Self, Errno> {
        nested(&self.context, self.id, device, options, data, faults)
    }

    /// Invalidates what a guest changed in the tables of a nested table: `entries` requests in the
    /// unit's format. Yields how many were carried out, and why the next one was not.
    pub fn invalidate(&self, data: UserData<'_>, entries: u32) -> (u32, Result<(), Errno>) {
        self.context.invalidate(self.id, data, entries)
    }

    /// A new vIOMMU of a type (Linux `enum iommu_viommu_type`) on top of this table, which was made
    /// as a nesting parent. `data` is the type's, and may be answered in place.
    ///
    /// # Errors
    /// [`Errno::EOPNOTSUPP`] if the device's unit has none of that type, [`EINVAL`](Errno::EINVAL)
    /// if this is no nesting parent; what the unit says of `data`.
    pub fn viommu(
        &self,
        device: &BoundDevice,
        kind: u32,
        data: &mut Vec<u8>,
    ) -> Result<VirtualIommu, Errno> {
        let given = data.clone();
        let id = self.context.create_viommu(
            device.id(),
            self.id,
            kind,
            &mut || Ok(given.clone()),
            &mut |bytes| {
                data.clear();
                data.extend_from_slice(bytes);
                Ok(())
            },
        )?;
        self.context.publish(id);
        let context = Arc::clone(&self.context);
        Ok(VirtualIommu { context, id })
    }
}

fn nested(
    context: &Arc<Context>,
    on: u32,
    device: &BoundDevice,
    options: PagingOptions,
    data: UserData<'_>,
    faults: Option<&PageFaults>,
) -> Result<HwPageTable, Errno> {
    if faults.is_some_and(|faults| !faults.is_of(context)) {
        return Err(Errno::EINVAL);
    }
    let id = context.create_hwpt(&HwptRequest {
        device: device.id(),
        on,
        options,
        fault: faults.map(PageFaults::id),
        data: &|| Ok(Some((data.kind, data.bytes.to_vec()))),
        has_data: true,
    })?;
    context.publish(id);
    let context = Arc::clone(context);
    Ok(HwPageTable { context, id })
}

/// A unit's part for one virtual machine (vIOMMU). Like what is made of it, it stays when this is
/// dropped, as long as the context, or until it is destroyed.
#[derive(Clone, Debug)]
pub struct VirtualIommu {
    context: Arc<Context>,
    id: u32,
}

impl VirtualIommu {
    /// Its number in the context.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// As [`HwPageTable::nested`], for a guest's tables that belong to this vIOMMU.
    ///
    /// # Errors
    /// As there.
    pub fn nested(
        &self,
        device: &BoundDevice,
        options: PagingOptions,
        data: UserData<'_>,
        faults: Option<&PageFaults>,
    ) -> Result<HwPageTable, Errno> {
        nested(&self.context, self.id, device, options, data, faults)
    }

    /// Says which number a device has at the guest's unit.
    ///
    /// # Errors
    /// [`Errno::EEXIST`] if the number is taken or the device has one, [`EINVAL`](Errno::EINVAL)
    /// for a device of another unit.
    pub fn device(&self, device: &BoundDevice, virtual_id: u64) -> Result<VirtualDevice, Errno> {
        let id = self
            .context
            .create_vdevice(self.id, device.id(), virtual_id)?;
        self.context.publish(id);
        let context = Arc::clone(&self.context);
        Ok(VirtualDevice { context, id })
    }

    /// A new queue for events of a type (Linux `enum iommu_veventq_type`), of at most `depth`.
    ///
    /// # Errors
    /// [`Errno::EEXIST`] if there is one, [`EINVAL`](Errno::EINVAL) for a depth out of bounds.
    pub fn events(&self, kind: u32, depth: u32) -> Result<VirtualEvents, Errno> {
        let (id, file) = self.context.create_event_queue(self.id, kind, depth)?;
        self.context.publish(id);
        Ok(VirtualEvents { file })
    }

    /// Has the unit work off a queue of a type and index (Linux `enum iommu_hw_queue_type`) in
    /// `length` bytes of the guest's memory from `iova` of the nesting parent's address space. The
    /// memory is pinned and cannot be unmapped until the queue is destroyed.
    ///
    /// # Errors
    /// [`Errno::EOPNOTSUPP`] if it has none of that type, [`EFAULT`](Errno::EFAULT) if the memory is
    /// not in one piece; what pinning and the unit say.
    pub fn hw_queue(
        &self,
        kind: u32,
        index: u32,
        iova: Iova,
        length: u64,
    ) -> Result<HardwareQueue, Errno> {
        let id = self
            .context
            .create_hw_queue(self.id, kind, index, iova.0, length)?;
        self.context.publish(id);
        let context = Arc::clone(&self.context);
        Ok(HardwareQueue { context, id })
    }

    /// As [`HwPageTable::invalidate`], for what the unit caches of the guest beside tables.
    pub fn invalidate(&self, data: UserData<'_>, entries: u32) -> (u32, Result<(), Errno>) {
        self.context.invalidate(self.id, data, entries)
    }

    /// Destroys it.
    ///
    /// # Errors
    /// [`Errno::EBUSY`] while anything was made of it.
    pub fn destroy(&self) -> Result<(), Errno> {
        self.context.destroy(self.id)
    }
}

/// A device of a virtual machine.
#[derive(Clone, Debug)]
pub struct VirtualDevice {
    context: Arc<Context>,
    id: u32,
}

impl VirtualDevice {
    /// Its number in the context.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Destroys it.
    ///
    /// # Errors
    /// [`Errno::ENOENT`] if its device went before.
    pub fn destroy(&self) -> Result<(), Errno> {
        self.context.destroy(self.id)
    }
}

/// A queue of events of a vIOMMU. It stays when this is dropped, as long as the context, or until it
/// is destroyed.
#[derive(Clone)]
pub struct VirtualEvents {
    file: Arc<EventFile>,
}

impl VirtualEvents {
    /// Its number in the context.
    pub fn id(&self) -> u32 {
        self.file.id
    }

    /// Destroys it.
    ///
    /// # Errors
    /// [`Errno::EBUSY`] while a clone of this is there.
    pub fn destroy(self) -> Result<(), Errno> {
        let (context, id) = (Arc::clone(&self.file.context), self.file.id);
        drop(self);
        context.destroy(id)
    }

    /// The oldest event that was not taken yet.
    pub fn take(&self) -> Option<VirtualEvent> {
        self.file.queue.take()
    }

    /// Sets what is called when there is something to take.
    pub fn set_waker(&self, waker: Option<Waker>) {
        self.file.set_waker(waker);
    }
}

/// A queue in the guest's memory that a unit works off.
#[derive(Clone, Debug)]
pub struct HardwareQueue {
    context: Arc<Context>,
    id: u32,
}

impl HardwareQueue {
    /// Its number in the context.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Has the unit stop, and lets go of the memory.
    ///
    /// # Errors
    /// [`Errno::EBUSY`] while another queue depends on it.
    pub fn destroy(&self) -> Result<(), Errno> {
        self.context.destroy(self.id)
    }
}
