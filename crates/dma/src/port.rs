//! A function's connection to memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vm_iommu_spec::{FaultReason, MsiMessage, Pasid, RequesterId};

use crate::{DiscardMsi, DmaHandle, DmaRemapper, Epochs, MsiSink, OutputSpace};

/// What lies upstream of a function: the memory its requests reach, and the unit on the way.
#[derive(Clone)]
pub struct Upstream {
    /// Where output addresses live.
    pub output: Arc<dyn OutputSpace>,
    /// The unit that translates, or `None` where addresses are physical already.
    pub remapper: Option<Arc<dyn DmaRemapper>>,
    /// The epochs that invalidations drain.
    pub epochs: Arc<Epochs>,
    /// Where interrupt messages go.
    pub msi: Arc<dyn MsiSink>,
}

impl Upstream {
    /// Memory alone: no unit, and interrupts that reach nobody.
    pub fn direct(output: impl OutputSpace + 'static) -> Self {
        Self {
            output: Arc::new(output),
            remapper: None,
            epochs: Arc::default(),
            msi: Arc::new(DiscardMsi),
        }
    }
}

/// One function's port: who it is on the bus now, whether it may issue requests, and where they
/// go. The fabric keeps the state up to date; the device takes handles from it.
pub struct DmaPort {
    upstream: Upstream,
    requester: AtomicU32,
    bus_master: AtomicBool,
    stopped: AtomicBool,
}

impl DmaPort {
    /// A port at requester 0000:00:00.0 with bus mastering disabled.
    pub fn new(upstream: Upstream) -> Arc<Self> {
        Arc::new(Self {
            upstream,
            requester: AtomicU32::new(0),
            bus_master: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        })
    }

    /// A handle for requests without PASID.
    pub fn handle(self: &Arc<Self>) -> DmaHandle {
        DmaHandle::new(Arc::clone(self), None)
    }

    /// A handle for requests with `pasid`.
    pub fn handle_with_pasid(self: &Arc<Self>, pasid: Pasid) -> DmaHandle {
        DmaHandle::new(Arc::clone(self), Some(pasid))
    }

    /// Who the function is on the bus.
    #[inline]
    pub fn requester(&self) -> RequesterId {
        RequesterId::from_raw(self.requester.load(Ordering::Acquire))
    }

    /// Sets who the function is: the bus number is live, and moves when a bridge is renumbered.
    pub fn set_requester(&self, requester: RequesterId) {
        self.requester.store(requester.raw(), Ordering::Release);
    }

    /// Sets the Bus Master Enable bit. After it was cleared, no request is in flight.
    pub fn set_bus_master(&self, enabled: bool) {
        if self.bus_master.swap(enabled, Ordering::SeqCst) && !enabled {
            self.upstream.epochs.drain().wait();
        }
    }

    /// Stops the function, as a function-level reset or a removal does: refuses new requests and
    /// returns when none is in flight. The caller must not be inside an epoch.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.upstream.epochs.drain().wait();
    }

    /// Lets the function issue requests again.
    pub fn restart(&self) {
        self.stopped.store(false, Ordering::SeqCst);
    }

    /// Why the function may not issue requests now, if it may not.
    #[inline]
    pub fn refusal(&self) -> Option<FaultReason> {
        if self.stopped.load(Ordering::Acquire) {
            Some(FaultReason::Stopped)
        } else if !self.bus_master.load(Ordering::Acquire) {
            Some(FaultReason::BusMasterDisabled)
        } else {
            None
        }
    }

    /// Raises an interrupt from this function; an MSI is a memory write, so the same rules hold.
    ///
    /// # Errors
    /// The reason, if the function may not issue requests now.
    pub fn signal_msi(&self, message: MsiMessage) -> Result<(), FaultReason> {
        match self.refusal() {
            Some(reason) => Err(reason),
            None => {
                self.upstream.msi.signal(self.requester(), message);
                Ok(())
            }
        }
    }

    /// What lies upstream.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }
}
