//! The tree of buses and functions, as it is built.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{DevFn, PciFunction};

/// A function and its place.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) function: Arc<dyn PciFunction>,
    /// The bus it is on.
    pub(crate) bus: usize,
    pub(crate) devfn: DevFn,
    /// The bus behind it, if it is a bridge.
    pub(crate) secondary: Option<usize>,
}

/// A bus and what is on it.
#[derive(Clone, Default)]
pub(crate) struct Bus {
    /// The bridge upstream; `None` for the root bus.
    pub(crate) bridge: Option<usize>,
    /// Functions by raw [`DevFn`].
    pub(crate) functions: BTreeMap<u8, usize>,
}

/// Nodes and buses by index. A bridge precedes what lies behind it.
#[derive(Clone)]
pub(crate) struct Topology {
    pub(crate) nodes: Vec<Node>,
    pub(crate) buses: Vec<Bus>,
}

impl Topology {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            buses: vec![Bus::default()],
        }
    }

    /// Adds a function to an existing bus at a free place.
    pub(crate) fn insert(
        &mut self,
        bus: usize,
        devfn: DevFn,
        function: Arc<dyn PciFunction>,
    ) -> usize {
        let index = self.nodes.len();
        let secondary = function.config().bridge().map(|_| {
            self.buses.push(Bus {
                bridge: Some(index),
                ..Bus::default()
            });
            self.buses.len() - 1
        });
        self.nodes.push(Node {
            function,
            bus,
            devfn,
            secondary,
        });
        self.buses[bus].functions.insert(devfn.raw(), index);
        index
    }

    /// The bridges above a node, nearest first.
    pub(crate) fn bridges_above(&self, node: usize) -> impl Iterator<Item = usize> {
        let upstream = |node: usize| self.buses[self.nodes[node].bus].bridge;
        std::iter::successors(upstream(node), move |&bridge| upstream(bridge))
    }

    /// The other functions of the node's device.
    pub(crate) fn siblings(&self, node: usize) -> impl Iterator<Item = usize> {
        let devfn = self.nodes[node].devfn;
        let first = DevFn::new(devfn.device(), 0).map_or(0, DevFn::raw);
        self.buses[self.nodes[node].bus]
            .functions
            .range(first..=first | 7)
            .map(|(_, &index)| index)
            .filter(move |&index| index != node)
    }
}
