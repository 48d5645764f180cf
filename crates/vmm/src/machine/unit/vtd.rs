//! The VT-d unit.

use std::sync::Arc;

use vm_iommu_dma::{Epochs, GuestRam, IotlbConfig, WalkCacheConfig};
use vm_iommu_spec::PhysAddr;
use vm_iommu_vtd::dmar::{Dmar, Drhd, Scope as DeviceScope};
use vm_iommu_vtd::{Progress, UnitInterrupts, Vtd, VtdConfig};

use super::{PHYSICAL_BITS, RemappingUnit, Scope};
use crate::config::VtdOptions;
use crate::layout;
use crate::machine::MachineError;

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

/// The DMAR table. The first of the units, which are all as `unit`, comes last: it serves what no
/// other does.
pub(super) fn table(unit: &Vtd, scope: &Scope<'_>) -> Vec<u8> {
    let config = unit.config();
    let drhd = |number, include_all, scopes| Drhd {
        registers: PhysAddr(layout::VTD + number * layout::UNIT_STRIDE),
        register_window: config.register_window(),
        segment: config.segment,
        include_all,
        scopes,
    };
    let ioapic = DeviceScope::IoApic {
        id: layout::IOAPIC_ID,
        requester: scope.ioapic,
    };
    let functions = scope.served.unwrap_or_default().iter();
    let scopes = functions
        .map(|requester| DeviceScope::Endpoint(*requester))
        .chain([ioapic])
        .collect();
    let behind_ports = (1..)
        .zip(scope.ports)
        .map(|(number, port)| drhd(number, false, vec![DeviceScope::Bridge(port.requester)]));
    let root = drhd(0, scope.served.is_none(), scopes);
    Dmar {
        host_address_width: config.host_address_width,
        interrupt_remapping: config.interrupt_remapping,
        units: behind_ports.chain([root]).collect(),
        ..Dmar::default()
    }
    .to_bytes()
}

impl RemappingUnit for Vtd {
    fn kind(&self) -> &'static str {
        "vtd"
    }

    fn registers(&self) -> (u64, u64) {
        (layout::VTD, self.config().register_window())
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.mmio_read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.mmio_write(offset, data);
    }

    fn step(&self) -> bool {
        self.step() == Progress::Pending
    }

    fn set_waker(&self, waker: Box<dyn Fn() + Send + Sync>) {
        self.set_waker(waker);
    }
}
