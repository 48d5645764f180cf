//! Pinned memory as devices reach it behind a unit.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vm_iommu_dma::{DmaPort, Epochs, HostRange, OutputSpace};
use vm_iommu_spec::{FaultReason, PhysAddr};

use super::Frames;
use crate::System;
use crate::caller::PAGE_SIZE;

/// The memory that programs mapped, as the output space of a unit: the
/// [`output`](vm_iommu_dma::Upstream::output) of devices whose domains iommufd edits.
///
/// Memory that this process reaches directly ([`Backing::host`](super::Backing::host)) is used in
/// place. Other memory, a program's private one, can only be copied, by the framework's accesses;
/// a device's access to it is refused with [`FaultReason::CopyOnly`]. A copy inside a device's
/// access could not be bounded: the program decides how long a fault in its memory takes, and
/// every invalidation would wait for it.
///
/// When a page is pinned by nobody any more, all ports have forgotten it before its memory is let
/// go.
#[derive(Clone)]
pub struct FrameSpace(Arc<System>);

impl FrameSpace {
    /// The memory pinned in a system.
    pub fn new(system: Arc<System>) -> Self {
        Self(system)
    }
}

impl fmt::Debug for FrameSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FrameSpace").field(self.0.frames()).finish()
    }
}

/// What is tried to be resolved as one: a large page, then a small one.
const SIZES: [u64; 2] = [2 << 20, PAGE_SIZE];

// SAFETY: a backing says of what it yields that it is mapped for as long as it lives. It lives
// while a page of it is pinned; when the last pin goes, the ports forget the page and are drained
// before it is let go (`Frames::unpin`). Backings map readable and writable, and only where they
// say nothing borrows.
unsafe impl OutputSpace for FrameSpace {
    fn resolve(&self, address: PhysAddr) -> Result<HostRange, FaultReason> {
        let frames: &Frames = self.0.frames();
        for size in SIZES {
            let start = address.align_down(size);
            if let Some(range) = frames.host(start, size) {
                return Ok(HostRange {
                    start,
                    len: size,
                    host: range.start,
                });
            }
        }
        Err(match frames.find(address) {
            Some(_) => FaultReason::CopyOnly,
            None => FaultReason::NotMemory,
        })
    }

    fn identity(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn attach(&self, port: &Arc<DmaPort>) {
        self.0.frames().ports().add(port);
    }
}

/// The ports of devices that reach pinned memory.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<Vec<Weak<DmaPort>>>);

impl Ports {
    fn add(&self, port: &Arc<DmaPort>) {
        let mut ports = self.lock();
        ports.retain(|port| port.strong_count() > 0);
        ports.push(Arc::downgrade(port));
    }

    /// Has all ports forget what they resolved, and waits until none uses it.
    pub(super) fn forget(&self) {
        let ports: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        ports.iter().for_each(|port| port.forget());
        let mut drained: Vec<*const Epochs> = Vec::new();
        for port in &ports {
            let epochs = &port.upstream().epochs;
            if !drained.contains(&Arc::as_ptr(epochs)) {
                drained.push(Arc::as_ptr(epochs));
                epochs.drain().wait();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<DmaPort>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
