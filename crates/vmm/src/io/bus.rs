//! Dispatch of port and memory-mapped accesses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use thiserror::Error;
use vm_device::bus::{self, MmioAddress, MmioRange, PioAddress, PioRange};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};
use vm_device::{DeviceMmio, DevicePio};

use crate::throttle::Throttle;

/// Two devices that claim the same addresses, or a range that cannot be.
#[derive(Debug, Error)]
#[error("the device at {base:#x} (length {len:#x}) does not fit on the bus")]
pub struct BusError {
    /// The first address.
    pub base: u64,
    /// The length, in addresses.
    pub len: u64,
    /// What the bus said.
    #[source]
    pub source: bus::Error,
}

/// Accesses that no device answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BusCounters {
    /// Port accesses.
    pub unclaimed_ports: u64,
    /// Memory accesses.
    pub unclaimed_memory: u64,
}

/// A bus to which devices are still added.
#[derive(Default)]
pub struct BusBuilder {
    manager: IoManager,
}

impl BusBuilder {
    /// Adds a device at `len` ports from `base`.
    ///
    /// # Errors
    /// The ports are taken.
    pub fn ports(
        &mut self,
        base: u16,
        len: u16,
        device: Arc<dyn DevicePio + Send + Sync>,
    ) -> Result<(), BusError> {
        PioRange::new(PioAddress(base), len)
            .and_then(|range| self.manager.register_pio(range, device))
            .map_err(|source| BusError {
                base: base.into(),
                len: len.into(),
                source,
            })
    }

    /// Adds a device at `len` bytes from `base`.
    ///
    /// # Errors
    /// The addresses are taken.
    pub fn memory(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<dyn DeviceMmio + Send + Sync>,
    ) -> Result<(), BusError> {
        MmioRange::new(MmioAddress(base), len)
            .and_then(|range| self.manager.register_mmio(range, device))
            .map_err(|source| BusError { base, len, source })
    }

    /// The finished bus, which never changes: devices that move route for themselves.
    pub fn build(self) -> Bus {
        Bus {
            manager: self.manager,
            unclaimed_ports: AtomicU64::new(0),
            unclaimed_memory: AtomicU64::new(0),
            log: Throttle::default(),
        }
    }
}

/// The finished bus. What nobody answers reads as all ones, and swallows writes.
pub struct Bus {
    manager: IoManager,
    unclaimed_ports: AtomicU64,
    unclaimed_memory: AtomicU64,
    log: Throttle,
}

impl Bus {
    /// Reads a port.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if self.manager.pio_read(PioAddress(port), data).is_err() {
            self.unclaimed(&self.unclaimed_ports, "read of port", port.into());
        }
    }

    /// Writes a port.
    pub fn write_port(&self, port: u16, data: &[u8]) {
        if self.manager.pio_write(PioAddress(port), data).is_err() {
            self.unclaimed(&self.unclaimed_ports, "write to port", port.into());
        }
    }

    /// Reads an address without memory.
    pub fn read_memory(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if self.manager.mmio_read(MmioAddress(address), data).is_err() {
            self.unclaimed(&self.unclaimed_memory, "read of address", address);
        }
    }

    /// Writes an address without memory.
    pub fn write_memory(&self, address: u64, data: &[u8]) {
        if self.manager.mmio_write(MmioAddress(address), data).is_err() {
            self.unclaimed(&self.unclaimed_memory, "write to address", address);
        }
    }

    fn unclaimed(&self, counter: &AtomicU64, what: &str, address: u64) {
        counter.fetch_add(1, Ordering::Relaxed);
        if self.log.passes() {
            log::debug!("unclaimed {what} {address:#x}");
        }
    }

    /// The counters.
    pub fn counters(&self) -> BusCounters {
        BusCounters {
            unclaimed_ports: self.unclaimed_ports.load(Ordering::Relaxed),
            unclaimed_memory: self.unclaimed_memory.load(Ordering::Relaxed),
        }
    }
}
