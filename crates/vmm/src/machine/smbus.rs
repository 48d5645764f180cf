//! A system management bus controller, of which there is nothing but its place and its class.
//!
//! Linux remaps the I/O APIC's interrupts with AMD-Vi only if the function that the unit's ACPI
//! table names for it is the southbridge's: at 00:14.0, or, for newer kernels, of this class.

use std::sync::Arc;

use vm_iommu_dma::{DmaPort, Upstream};
use vm_iommu_pci::{BuildError, ConfigBuilder, ConfigSpace, Identity, PciFunction, PortKind};

/// No driver binds to these identifiers.
const IDENTITY: Identity = Identity {
    vendor: 0x1234,
    device: 0x0c05,
    revision: 0,
    class: 0x0c_05_00,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// The controller.
pub(super) struct SmBus {
    config: ConfigSpace,
    port: Arc<DmaPort>,
}

impl SmBus {
    /// A controller that would issue its requests to `upstream`, and issues none.
    pub(super) fn new(upstream: Upstream) -> Result<Self, BuildError> {
        let port = DmaPort::new(upstream);
        let config = ConfigBuilder::endpoint(IDENTITY)
            .pcie(PortKind::Endpoint)
            .build(&port)?;
        Ok(Self { config, port })
    }
}

impl PciFunction for SmBus {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn port(&self) -> &Arc<DmaPort> {
        &self.port
    }

    /// There are no BARs.
    fn read_bar(&self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&self, _bar: u8, _offset: u64, _data: &[u8]) {}

    fn reset(&self) {}

    fn name(&self) -> &str {
        "smbus"
    }
}
