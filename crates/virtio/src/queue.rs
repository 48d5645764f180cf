//! A virtqueue over a device's hand on memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_iommu_dma::{DmaHandle, DmaSession};
use vm_iommu_spec::{Fault, Iova};
use vm_memory::{Bytes, GuestAddress};

use crate::{Chain, ChainError, LogBudget, Progress, Served};

/// Why a queue cannot go on. The device needs a reset.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The size is not a power of two, or above the maximum.
    #[error("a queue of {size} entries, where powers of two up to {max} are possible")]
    Size {
        /// The size asked for.
        size: u16,
        /// The largest possible.
        max: u16,
    },
    /// A ring is misaligned or passes the end of the address space.
    #[error("no {ring} of {len} bytes can be at {address}")]
    Address {
        /// Which.
        ring: &'static str,
        /// Where it was put.
        address: Iova,
        /// Its length in bytes.
        len: u64,
    },
    /// A ring or the descriptor table cannot be accessed.
    #[error("the queue's memory cannot be accessed: {0}")]
    Fault(#[source] Fault),
    /// The available ring names a descriptor that is not in the table.
    #[error("descriptor {head} in a table of {size}")]
    Head {
        /// The index found.
        head: u16,
        /// The size of the queue.
        size: u16,
    },
    /// The rings contradict themselves, or the library found another fault with them.
    #[error("the queue is inconsistent: {0}")]
    Ring(#[source] virtio_queue::Error),
}

/// Where a queue's parts are, and how many entries it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLayout {
    /// Entries, a power of two.
    pub size: u16,
    /// The descriptor table, 16 bytes an entry, aligned to 16.
    pub descriptors: Iova,
    /// The available ring (driver area), 6 bytes and 2 an entry, aligned to 2.
    pub available: Iova,
    /// The used ring (device area), 6 bytes and 8 an entry, aligned to 4.
    pub used: Iova,
}

impl QueueLayout {
    fn check(&self, max: u16) -> Result<(), QueueError> {
        let size = self.size;
        if !size.is_power_of_two() || size > max {
            return Err(QueueError::Size { size, max });
        }
        let entries = u64::from(size);
        for (ring, address, len, align) in [
            ("descriptor table", self.descriptors, 16 * entries, 16),
            ("available ring", self.available, 6 + 2 * entries, 2),
            ("used ring", self.used, 6 + 8 * entries, 4),
        ] {
            if !address.is_aligned(align) || address.last_byte(len).is_none() {
                return Err(QueueError::Address { ring, address, len });
            }
        }
        // The queue library takes an available ring at 0 for one that was never set.
        if self.available == Iova(0) {
            return Err(QueueError::Address {
                ring: "available ring",
                address: self.available,
                len: 6 + 2 * entries,
            });
        }
        Ok(())
    }
}

/// A queue that the driver has enabled.
pub struct VirtQueue {
    queue: Queue,
    dma: DmaHandle,
    control: Arc<QueueControl>,
}

/// What a queue shares with whoever owns its place in a device, and what outlives it there.
#[derive(Debug, Default)]
pub struct QueueControl {
    /// Set when the owner wants the queue back.
    stop: AtomicBool,
    /// The driver can have any number of queues after one another.
    log: LogBudget,
}

impl QueueControl {
    /// Sets whether [`VirtQueue::serve`] is to return without completing anything more.
    pub fn set_stop(&self, stop: bool) {
        self.stop.store(stop, Ordering::Release);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// What the next entry of the available ring is.
enum Popped {
    Nothing,
    Request(u16, Chain),
    Malformed(u16, ChainError),
}

impl VirtQueue {
    /// A queue at `layout`, of a device whose queue has at most `max_size` entries.
    ///
    /// # Errors
    /// What is wrong with the layout. Memory is not touched before the first
    /// [`serve`](Self::serve).
    pub fn new(
        layout: &QueueLayout,
        max_size: u16,
        event_idx: bool,
        dma: DmaHandle,
        control: Arc<QueueControl>,
    ) -> Result<Self, QueueError> {
        layout.check(max_size)?;
        let mut queue = Queue::new(max_size).map_err(QueueError::Ring)?;
        queue.try_set_size(layout.size).map_err(QueueError::Ring)?;
        queue
            .try_set_desc_table_address(GuestAddress(layout.descriptors.0))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(layout.available.0)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(layout.used.0)))
            .map_err(QueueError::Ring)?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(Self {
            queue,
            dma,
            control,
        })
    }

