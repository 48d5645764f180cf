//! The AMD-Vi unit.

use std::sync::Arc;

use vm_iommu_amdvi::ivrs::{BlockKind, DeviceEntry, DteSetting, Ivhd, Ivrs};
use vm_iommu_amdvi::{AmdVi, AmdViConfig, AmdViFunction, Progress, UnitInterrupts};
use vm_iommu_dma::{Epochs, GuestRam, IotlbConfig, Upstream, WalkCacheConfig};
use vm_iommu_spec::{PhysAddr, RequesterId};

use super::{PHYSICAL_BITS, RemappingUnit, Scope};
use crate::config::AmdViOptions;
use crate::layout;
use crate::machine::MachineError;

/// The unit that `options` describe.
pub(super) fn make(
    options: &AmdViOptions,
    ram: &GuestRam,
    epochs: &Arc<Epochs>,
    interrupts: Arc<dyn UnitInterrupts>,
) -> Result<Arc<AmdVi>, MachineError> {
    let guest = options.guest_translation;
    let mut config = AmdViConfig {
        physical_address_width: PHYSICAL_BITS,
        iotlb_support: options.ats,
        np_cache: options.np_cache,
        host_levels: options.host_levels,
        host_accessed: options.host_flags,
        host_dirty: options.host_flags,
        guest_translation: guest,
        guest_levels: options.guest_levels,
        guest_io: guest,
        guest_cr3_mode: guest && options.host_levels.is_some(),
        pasid_bits: options.pasid_bits,
        ppr: options.ats,
        enhanced_ppr: options.ats,
        invalidate_all: options.invalidate_all,
        guest_apic: options.guest_apic,
        x2apic: options.x2apic,
        interrupt_table_2048: options.interrupt_entries > 512,
        device_table_segments: options.segments.trailing_zeros() as u8,
        drain: options.drain,
        ..AmdViConfig::default()
    };
    if !options.drain {
        log::warn!("drain=off: the unit enforces nothing; for measuring only");
    }
    if !options.caches {
        config.iotlb = IotlbConfig { sets: 0 };
        config.walk_cache = WalkCacheConfig { sets: 0 };
        config.device_cache = 0;
        config.interrupt_cache = 0;
    }
    Ok(AmdVi::new(
        config,
        ram.clone(),
        Arc::clone(epochs),
        interrupts,
    )?)
}

/// The unit's own function.
pub(super) fn function(
    unit: &Arc<AmdVi>,
    registers: u64,
    upstream: Upstream,
) -> Result<Arc<AmdViFunction>, MachineError> {
    AmdViFunction::new(unit, PhysAddr(registers), upstream)
        .map_err(|error| vm_iommu_pci::AddError::from(error).into())
}

/// The IVRS table, with blocks up to `options` say, of units that are all as `unit`;
/// `capabilities` is where the function of each has its capability block.
pub(super) fn table(
    unit: &AmdVi,
    options: &AmdViOptions,
    capabilities: &[u16],
    scope: &Scope<'_>,
) -> Vec<u8> {
    let config = unit.config();
    let block = |number: u8, entries| {
        let place = layout::AMDVI_FUNCTION + number;
        let function = RequesterId::from_devfn(config.segment, 0, place);
        let registers = PhysAddr(layout::AMDVI + u64::from(number) * layout::UNIT_STRIDE);
        let capability = capabilities.get(usize::from(number));
        let mut block = Ivhd::new(
            config,
            function,
            capability.copied().unwrap_or_default(),
            registers,
        );
        block.entries = entries;
        block
    };
    let setting = DteSetting::default();
    let bus = |bus: u8| {
        let first = u16::from(bus) << 8;
        DeviceEntry::Range(first, first | 0xff, setting)
    };
    let mut entries = match scope.served {
        None if scope.ports.is_empty() => vec![DeviceEntry::All(setting)],
        None => vec![bus(0)],
        Some(served) => served
            .iter()
            .chain(scope.ports.iter().map(|port| &port.requester))
            .map(|requester| DeviceEntry::Select(requester.source_id(), setting))
            .collect(),
    };
    entries.push(DeviceEntry::IoApic {
        id: layout::IOAPIC_ID,
        source: scope.ioapic.source_id(),
        setting: DteSetting::ALL_PASS,
    });
    let behind_ports = (1..).zip(scope.ports);
    let behind_ports = behind_ports.map(|(number, port)| block(number, vec![bus(port.bus)]));
    let kinds = [BlockKind::Basic, BlockKind::Extended, BlockKind::AcpiHid];
    Ivrs {
        physical_address_width: config.physical_address_width,
        blocks: kinds
            .into_iter()
            .filter(|kind| *kind as u8 <= options.block)
            .collect(),
        units: [block(0, entries)]
            .into_iter()
            .chain(behind_ports)
            .collect(),
        ..Ivrs::default()
    }
    .to_bytes()
}

impl RemappingUnit for AmdVi {
    fn kind(&self) -> &'static str {
        "amdvi"
    }

    fn registers(&self) -> (u64, u64) {
        (layout::AMDVI, self.config().register_window())
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
