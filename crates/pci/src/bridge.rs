//! The functions that every fabric has: the host bridge, root ports and other bridges.

use std::sync::Arc;

use vm_iommu_dma::{DmaPort, Upstream};

use crate::{AcsFlags, BuildError, ConfigBuilder, ConfigSpace, Identity, PciFunction, PortKind};

/// Vendor ID of the bridges here: those of generic, emulated hardware that every kernel knows.
const VENDOR: u16 = 0x1b36;
/// A PCI Express host bridge.
const HOST_BRIDGE: u16 = 0x0008;
/// A PCI Express root port.
const ROOT_PORT: u16 = 0x000c;
/// A PCI Express to PCI bridge.
const PCIE_TO_PCI_BRIDGE: u16 = 0x000e;

/// The host bridge, a root port, a switch port or a bridge to conventional PCI: a function
/// without registers of its own.
pub struct Bridge {
    config: ConfigSpace,
    port: Arc<DmaPort>,
    name: &'static str,
}

impl Bridge {
    /// The host bridge.
    pub(crate) fn host(upstream: Upstream) -> Result<Self, BuildError> {
        let builder = ConfigBuilder::endpoint(Identity {
            vendor: VENDOR,
            device: HOST_BRIDGE,
            class: 0x06_00_00,
            ..Identity::default()
        });
        Self::build(builder, upstream, "host bridge")
    }

    /// A port of `kind` (not an endpoint) with these Access Control Services; none if empty.
    ///
    /// # Errors
    /// [`BuildError::Port`] if `kind` is an endpoint.
    pub fn new(kind: PortKind, acs: AcsFlags, upstream: Upstream) -> Result<Self, BuildError> {
        let (device, name) = match kind {
            PortKind::PcieToPciBridge => (PCIE_TO_PCI_BRIDGE, "PCIe-to-PCI bridge"),
            PortKind::UpstreamPort => (ROOT_PORT, "switch upstream port"),
            PortKind::DownstreamPort => (ROOT_PORT, "switch downstream port"),
            _ => (ROOT_PORT, "root port"),
        };
        let mut builder = ConfigBuilder::bridge(Identity {
            vendor: VENDOR,
            device,
            class: 0x06_04_00,
            ..Identity::default()
        })
        .pcie(kind);
        if !acs.is_empty() {
            builder = builder.acs(acs);
        }
        Self::build(builder, upstream, name)
    }

    /// A bridge from conventional PCI to conventional PCI.
    ///
    /// # Errors
    /// None in practice; those of [`ConfigBuilder::build`].
    pub fn conventional(upstream: Upstream) -> Result<Self, BuildError> {
        let builder = ConfigBuilder::bridge(Identity {
            vendor: VENDOR,
            device: 0x0001,
            class: 0x06_04_00,
            ..Identity::default()
        });
        Self::build(builder, upstream, "PCI bridge")
    }

    fn build(
        builder: ConfigBuilder,
        upstream: Upstream,
        name: &'static str,
    ) -> Result<Self, BuildError> {
        let port = DmaPort::new(upstream);
        Ok(Self {
            config: builder.build(&port)?,
            port,
            name,
        })
    }
}

impl PciFunction for Bridge {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn port(&self) -> &Arc<DmaPort> {
        &self.port
    }

    fn read_bar(&self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&self, _bar: u8, _offset: u64, _data: &[u8]) {}

    fn reset(&self) {}

    fn name(&self) -> &str {
        self.name
    }
}
