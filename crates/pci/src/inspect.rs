//! The state of a segment, for people and reports.

use serde::Serialize;
use vm_iommu_spec::RequesterId;

use crate::registers::{DEVICE_ID, VENDOR_ID};
use crate::{AcsBasis, Decode, Fabric, FunctionId, IsolationGroup, PortKind, Windows};

/// A segment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FabricState {
    /// The segment number.
    pub segment: u16,
    /// What the host bridge forwards.
    pub windows: Windows,
    /// The functions, in the order in which they were added.
    pub functions: Vec<FunctionState>,
    /// The isolation groups, by what the functions are capable of.
    pub groups: Vec<IsolationGroup>,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FunctionState {
    /// Its place in the fabric.
    pub id: FunctionId,
    /// Its short name.
    pub name: String,
    /// Who its requests say they are from; `None` while they reach nobody.
    pub requester: Option<RequesterId>,
    /// Where config accesses reach it, as software writes it; `None` if nowhere.
    pub address: Option<String>,
    /// The bridge above, by its place; `None` on the root bus.
    pub bridge: Option<FunctionId>,
    /// Device and function number.
    pub devfn: String,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Device/Port Type; `None` for conventional PCI.
    pub kind: Option<PortKind>,
    /// The command register.
    pub command: u16,
    /// Whether its requests pass every Bus Master Enable on their way.
    pub bus_master: bool,
    /// Which interrupts are enabled: `"MSI-X"`, `"MSI"` or `"none"`.
    pub interrupts: &'static str,
    /// The declared BARs.
    pub bars: Vec<BarReport>,
}

/// A base address register.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BarReport {
    /// The register's index.
    pub index: u8,
    /// The address space.
    pub decode: Decode,
    /// The address programmed.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
    /// Whether the command register enables it.
    pub enabled: bool,
}

impl Fabric {
    /// The segment as it stands.
    pub fn inspect(&self) -> FabricState {
        let view = self.view();
        let nodes = view.topology.nodes.iter().enumerate();
        let functions = nodes
            .map(|(index, node)| {
                let config = node.function.config();
                let requester = view.routes.requesters.get(index).copied().flatten();
                let interrupts = config.interrupts();
                FunctionState {
                    id: FunctionId(index),
                    name: node.function.name().to_owned(),
                    requester,
                    address: view.address(index).map(|address| address.to_string()),
                    bridge: view.topology.buses[node.bus].bridge.map(FunctionId),
                    devfn: node.devfn.to_string(),
                    vendor: config.read_u16(VENDOR_ID),
                    device: config.read_u16(DEVICE_ID),
                    kind: config.port_kind(),
                    command: config.command().bits(),
                    bus_master: view.routes.masters.get(index).copied().unwrap_or(false),
                    interrupts: match (interrupts.is_msix_enabled(), interrupts.is_enabled()) {
                        (true, _) => "MSI-X",
                        (false, true) => "MSI",
                        (false, false) => "none",
                    },
                    bars: config
                        .bars()
                        .into_iter()
                        .map(|bar| BarReport {
                            index: bar.index,
                            decode: bar.bar.decode(),
                            address: bar.address,
                            size: bar.bar.size(),
                            enabled: bar.enabled,
                        })
                        .collect(),
                }
            })
            .collect();
        FabricState {
            segment: self.segment(),
            windows: self.windows().clone(),
            functions,
            groups: self.groups(AcsBasis::Capability),
        }
    }
}
