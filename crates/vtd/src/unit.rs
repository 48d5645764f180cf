//! The unit as a whole.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use vm_iommu_dma::unit::{
    BySource, FaultHistory, Progress, RouteSinks, Throttle, UnitInterrupts, Worker, lock,
};
use vm_iommu_dma::{DeviceTlb, Epochs, GuestRam, Iotlb, WalkCache};
use vm_iommu_pagetable::SecondStage;
use vm_iommu_spec::RequesterId;
use vm_iommu_spec::vtd::TableRules;
use vm_iommu_spec::vtd::descriptor::DescriptorRules;

use crate::config::{ConfigError, VtdConfig};
use crate::context::ContextCache;
use crate::control::{Control, Snapshot};
use crate::explain::WalkStep;
use crate::interrupt::IrteCache;
use crate::invalidation::Runner;
use crate::translate::formats;

/// A VT-d remapping unit.
///
/// The embedder maps [`VtdConfig::register_window`] bytes of guest physical addresses to
/// [`mmio_read`](Self::mmio_read) and [`mmio_write`](Self::mmio_write), puts the unit upstream of
/// the functions it serves as their [`DmaRemapper`](vm_iommu_dma::DmaRemapper), asks it about
/// their interrupts as an [`InterruptRemapper`](vm_iommu_dma::InterruptRemapper), and calls
/// [`step`](Self::step) when the waker says so.
pub struct Vtd {
    pub(crate) config: VtdConfig,
    pub(crate) ram: GuestRam,
    pub(crate) epochs: Arc<Epochs>,
    pub(crate) interrupts: Arc<dyn UnitInterrupts>,
    pub(crate) table_rules: TableRules,
    pub(crate) descriptor_rules: DescriptorRules,
    pub(crate) formats: [SecondStage; 3],
    /// The width of the widest tables, in bits.
    pub(crate) widest_tables: u8,

    /// Held for moments only; see [`Control`].
    control: Mutex<Control>,
    /// What misses read instead; written under the lock of `control`.
    snapshot: RwLock<Snapshot>,

    pub(crate) contexts: ContextCache,
    pub(crate) iotlb: Arc<Iotlb>,
    pub(crate) walk_cache: Arc<WalkCache>,
    pub(crate) irtes: IrteCache,
    pub(crate) faults: FaultHistory<WalkStep>,

    /// Works on commands and the queue.
    pub(crate) worker: Worker<Runner>,
    /// Whether the embedder gave the device-TLBs up that have not answered.
    pub(crate) device_tlbs_expired: AtomicBool,

    pub(crate) routes: RouteSinks,
    device_tlbs: BySource<dyn DeviceTlb>,

    pub(crate) fault_log: Throttle,
    pub(crate) queue_log: Throttle,
    pub(crate) access_log: Throttle,
}

impl Vtd {
    /// A unit at its reset state. `ram` is the guest's memory, which holds its tables and queues;
    /// `epochs` are those of the functions it serves.
    ///
    /// # Errors
    /// [`ConfigError`] if `config` describes no unit.
    pub fn new(
        config: VtdConfig,
        ram: GuestRam,
        epochs: Arc<Epochs>,
        interrupts: Arc<dyn UnitInterrupts>,
    ) -> Result<Arc<Self>, ConfigError> {
        config.validate()?;
        let control = Control::new(&config);
        Ok(Arc::new(Self {
            ram,
            epochs,
            interrupts,
            table_rules: config.table_rules(),
            descriptor_rules: config.descriptor_rules(),
            formats: formats(&config),
            widest_tables: config.address_widths.widest().unwrap_or(0),
            control: Mutex::new(control),
            snapshot: RwLock::default(),
            contexts: ContextCache::new(config.context_cache),
            iotlb: Iotlb::new(config.iotlb),
            walk_cache: WalkCache::new(config.walk_cache),
            irtes: IrteCache::new(config.interrupt_cache),
            faults: FaultHistory::default(),
            worker: Worker::default(),
            device_tlbs_expired: AtomicBool::new(false),
            routes: RouteSinks::default(),
            device_tlbs: BySource::default(),
            fault_log: Throttle::default(),
            queue_log: Throttle::default(),
            access_log: Throttle::default(),
            config,
        }))
    }

