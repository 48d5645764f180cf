//! What the registers of all functions amount to: bus numbers, requester ids, who may master the
//! bus, and who decodes what.

use std::ops::RangeInclusive;

use vm_iommu_spec::RequesterId;

use crate::ranges::{Piece, PieceBuilder, Pieces, intersect};
use crate::registers::Command;
use crate::topology::Topology;
use crate::{BridgeState, Decode, PortKind, Windows};

/// A snapshot of the registers' meaning.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    /// The bus that answers to a number.
    by_number: Vec<Option<usize>>,
    /// The number of each bus; `None` while no config access reaches it.
    pub(crate) numbers: Vec<Option<u8>>,
    /// By node: who its requests say they are from; `None` while they reach nobody.
    pub(crate) requesters: Vec<Option<RequesterId>>,
    /// By node: whether its requests pass every Bus Master Enable up to the root.
    pub(crate) masters: Vec<bool>,
    pub(crate) memory: Pieces,
    pub(crate) io: Pieces,
}

/// What reaches a bus, and what gets out of it.
#[derive(Clone, Default)]
struct Path {
    memory: Vec<RangeInclusive<u64>>,
    io: Vec<RangeInclusive<u64>>,
    master: bool,
    /// The id that a bridge on the way puts in place of a requester's own.
    alias: Option<(u8, u8)>,
}

impl Routes {
    pub(crate) fn empty() -> Self {
        Self {
            by_number: vec![None; 256],
            numbers: Vec::new(),
            requesters: Vec::new(),
            masters: Vec::new(),
            memory: Pieces::default(),
            io: Pieces::default(),
        }
    }

    pub(crate) fn compute(topology: &Topology, segment: u16, windows: &Windows) -> Self {
        let bridges: Vec<Option<BridgeState>> = topology
            .nodes
            .iter()
            .map(|node| node.function.config().bridge())
            .collect();
        let commands: Vec<Command> = topology
            .nodes
            .iter()
            .map(|node| node.function.config().command())
            .collect();
        let by_number: Vec<_> = (0..=255)
            .map(|number| bus_with_number(topology, &bridges, number))
            .collect();
        let mut numbers = vec![None; topology.buses.len()];
        for (number, bus) in by_number.iter().enumerate() {
            if let Some(bus) = bus {
                numbers[*bus] = Some(number as u8);
            }
        }

        let mut paths: Vec<Path> = Vec::with_capacity(topology.buses.len());
        for bus in &topology.buses {
            let path = match bus.bridge {
                None => Path {
                    memory: vec![windows.memory32.clone(), windows.memory64.clone()],
                    io: vec![u64::from(*windows.io.start())..=u64::from(*windows.io.end())],
                    master: true,
                    alias: None,
                },
                Some(bridge) => {
                    path_behind(topology, &bridges, &commands, &paths, &numbers, bridge)
                }
            };
            paths.push(path);
        }

        let mut memory = PieceBuilder::default();
        let mut io = PieceBuilder::default();
        let mut requesters = Vec::with_capacity(topology.nodes.len());
        let mut masters = Vec::with_capacity(topology.nodes.len());
        for (index, node) in topology.nodes.iter().enumerate() {
            let path = &paths[node.bus];
            let number = numbers[node.bus];
            requesters.push(number.map(|number| {
                let (bus, devfn) = path.alias.unwrap_or((number, node.devfn.raw()));
                RequesterId::from_devfn(segment, bus, devfn)
            }));
            masters.push(
                number.is_some() && path.master && commands[index].contains(Command::BUS_MASTER),
            );
            if number.is_none() {
                continue;
            }
            for bar in node.function.config().bars() {
                let Some(end) = bar.address.checked_add(bar.bar.size() - 1) else {
                    continue;
                };
                if !bar.enabled {
                    continue;
                }
                let piece = Piece {
                    start: bar.address,
                    end,
                    node: index,
                    bar: bar.index,
                    offset: 0,
                };
                let (pieces, windows) = match bar.bar.decode() {
                    Decode::Memory => (&mut memory, &path.memory),
                    Decode::Io => (&mut io, &path.io),
                };
                for window in windows {
                    pieces.insert(piece, window);
                }
            }
        }
        Self {
            by_number,
            numbers,
            requesters,
            masters,
            memory: memory.finish(),
            io: io.finish(),
        }
    }

    /// The node that answers config accesses to a place.
    pub(crate) fn node_at(&self, topology: &Topology, number: u8, devfn: u8) -> Option<usize> {
        let bus = (*self.by_number.get(usize::from(number))?)?;
        topology.buses.get(bus)?.functions.get(&devfn).copied()
    }

    pub(crate) fn pieces(&self, decode: Decode) -> &Pieces {
        match decode {
            Decode::Memory => &self.memory,
            Decode::Io => &self.io,
        }
    }
}

/// Follows a type 1 config access for `number` from the root: on each bus, the first bridge whose
/// range holds the number takes it.
fn bus_with_number(
    topology: &Topology,
    bridges: &[Option<BridgeState>],
    number: u8,
) -> Option<usize> {
    let mut bus = 0;
    if number == 0 {
        return Some(bus);
    }
    loop {
        let next = topology.buses[bus].functions.values().find_map(|&node| {
            let state = bridges[node].as_ref()?;
            // A secondary bus number of 0 is one that was never assigned.
            (state.secondary != 0 && (state.secondary..=state.subordinate).contains(&number))
                .then_some((state, topology.nodes[node].secondary?))
        });
        let (state, secondary) = next?;
        if state.in_reset {
            return None;
        }
        if state.secondary == number {
            return Some(secondary);
        }
        bus = secondary;
    }
}

fn path_behind(
    topology: &Topology,
    bridges: &[Option<BridgeState>],
    commands: &[Command],
    paths: &[Path],
    numbers: &[Option<u8>],
    bridge: usize,
) -> Path {
    let node = &topology.nodes[bridge];
    let above = &paths[node.bus];
    let (Some(state), Some(number)) = (&bridges[bridge], numbers[node.bus]) else {
        return Path::default();
    };
    if state.in_reset {
        return Path::default();
    }
    let command = commands[bridge];
    let enabled = |enable, window: &Option<RangeInclusive<u64>>| {
        window.clone().filter(|_| command.contains(enable))
    };
    let memory =
        [&state.memory, &state.prefetchable].map(|window| enabled(Command::MEMORY, window));
    let io = enabled(Command::IO, &state.io);
    Path {
        memory: intersect(&above.memory, memory.into_iter().flatten()),
        io: intersect(&above.io, io),
        master: above.master && command.contains(Command::BUS_MASTER),
        // A bridge takes ownership of requests that come from conventional PCI.
        alias: above.alias.or(match node.function.config().port_kind() {
            Some(PortKind::PcieToPciBridge) => Some((state.secondary, 0)),
            Some(_) => None,
            None => Some((number, node.devfn.raw())),
        }),
    }
}
