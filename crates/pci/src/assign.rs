//! What firmware does at power-on: bus numbers, windows, BARs.

use std::ops::RangeInclusive;

use thiserror::Error;

use crate::intx::line_of;
use crate::registers::*;
use crate::topology::Topology;
use crate::{Bar, ConfigSpace, Fabric};

/// The functions' BARs do not fit into the host bridge's windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AssignError {
    /// The windows are too small.
    #[error("the BARs need {needed:#x} bytes of {space}, of which {available:#x} are there")]
    Full {
        /// Which window: `"ports"`, `"memory below 4 GiB"` or `"memory above 4 GiB"`.
        space: &'static str,
        /// Bytes needed, alignment included.
        needed: u64,
        /// Bytes there.
        available: u64,
    },
    /// More buses than there are numbers.
    #[error("more than 256 buses")]
    TooManyBuses,
}

/// The windows that a bridge has, and the host bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    Io,
    Memory,
    Prefetchable,
}

const WINDOWS: [Window; 3] = [Window::Io, Window::Memory, Window::Prefetchable];

impl Window {
    /// The granularity of a bridge's window.
    fn granule(self) -> u64 {
        match self {
            Self::Io => 1 << 12,
            _ => 1 << 20,
        }
    }

    /// Where a BAR goes. Behind a bridge only what is prefetchable may leave the low 4 GiB.
    fn of(bar: Bar, on_root: bool, high: bool) -> Self {
        match bar {
            Bar::Io { .. } => Self::Io,
            Bar::Memory64 { prefetchable, .. } if high && (prefetchable || on_root) => {
                Self::Prefetchable
            }
            _ => Self::Memory,
        }
    }
}

/// A claim to addresses: a BAR, or a bridge's window with all that is behind it.
#[derive(Clone, Copy)]
struct Claim {
    node: usize,
    what: What,
    size: u64,
    align: u64,
    /// From the start of the window that holds it.
    offset: u64,
}

#[derive(Clone, Copy)]
enum What {
    Bar(u8),
    Behind(usize),
}

/// A window's claims, laid out from its start.
#[derive(Default)]
struct Packed {
    claims: Vec<Claim>,
    size: u64,
    align: u64,
}

impl Packed {
    /// Big alignments first, so that little is lost between.
    fn new(mut claims: Vec<Claim>, granule: u64) -> Self {
        claims.sort_by_key(|claim| std::cmp::Reverse((claim.align, claim.size)));
        let mut end = 0_u64;
        for claim in &mut claims {
            claim.offset = end.saturating_add(claim.align - 1) & !(claim.align - 1);
            end = claim.offset.saturating_add(claim.size);
        }
        let align = claims.iter().map(|claim| claim.align).max().unwrap_or(1);
        Self {
            claims,
            size: end.saturating_add(granule - 1) & !(granule - 1),
            align: align.max(granule),
        }
    }
}

/// The claims of each bus, by window.
struct Plan(Vec<[Packed; 3]>);

impl Plan {
    /// `high` moves what may leave the low 4 GiB there.
    fn new(topology: &Topology, high: bool) -> Self {
        let mut buses: Vec<[Packed; 3]> = Vec::new();
        buses.resize_with(topology.buses.len(), Default::default);
        // A bridge's claim is made of those behind it, and buses behind come later.
        for (bus, functions) in topology.buses.iter().enumerate().rev() {
            let mut claims: [Vec<Claim>; 3] = Default::default();
            for &node in functions.functions.values() {
                for bar in topology.nodes[node].function.config().bars() {
                    let window = Window::of(bar.bar, bus == 0, high);
                    let page = if window == Window::Io { 1 } else { 1 << 12 };
                    claims[window as usize].push(Claim {
                        node,
                        what: What::Bar(bar.index),
                        size: bar.bar.size(),
                        // No two functions share a page.
                        align: bar.bar.size().max(page),
                        offset: 0,
                    });
                }
                let Some(behind) = topology.nodes[node].secondary else {
                    continue;
                };
                for window in WINDOWS {
                    let packed = &buses[behind][window as usize];
                    if packed.size > 0 {
                        claims[window as usize].push(Claim {
                            node,
                            what: What::Behind(behind),
                            size: packed.size,
                            align: packed.align,
                            offset: 0,
                        });
                    }
                }
            }
            buses[bus] = WINDOWS.map(|window| {
                let claims = std::mem::take(&mut claims[window as usize]);
                Packed::new(claims, window.granule())
            });
        }
        Self(buses)
    }

    /// Where the root bus's claims begin, if they fit.
    fn base(&self, window: Window, range: RangeInclusive<u64>) -> Result<u64, AssignError> {
        let packed = &self.0[0][window as usize];
        let base = range.start().saturating_add(packed.align - 1) & !(packed.align - 1);
        let end = base.saturating_add(
            packed
                .claims
                .last()
                .map_or(0, |last| last.offset + last.size),
        );
        if packed.claims.is_empty() || end - 1 <= *range.end() {
            return Ok(base);
        }
        Err(AssignError::Full {
            space: match window {
                Window::Io => "ports",
                Window::Memory => "memory below 4 GiB",
                Window::Prefetchable => "memory above 4 GiB",
            },
            needed: end - range.start(),
            available: (range.end() - range.start()).saturating_add(1),
        })
    }

