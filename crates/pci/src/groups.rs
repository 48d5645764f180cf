//! Isolation groups: which functions a unit cannot keep apart.
//!
//! The rules are those by which Linux forms its IOMMU groups from the same registers: requests
//! that arrive under another function's id, ports that let peers talk below the unit, and
//! functions of one device that may do so inside it.

use serde::Serialize;

use crate::topology::Topology;
use crate::{AcsFlags, Fabric, FunctionId, PortKind};

/// Which Access Control Services count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcsBasis {
    /// What the functions are capable of: a kernel with an IOMMU driver enables it at boot.
    Capability,
    /// What is enabled now.
    Control,
}

/// Functions that can only be given away together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IsolationGroup {
    /// The members, in the order in which they were added.
    pub members: Vec<FunctionId>,
}

impl Fabric {
    /// All functions by isolation group, in the order of each group's first member.
    pub fn groups(&self, basis: AcsBasis) -> Vec<IsolationGroup> {
        let view = self.view();
        let labels = labels(&view.topology, basis);
        let mut groups: Vec<(usize, IsolationGroup)> = Vec::new();
        for (node, label) in labels.iter().enumerate() {
            match groups.iter_mut().find(|(other, _)| other == label) {
                Some((_, group)) => group.members.push(FunctionId(node)),
                None => groups.push((
                    *label,
                    IsolationGroup {
                        members: vec![FunctionId(node)],
                    },
                )),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }
}

/// One label a node, equal within a group.
fn labels(topology: &Topology, basis: AcsBasis) -> Vec<usize> {
    let mut labels: Vec<usize> = (0..topology.nodes.len()).collect();
    let mut join = |a: usize, b: usize| {
        let (old, new) = (labels[a], labels[b]);
        for label in &mut labels {
            if *label == old {
                *label = new;
            }
        }
    };
    for node in 0..topology.nodes.len() {
        // Where the function's requests last change their id, they are that bridge's.
        let alias = topology
            .bridges_above(node)
            .filter(|&bridge| takes_ownership(topology, bridge))
            .last();
        let mut source = alias.unwrap_or(node);
        join(node, source);
        // From the first place where every port up to the root redirects, the unit sees all.
        loop {
            let Some(bridge) = topology.bridges_above(source).next() else {
                break;
            };
            let mut path = [bridge].into_iter().chain(topology.bridges_above(bridge));
            if path.all(|bridge| isolates(topology, bridge, basis)) {
                break;
            }
            join(source, bridge);
            source = bridge;
        }
        if !isolates(topology, source, basis) {
            for sibling in topology.siblings(source) {
                if !isolates(topology, sibling, basis) {
                    join(source, sibling);
                }
            }
        }
    }
    labels
}

/// Whether requests from behind the bridge carry its id, or one of its secondary bus.
fn takes_ownership(topology: &Topology, bridge: usize) -> bool {
    matches!(
        topology.nodes[bridge].function.config().port_kind(),
        None | Some(PortKind::PcieToPciBridge)
    )
}

/// Whether the function keeps its peers' requests apart from each other and from itself.
fn isolates(topology: &Topology, node: usize, basis: AcsBasis) -> bool {
    let config = topology.nodes[node].function.config();
    let multifunction = topology.siblings(node).next().is_some();
    match config.port_kind() {
        None | Some(PortKind::PcieToPciBridge) => false,
        Some(PortKind::RootPort | PortKind::DownstreamPort) => redirects(config.acs(), basis),
        Some(_) => !multifunction || redirects(config.acs(), basis),
    }
}

/// A service that the capability does not offer is one that the function has no need of.
fn redirects(acs: Option<(AcsFlags, AcsFlags)>, basis: AcsBasis) -> bool {
    acs.is_some_and(|(capable, enabled)| match basis {
        AcsBasis::Capability => true,
        AcsBasis::Control => enabled.contains(capable & AcsFlags::ISOLATION),
    })
}
