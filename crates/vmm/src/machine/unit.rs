//! The remapping unit: from options to registers in memory, a worker, and an ACPI table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};
use vm_iommu_dma::{Epochs, GuestRam, IotlbConfig, WalkCacheConfig};
use vm_iommu_spec::{PhysAddr, RequesterId};
use vm_iommu_vtd::dmar::{Dmar, Drhd, Scope};
use vm_iommu_vtd::{Progress, UnitInterrupts, Vtd, VtdConfig};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::MachineError;
use crate::config::VtdOptions;
use crate::kvm::KvmError;
use crate::layout;

/// Width of guest physical addresses in bits: what the 64-bit PCI window ends within.
const PHYSICAL_BITS: u8 = 39;

/// The unit that `options` describe.
pub(super) fn make(
    options: &VtdOptions,
    ram: &GuestRam,
    epochs: &Arc<Epochs>,
    interrupts: Arc<dyn UnitInterrupts>,
) -> Result<Arc<Vtd>, MachineError> {
    let mut config = VtdConfig {
        host_address_width: PHYSICAL_BITS,
        caching_mode: options.caching_mode,
        pass_through: options.pass_through,
        interrupt_remapping: options.intremap,
        extended_interrupt_mode: options.intremap && options.eim,
        fault_records: options.fault_records,
        drain: options.drain,
        ..VtdConfig::with_address_width(options.address_width)?
    };
    if !options.drain {
        log::warn!("drain=off: the unit enforces nothing; for measuring only");
    }
    if !options.caches {
        config.iotlb = IotlbConfig { sets: 0 };
        config.walk_cache = WalkCacheConfig { sets: 0 };
        config.context_cache = 0;
        config.interrupt_cache = 0;
    }
    Ok(Vtd::new(
        config,
        ram.clone(),
        Arc::clone(epochs),
        interrupts,
    )?)
}

/// Who the I/O APIC's interrupts come from.
pub(super) fn ioapic_source(options: Option<&VtdOptions>) -> RequesterId {
    let id = options.map_or(layout::IOAPIC_SOURCE_ID, |options| options.ioapic_source);
    RequesterId::from_source_id(0, id)
}

/// The DMAR table. `ioapic` is where the I/O APIC's interrupts come from; `served` lists the functions behind the unit, or is `None` if all are.
pub(super) fn table(unit: &Vtd, ioapic: RequesterId, served: Option<&[RequesterId]>) -> Vec<u8> {
    let config = unit.config();
    let ioapic = Scope::IoApic {
        id: layout::IOAPIC_ID,
        requester: ioapic,
    };
    let functions = served.unwrap_or_default().iter();
    let scopes = functions
        .map(|requester| Scope::Endpoint(*requester))
        .chain([ioapic])
        .collect();
    Dmar {
        host_address_width: config.host_address_width,
        interrupt_remapping: config.interrupt_remapping,
        units: vec![Drhd {
            registers: PhysAddr(layout::VTD),
            register_window: config.register_window(),
            segment: config.segment,
            include_all: served.is_none(),
            scopes,
        }],
        ..Dmar::default()
    }
    .to_bytes()
}

/// The unit's registers on the bus.
pub(super) struct Registers(pub(super) Arc<Vtd>);

impl DeviceMmio for Registers {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.mmio_read(offset, data);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.mmio_write(offset, data);
    }
}

/// The thread that continues what the unit cannot finish within a register write; dropping it
/// ends and joins it.
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    quit: AtomicBool,
    event: EventFd,
}

impl Worker {
    /// Starts the worker of `unit`.
    pub(super) fn start(unit: &Arc<Vtd>) -> Result<Self, KvmError> {
        let shared = Arc::new(Shared {
            quit: AtomicBool::new(false),
            event: EventFd::new(EFD_CLOEXEC).map_err(KvmError::host("make an eventfd"))?,
        });
        let wake = Arc::clone(&shared);
        unit.set_waker(move || wake.wake());
        let (asked, unit) = (Arc::clone(&shared), Arc::clone(unit));
        let thread = Builder::new()
            .name("vtd".to_owned())
            .spawn(move || asked.serve(&unit))
            .map_err(KvmError::host("start a thread"))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl Shared {
    fn wake(&self) {
        if let Err(error) = self.event.write(1) {
            log::error!("the unit's worker was not woken: {error}");
        }
    }

    fn serve(&self, unit: &Vtd) {
        // What is held up waits for accesses in flight, which end within microseconds.
        const YIELDS: u32 = 100;
        const PAUSE: Duration = Duration::from_micros(20);
        loop {
            // An interrupted read asks the unit once more than needed.
            let _ = self.event.read();
            let mut turns = 0_u32;
            while !self.quit.load(Ordering::Acquire) && unit.step() == Progress::Pending {
                turns = turns.saturating_add(1);
                if turns < YIELDS {
                    std::thread::yield_now();
                } else {
                    std::thread::sleep(PAUSE);
                }
            }
            if self.quit.load(Ordering::Acquire) {
                return;
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the unit's worker panicked");
        }
    }
}