    /// Serves up to `budget` requests: `request` does what each asks for and says how many bytes
    /// it wrote to the writable buffer, from its start. A malformed chain is given back with
    /// length 0 without being asked about.
    ///
    /// No epoch is open while `request` runs, so it may block on a backend.
    ///
    /// # Errors
    /// The queue's own memory could not be used, or holds nonsense.
    pub fn serve(
        &mut self,
        budget: usize,
        request: impl FnMut(&DmaHandle, &Chain) -> u32,
    ) -> Result<Served, QueueError> {
        let served = self.serve_some(budget, request);
        // Whatever comes next waits for the driver, or for other queues' turns.
        self.dma.park();
        served
    }

    fn serve_some(
        &mut self,
        budget: usize,
        mut request: impl FnMut(&DmaHandle, &Chain) -> u32,
    ) -> Result<Served, QueueError> {
        let before = self.queue.next_used();
        let mut progress = Progress::More;
        // What the port refuses is no fault of the ring: the driver took the device off the bus.
        if self.dma.port().refusal().is_some() {
            return Ok(Served::default());
        }
        self.in_session(|queue, session| queue.disable_notification(session))?;
        for _ in 0..budget {
            if self.control.is_stopped() {
                break;
            }
            let (head, len) = match self.pop()? {
                Popped::Nothing => {
                    // More may have come just before the driver saw that it must kick again.
                    if self.in_session(|queue, session| queue.enable_notification(session))? {
                        continue;
                    }
                    progress = Progress::Idle;
                    break;
                }
                Popped::Request(head, chain) => (head, request(&self.dma, &chain)),
                Popped::Malformed(head, error) => {
                    self.control
                        .log
                        .warn(format_args!("request dropped: {error}"));
                    (head, 0)
                }
            };
            if self.control.is_stopped() {
                break;
            }
            self.in_session(|queue, session| queue.add_used(session, head, len))?;
        }
        Ok(Served {
            progress,
            interrupt: self.queue.next_used() != before && self.wants_interrupt()?,
        })
    }

    fn pop(&mut self) -> Result<Popped, QueueError> {
        let size = self.queue.size();
        let table = Iova(self.queue.desc_table());
        let limit = self.queue.max_size();
        let place = 4 + 2 * u64::from(self.queue.next_avail() % size);
        // Within the ring, which does not wrap.
        let entry = GuestAddress(self.queue.avail_ring() + place);
        let session = self.dma.session();
        // The library logs each entry that it cannot read: the guest must not get that far.
        let readable = session.load::<u16>(entry, Ordering::Relaxed);
        let readable = readable.map_err(virtio_queue::Error::GuestMemory);
        let next = match readable.and_then(|_| self.queue.iter(&session)) {
            Ok(mut available) => available.next(),
            Err(error) => return Err(ring_error(&session, error)),
        };
        let Some(chain) = next else {
            return match session.take_fault() {
                Some(fault) => Err(QueueError::Fault(fault)),
                None => Ok(Popped::Nothing),
            };
        };
        let head = chain.head_index();
        if head >= size {
            return Err(QueueError::Head { head, size });
        }
        match Chain::parse(&session, chain, limit) {
            Ok(chain) => Ok(Popped::Request(head, chain)),
            Err(ChainError::Fault(fault))
                if fault.address.0.wrapping_sub(table.0) < 16 * u64::from(size) =>
            {
                Err(QueueError::Fault(fault))
            }
            Err(error) => Ok(Popped::Malformed(head, error)),
        }
    }

    fn wants_interrupt(&mut self) -> Result<bool, QueueError> {
        if self.queue.event_idx_enabled() {
            return self.in_session(|queue, session| queue.needs_notification(session));
        }
        let flags = GuestAddress(self.queue.avail_ring());
        self.in_session(|_, session| {
            // The used index must be visible before the flags are read, else the driver may go
            // to sleep between the two.
            std::sync::atomic::fence(Ordering::SeqCst);
            session
                .load::<u16>(flags, Ordering::Relaxed)
                .map(|flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
                .map_err(virtio_queue::Error::GuestMemory)
        })
    }

    fn in_session<R>(
        &mut self,
        access: impl FnOnce(&mut Queue, &DmaSession<'_>) -> Result<R, virtio_queue::Error>,
    ) -> Result<R, QueueError> {
        let session = self.dma.session();
        access(&mut self.queue, &session).map_err(|error| ring_error(&session, error))
    }
}

/// The fault behind a library's error, if there is one.
fn ring_error(session: &DmaSession<'_>, error: virtio_queue::Error) -> QueueError {
    match session.take_fault() {
        Some(fault) => QueueError::Fault(fault),
        None => QueueError::Ring(error),
    }
}
