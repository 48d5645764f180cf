//! What a device implements.

use std::fmt;
use std::sync::Arc;

use vm_iommu_dma::DmaPort;
use vmm_sys_util::eventfd::EventFd;

use crate::ConfigSpace;

/// One function of a device.
///
/// The fabric holds no lock during [`read_bar`](Self::read_bar), [`write_bar`](Self::write_bar),
/// [`read_config`](Self::read_config) and [`write_config`](Self::write_config): they may come
/// from several vCPUs at once, and may issue DMA and interrupts.
pub trait PciFunction: Send + Sync {
    /// The header and capabilities.
    fn config(&self) -> &ConfigSpace;

    /// The function's connection to memory; the one that its [`ConfigSpace`] was built with.
    fn port(&self) -> &Arc<DmaPort>;

    /// Reads `data.len()` bytes (1 to 8) at `offset` of a BAR. The access lies within the BAR;
    /// alignment is the function's to check. MSI-X structures never reach it.
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes `data` (1 to 8 bytes) at `offset` of a BAR, under the same rules.
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]);

    /// Returns to the power-on state, for a function-level reset or one of a bus. The port is
    /// stopped and drained; the config space is reset after this returns.
    fn reset(&self);

    /// Reads config space at `offset` (below 4096), within one doubleword. To be overridden for
    /// capabilities whose registers are more than bits.
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// Writes config space at `offset` (below 4096), within one doubleword.
    fn write_config(&self, offset: u16, data: &[u8]) {
        self.config().write(offset, data);
    }

    /// Registers whose writes only notify, so that an embedder may take them off the vCPU's path.
    fn doorbells(&self) -> Vec<Doorbell> {
        Vec::new()
    }

    /// A short name for reports.
    fn name(&self) -> &str {
        "function"
    }
}

/// A register whose writes only notify (what KVM calls an ioeventfd).
#[derive(Clone)]
pub struct Doorbell {
    /// The BAR, 0 to 5.
    pub bar: u8,
    /// The register's offset there, in bytes.
    pub offset: u64,
    /// The width of the write in bytes: 1, 2, 4 or 8; or 0 for any.
    pub len: u8,
    /// The value that notifies, or `None` for any.
    pub datamatch: Option<u64>,
    /// What is notified.
    pub event: Arc<EventFd>,
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell")
            .field("bar", &self.bar)
            .field("offset", &self.offset)
            .field("len", &self.len)
            .field("datamatch", &self.datamatch)
            .finish_non_exhaustive()
    }
}
