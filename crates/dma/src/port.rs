//! A function's connection to memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use vm_iommu_spec::{FaultReason, MsiMessage, Pasid, RequesterId};

use crate::observer::{EVERYTHING, Observers};
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

/// Bit of a port's word: the function is stopped. The lower half is the requester id.
const STOPPED: u64 = 1 << 32;
/// Bit of a port's word: bus mastering is disabled.
const NO_BUS_MASTER: u64 = 1 << 33;

/// One function's port: who it is on the bus now, whether it may issue requests, and where they
/// go. The fabric keeps the state up to date; the device takes handles from it.
pub struct DmaPort {
    upstream: Upstream,
    /// All that an access must know, in one word: it changes as a whole.
    word: AtomicU64,
    observers: Observers,
    /// Whether the unit's translation cache is this port's, too.
    caches: OnceLock<bool>,
}

impl DmaPort {
    /// A port at requester 0000:00:00.0 with bus mastering disabled.
    ///
    /// All ports behind one unit should have the same output space. One that has another than those
    /// that are there already is served without the unit's translation cache.
    pub fn new(upstream: Upstream) -> Arc<Self> {
        let port = Arc::new(Self {
            upstream,
            word: AtomicU64::new(NO_BUS_MASTER),
            observers: Observers::default(),
            caches: OnceLock::new(),
        });
        port.upstream.output.attach(&port);
        if let Some(remapper) = &port.upstream.remapper {
            port.caches.get_or_init(|| remapper.iotlb().admit(&port));
        }
        port
    }

    /// Whether what handles resolve may be in the unit's translation cache.
    pub(crate) fn caches(&self) -> bool {
        self.caches.get().copied().unwrap_or(false)
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
    pub fn requester(&self) -> RequesterId {
        Self::requester_of(self.word())
    }

    /// The requester that a word stands for.
    pub(crate) fn requester_of(word: u64) -> RequesterId {
        RequesterId::from_raw(word as u32)
    }

    /// Sets who the function is: the bus number is live, and moves when a bridge is renumbered.
    pub fn set_requester(&self, requester: RequesterId) {
        let before = self.update(u64::from(u32::MAX), requester.raw().into());
        if before as u32 != requester.raw() {
            // What handles remember is another requester's.
            self.upstream.epochs.renew();
            self.observers.unmapped(&EVERYTHING);
        }
    }

    /// Sets the Bus Master Enable bit. After it was cleared, no request is in flight.
    pub fn set_bus_master(&self, enabled: bool) {
        if enabled {
            self.update(NO_BUS_MASTER, 0);
        } else if self.update(NO_BUS_MASTER, NO_BUS_MASTER) & NO_BUS_MASTER == 0 {
            self.settle();
        }
    }

    /// Stops the function, as a function-level reset or a removal does: refuses new requests and
    /// returns when none is in flight. The caller must not be inside an epoch.
    pub fn stop(&self) {
        self.update(STOPPED, STOPPED);
        self.settle();
    }

    /// Waits until no request is in flight, those of observers included.
    fn settle(&self) {
        self.observers.unmapped(&EVERYTHING);
        self.upstream.epochs.drain().wait();
    }

    /// Forgets all host memory that was resolved: the [`OutputSpace`] changed. What is in flight
    /// may still use it; drain it. Observers are told that nothing is mapped any more.
    pub fn forget(&self) {
        if let Some(remapper) = &self.upstream.remapper {
            remapper.iotlb().invalidate_all();
        }
        self.observers.unmapped(&EVERYTHING);
    }

    /// Those who follow what the function may use.
    pub(crate) fn observers(&self) -> &Observers {
        &self.observers
    }

    /// Lets the function issue requests again.
    pub fn restart(&self) {
        self.update(STOPPED, 0);
    }

    /// Why the function may not issue requests now, if it may not.
    pub fn refusal(&self) -> Option<FaultReason> {
        Self::refusal_of(self.word())
    }

    /// The refusal that a word stands for.
    pub(crate) fn refusal_of(word: u64) -> Option<FaultReason> {
        if word & STOPPED != 0 {
            Some(FaultReason::Stopped)
        } else if word & NO_BUS_MASTER != 0 {
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
        let word = self.word();
        match Self::refusal_of(word) {
            Some(reason) => Err(reason),
            None => {
                self.upstream.msi.signal(Self::requester_of(word), message);
                Ok(())
            }
        }
    }

    /// What lies upstream.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Requester and gates in one word; a handle that saw the same word before need not look at
    /// its parts again.
    #[inline]
    pub(crate) fn word(&self) -> u64 {
        self.word.load(Ordering::Acquire)
    }

    /// Sets the bits of `mask` to `bits`; yields the word before.
    fn update(&self, mask: u64, bits: u64) -> u64 {
        let change = |word| Some(word & !mask | bits);
        self.word
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, change)
            .unwrap_or_else(|word| word)
    }
}
