//! The unit as a whole.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use vm_iommu_dma::unit::{
    BySource, FaultHistory, IgnoredAccess, Progress, RouteSinks, Throttle, UnitInterrupts, Worker,
    lock,
};
use vm_iommu_dma::{DeviceTlb, Epochs, GuestRam, Iotlb, WalkCache};
use vm_iommu_spec::RequesterId;
use vm_iommu_spec::amd::DteRules;
use vm_iommu_spec::amd::command::CommandRules;
use vm_iommu_spec::amd::registers::offset;

use crate::command::Runner;
use crate::config::{AmdViConfig, ConfigError};
use crate::control::{Control, Snapshot};
use crate::device_table::{DeviceCache, SourceCache};
use crate::explain::WalkStep;
use crate::interrupt::IrteCache;
use crate::logs::PageRequester;

/// An AMD-Vi remapping unit.
///
/// The embedder maps [`AmdViConfig::register_window`] bytes of guest physical addresses to
/// [`mmio_read`](Self::mmio_read) and [`mmio_write`](Self::mmio_write), puts an
/// [`AmdViFunction`](crate::AmdViFunction) where its IVRS table says the unit is, puts the unit
/// upstream of the functions it serves as their [`DmaRemapper`](vm_iommu_dma::DmaRemapper), asks
/// it about their interrupts as an [`InterruptRemapper`](vm_iommu_dma::InterruptRemapper), and
/// calls [`step`](Self::step) when the waker says so.
pub struct AmdVi {
    pub(crate) config: AmdViConfig,
    pub(crate) ram: GuestRam,
    pub(crate) epochs: Arc<Epochs>,
    pub(crate) interrupts: Arc<dyn UnitInterrupts>,
    pub(crate) command_rules: CommandRules,

    /// Held for moments only; see [`Control`].
    control: Mutex<Control>,
    /// What misses read instead; written under the lock of `control`.
    snapshot: RwLock<Snapshot>,

    pub(crate) devices: DeviceCache,
    pub(crate) sources: SourceCache,
    pub(crate) iotlb: Arc<Iotlb>,
    pub(crate) walk_cache: Arc<WalkCache>,
    pub(crate) irtes: IrteCache,
    pub(crate) faults: FaultHistory<WalkStep>,
    /// Devices whose faults are not logged until their entry is invalidated (SE).
    pub(crate) suppressed: Mutex<HashSet<u16>>,

    /// Works on register changes and commands.
    pub(crate) worker: Worker<Runner>,
    /// Whether the embedder gave the device-TLBs up that have not answered.
    pub(crate) device_tlbs_expired: AtomicBool,

    pub(crate) routes: RouteSinks,
    device_tlbs: BySource<dyn DeviceTlb>,
    pub(crate) page_requesters: BySource<dyn PageRequester>,

    pub(crate) fault_log: Throttle,
    pub(crate) command_log: Throttle,
    pub(crate) access_log: Throttle,
}

impl AmdVi {
    /// A unit at its reset state. `ram` is the guest's memory, which holds its tables, buffers
    /// and logs; `epochs` are those of the functions it serves.
    ///
    /// # Errors
    /// [`ConfigError`] if `config` describes no unit.
    pub fn new(
        config: AmdViConfig,
        ram: GuestRam,
        epochs: Arc<Epochs>,
        interrupts: Arc<dyn UnitInterrupts>,
    ) -> Result<Arc<Self>, ConfigError> {
        config.validate()?;
        let control = Control::new(&config);
        let snapshot = control.snapshot;
        Ok(Arc::new(Self {
            ram,
            epochs,
            interrupts,
            command_rules: config.command_rules(),
            control: Mutex::new(control),
            snapshot: RwLock::new(snapshot),
            devices: DeviceCache::new(config.device_cache),
            sources: SourceCache::new(config.device_cache),
            iotlb: Iotlb::new(config.iotlb),
            walk_cache: WalkCache::new(config.walk_cache),
            irtes: IrteCache::new(config.interrupt_cache),
            faults: FaultHistory::default(),
            suppressed: Mutex::default(),
            worker: Worker::default(),
            device_tlbs_expired: AtomicBool::new(false),
            routes: RouteSinks::default(),
            device_tlbs: BySource::default(),
            page_requesters: BySource::default(),
            fault_log: Throttle::default(),
            command_log: Throttle::default(),
            access_log: Throttle::default(),
            config,
        }))
    }

    /// What the unit was made from.
    pub fn config(&self) -> &AmdViConfig {
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
        let outcome = self.control().read(offset, data);
        if let Err(ignored) = outcome {
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
        self.send(consequences.signals);
        if consequences.work && self.work() == Progress::Pending {
            self.worker.wake();
        }
    }

    /// Doubleword `index`, 0 to 3, of the MSI capability of the unit's PCI function.
    pub(crate) fn msi_register(&self, index: u16) -> u32 {
        let place = msi_place(index);
        self.control().file.get(place) as u32
    }

    /// Writes doubleword `index`, 0 to 3, of the MSI capability.
    pub(crate) fn set_msi_register(&self, index: u16, value: u32) {
        let place = u64::from(msi_place(index));
        let mut control = self.control();
        // Past the check of what the window shows.
        let _ = control.file.write(place, &value.to_le_bytes());
        let signals = control.signals();
        drop(control);
        self.send(signals);
    }

    /// Returns to the reset state: registers, buffers, caches and what is left to do. Nothing may
    /// use the unit meanwhile.
    pub fn reset(&self) {
        let mut runner = self.worker.lock();
        *runner = Runner::default();
        let mut control = self.control();
        *control = Control::new(&self.config);
        self.publish(&control);
        drop(control);
        self.drop_translations();
        self.drop_interrupts();
        self.routes.refresh();
        self.faults.clear();
    }

    /// Drops all cached translations and what they rest on: tables before pages, so that a walk
    /// that began at one is not cached.
    pub(crate) fn drop_translations(&self) {
        self.devices.invalidate_all();
        lock(&self.suppressed).clear();
        self.walk_cache.invalidate_all();
        self.iotlb.invalidate_all();
    }

    /// Drops all that is cached about interrupts. Routes are to be resolved again after this.
    pub(crate) fn drop_interrupts(&self) {
        self.sources.invalidate(|_| true);
        self.irtes.invalidate(|_| true);
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

    pub(crate) fn device_tlb(&self, device: u16) -> Option<Arc<dyn DeviceTlb>> {
        self.device_tlbs.get(device)
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

    /// What device table entries may hold now.
    pub(crate) fn dte_rules(&self, snapshot: &Snapshot) -> DteRules {
        let large = snapshot.control.interrupt_table_mode() == 1;
        self.config.dte_rules(large)
    }

    fn log_ignored(&self, ignored: IgnoredAccess) {
        if self.access_log.allows() {
            log::debug!("AMD-Vi: {ignored}: ignored");
        }
    }
}

/// Where doubleword `index` of the MSI capability is in the register window.
fn msi_place(index: u16) -> u16 {
    offset::MSI_CAPABILITY + (index & 3) * 4
}

impl fmt::Debug for AmdVi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmdVi")
            .field("config", &self.config)
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}