    fn place(&self, topology: &Topology, bus: usize, window: Window, base: u64) {
        for claim in &self.0[bus][window as usize].claims {
            let address = base + claim.offset;
            let config = topology.nodes[claim.node].function.config();
            match claim.what {
                What::Bar(index) => {
                    let register = BAR0 + u16::from(index) * 4;
                    let bytes = address.to_le_bytes();
                    let bars = config.bars();
                    let wide = bars
                        .iter()
                        .any(|bar| bar.index == index && bar.bar.is_64_bit());
                    config.write(register, if wide { &bytes } else { &bytes[..4] });
                }
                What::Behind(behind) => {
                    open(config, window, address, address + claim.size - 1);
                    self.place(topology, behind, window, address);
                }
            }
        }
    }
}

/// Sets a bridge's window.
fn open(config: &ConfigSpace, window: Window, base: u64, limit: u64) {
    match window {
        Window::Io => config.write(IO_BASE, &[(base >> 8) as u8, (limit >> 8) as u8]),
        Window::Memory => {
            config.write(MEMORY_BASE, &((base >> 16) as u16).to_le_bytes());
            config.write(MEMORY_LIMIT, &((limit >> 16) as u16).to_le_bytes());
        }
        Window::Prefetchable => {
            config.write(PREFETCHABLE_BASE, &((base >> 16) as u16).to_le_bytes());
            config.write(PREFETCHABLE_LIMIT, &((limit >> 16) as u16).to_le_bytes());
            let upper = |address: u64| ((address >> 32) as u32).to_le_bytes();
            config.write(PREFETCHABLE_BASE_UPPER, &upper(base));
            config.write(PREFETCHABLE_LIMIT_UPPER, &upper(limit));
        }
    }
}

/// Closes a bridge's window: its base is above its limit.
fn close(config: &ConfigSpace, window: Window) {
    let base = match window {
        Window::Io => 0xf000,
        _ => 0xfff0_0000,
    };
    open(config, window, base, 0);
}

impl Fabric {
    /// Leaves the segment as firmware would: bus numbers, bridge windows and BARs assigned, memory
    /// and I/O decoding on, bridges mastering the bus, Interrupt Line set where there is a pin.
    /// BARs go below 4 GiB if all fit there.
    ///
    /// # Errors
    /// [`AssignError`], if the host bridge's windows are too small.
    pub fn assign(&self) -> Result<(), AssignError> {
        let view = self.view();
        let topology = &view.topology;
        let windows = self.windows();
        let low = Plan::new(topology, false);
        let (plan, memory) = match low.base(Window::Memory, windows.memory32.clone()) {
            Ok(base) => (low, base),
            Err(_) => {
                let high = Plan::new(topology, true);
                let base = high.base(Window::Memory, windows.memory32.clone())?;
                (high, base)
            }
        };
        let ports = u64::from(*windows.io.start())..=u64::from(*windows.io.end());
        let bases = [
            plan.base(Window::Io, ports)?,
            memory,
            plan.base(Window::Prefetchable, windows.memory64.clone())?,
        ];
        for node in topology
            .nodes
            .iter()
            .filter(|node| node.secondary.is_some())
        {
            for window in WINDOWS {
                close(node.function.config(), window);
            }
        }
        number(topology, 0, 0)?;
        for (window, base) in WINDOWS.into_iter().zip(bases) {
            plan.place(topology, 0, window, base);
        }
        for (index, node) in topology.nodes.iter().enumerate() {
            let config = node.function.config();
            let mut command = Command::IO | Command::MEMORY;
            if node.secondary.is_some() {
                command |= Command::BUS_MASTER;
            }
            config.write(COMMAND, &command.bits().to_le_bytes());
            let pin = config.read_u8(INTERRUPT_PIN);
            if pin != 0 {
                let line = line_of(topology, index, pin);
                config.write(INTERRUPT_LINE, &[self.intx.number(line)]);
            }
        }
        self.apply_writes(topology);
        Ok(())
    }
}

/// Numbers the buses behind `bus` depth first, and yields the last number used.
fn number(topology: &Topology, bus: usize, mine: u8) -> Result<u8, AssignError> {
    let mut last = mine;
    for &node in topology.buses[bus].functions.values() {
        let Some(behind) = topology.nodes[node].secondary else {
            continue;
        };
        let secondary = last.checked_add(1).ok_or(AssignError::TooManyBuses)?;
        last = number(topology, behind, secondary)?;
        let config = topology.nodes[node].function.config();
        config.write(PRIMARY_BUS, &[mine, secondary, last]);
    }
    Ok(last)
}
