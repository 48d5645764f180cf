//! One queue's place in a function.

use std::io;
use std::sync::atomic::AtomicU16;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_iommu_dma::DmaHandle;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::NO_VECTOR;
use crate::{QueueControl, QueueError, QueueLayout, VirtQueue};

pub(super) struct QueueSlot {
    /// The queue while it is enabled. Locked while requests are processed.
    queue: Mutex<Option<VirtQueue>>,
    control: Arc<QueueControl>,
    /// The MSI-X vector, or [`NO_VECTOR`].
    pub(super) vector: AtomicU16,
    /// Set when the driver kicks.
    pub(super) event: Arc<EventFd>,
    /// The largest size in entries.
    pub(super) max_size: u16,
}

impl QueueSlot {
    pub(super) fn new(max_size: u16) -> io::Result<Self> {
        Ok(Self {
            queue: Mutex::default(),
            control: Arc::default(),
            vector: AtomicU16::new(NO_VECTOR),
            event: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            max_size,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Option<VirtQueue>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn kick(&self) {
        if let Err(error) = self.event.write(1) {
            // Only a counter at its limit refuses: then the event is set already.
            log::debug!("kick not counted: {error}");
        }
    }

    pub(super) fn start(
        &self,
        layout: &QueueLayout,
        event_idx: bool,
        dma: DmaHandle,
    ) -> Result<(), QueueError> {
        let control = Arc::clone(&self.control);
        let queue = VirtQueue::new(layout, self.max_size, event_idx, dma, control)?;
        *self.lock() = Some(queue);
        Ok(())
    }

    /// Disables the queue; returns when nothing of it is being processed. Waits for one request
    /// at most.
    pub(super) fn stop(&self) {
        self.control.set_stop(true);
        *self.lock() = None;
        self.control.set_stop(false);
    }
}
