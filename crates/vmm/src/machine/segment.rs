//! The PCI segment on the machine's buses: windows, ECAM, configuration ports, wired interrupts.

use std::sync::Arc;

use vm_device::bus::{MmioAddress, MmioAddressOffset, PioAddress, PioAddressOffset};
use vm_device::{DeviceMmio, DevicePio};
use vm_iommu_dma::Upstream;
use vm_iommu_pci::{Fabric, IntxSink, Windows};
use vm_iommu_spec::PhysAddr;

use super::MachineError;
use crate::interrupt::{IoApic, Line};
use crate::io::BusBuilder;
use crate::layout;

/// A segment with nothing but its host bridge, its wired lines connected to `ioapic`.
pub(super) fn make(upstream: Upstream, ioapic: &Arc<IoApic>) -> Result<Arc<Fabric>, MachineError> {
    let windows = Windows {
        memory32: layout::PCI_WINDOW_32,
        memory64: layout::PCI_WINDOW_64,
        io: layout::PCI_WINDOW_PIO,
    };
    let fabric = Fabric::new(0, windows, upstream)?;
    let lines = layout::INTX_PINS
        .iter()
        .map(|&pin| {
            ioapic
                .line(pin.into())
                .ok_or(MachineError::NoPin { irq: pin.into() })
        })
        .collect::<Result<Vec<_>, _>>()?;
    fabric.connect_intx(Arc::new(Wires(lines)), layout::INTX_PINS);
    Ok(fabric)
}

/// Puts the segment's windows on the bus, once: within them it routes for itself, so that a BAR
/// that moves changes nothing here.
pub(super) fn connect(bus: &mut BusBuilder, fabric: &Arc<Fabric>) -> Result<(), MachineError> {
    for window in [layout::PCI_WINDOW_32, layout::PCI_WINDOW_64] {
        let (start, len) = (*window.start(), window.end() - window.start() + 1);
        bus.memory(start, len, Arc::new(Memory(Arc::clone(fabric))))?;
    }
    let ecam = layout::ECAM;
    bus.memory(
        *ecam.start(),
        ecam.end() - ecam.start() + 1,
        Arc::new(Ecam(Arc::clone(fabric))),
    )?;
    let ports = layout::PCI_WINDOW_PIO;
    bus.ports(
        *ports.start(),
        ports.end() - ports.start() + 1,
        Arc::new(Ports(Arc::clone(fabric))),
    )?;
    bus.ports(
        layout::PCI_CONFIG,
        8,
        Arc::new(ConfigPorts(Arc::clone(fabric))),
    )?;
    Ok(())
}

/// INTA to INTD at the I/O APIC.
struct Wires(Vec<Line>);

impl IntxSink for Wires {
    fn set(&self, line: u8, asserted: bool) {
        if let Some(line) = self.0.get(usize::from(line)) {
            line.set(asserted);
        }
    }
}

/// A memory window.
struct Memory(Arc<Fabric>);

impl DeviceMmio for Memory {
    fn mmio_read(&self, base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        if !self.0.mmio_read(PhysAddr(base.0 + offset), data) {
            data.fill(0xff);
        }
    }

    fn mmio_write(&self, base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        // A write that reaches no BAR is lost, as on the bus.
        self.0.mmio_write(PhysAddr(base.0 + offset), data);
    }
}

/// The ECAM window.
struct Ecam(Arc<Fabric>);

impl DeviceMmio for Ecam {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.ecam_read(offset, data);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.ecam_write(offset, data);
    }
}

/// The port window.
struct Ports(Arc<Fabric>);

impl DevicePio for Ports {
    fn pio_read(&self, base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        if !self.0.pio_read(base.0 + offset, data) {
            data.fill(0xff);
        }
    }

    fn pio_write(&self, base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        self.0.pio_write(base.0 + offset, data);
    }
}

/// The configuration ports.
struct ConfigPorts(Arc<Fabric>);

impl DevicePio for ConfigPorts {
    fn pio_read(&self, _base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        self.0.config_port_read(offset, data);
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        self.0.config_port_write(offset, data);
    }
}