    /// What the unit was made from.
    pub fn config(&self) -> &VtdConfig {
        &self.config
    }

    /// The guest reads `data.len()` bytes at `offset` of the register window. An access that is
    /// not one aligned word of 4 or 8 bytes in one register reads as 0.
    ///
    /// Without a waker, reads also drive leftover work, so that a guest that polls sees it end.
    pub fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        if self.worker.is_held_up_unnoticed() {
            let _ = self.work();
        }
        if let Err(ignored) = self.control().file.read(offset, data) {
            data.fill(0);
            self.log_ignored(ignored);
        }
    }

    /// The guest writes `data` at `offset` of the register window. An access that is not one
    /// aligned word of 4 or 8 bytes in one register is ignored.
    pub fn mmio_write(&self, offset: u64, data: &[u8]) {
        let consequences = {
            let mut control = self.control();
            let consequences = match control.write(offset, data) {
                Ok(consequences) => consequences,
                Err(ignored) => {
                    drop(control);
                    return self.log_ignored(ignored);
                }
            };
            if consequences.publish {
                self.publish(&control);
            }
            consequences
        };
        self.send(consequences.fault_event);
        self.send(consequences.invalidation_event);
        if consequences.work && self.work() == Progress::Pending {
            self.worker.wake();
        }
    }

    /// Returns to the reset state: registers, queue, caches and what is left to do. Nothing may
    /// use the unit meanwhile.
    pub fn reset(&self) {
        let mut runner = self.worker.lock();
        *runner = Runner::default();
        let mut control = self.control();
        *control = Control::new(&self.config);
        self.publish(&control);
        drop(control);
        self.drop_caches();
        self.faults.clear();
    }

    /// Drops all that is cached; routes are resolved again.
    pub(crate) fn drop_caches(&self) {
        self.contexts.invalidate_all();
        self.walk_cache.invalidate_all();
        self.iotlb.invalidate_all();
        // Nobody waits here, but what handles remember goes as well.
        self.epochs.renew();
        self.irtes.invalidate(|_| true);
        self.routes.refresh();
    }

    /// Sets what is called when [`step`](Self::step) has work to do. It is called from vCPU
    /// threads and must not block; typically it signals an eventfd.
    pub fn set_waker(&self, waker: impl Fn() + Send + Sync + 'static) {
        self.worker.set_waker(waker);
    }

    /// Makes the device-TLB of `requester` known to invalidations. A requester that is not
    /// known, or whose device-TLB is gone, does not answer, which the guest sees as a time-out.
    pub fn attach_device_tlb(&self, requester: RequesterId, device_tlb: Weak<dyn DeviceTlb>) {
        self.device_tlbs.insert(requester, device_tlb);
    }

    /// Forgets the device-TLB of `requester`.
    pub fn detach_device_tlb(&self, requester: RequesterId) {
        self.device_tlbs.remove(requester);
    }

    pub(crate) fn device_tlb(&self, source: u16) -> Option<Arc<dyn DeviceTlb>> {
        self.device_tlbs.get(source)
    }

    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        lock(&self.control)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        *self.snapshot.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows misses the state of `control`; the caller holds its lock.
    pub(crate) fn publish(&self, control: &Control) {
        *self
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner) = control.snapshot;
    }

    fn log_ignored(&self, ignored: crate::IgnoredAccess) {
        if self.access_log.allows() {
            log::debug!("VT-d: {ignored}: ignored");
        }
    }
}

impl fmt::Debug for Vtd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vtd")
            .field("config", &self.config)
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}
