//! Whatever software writes: nothing panics, and the routing is what the registers say.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ranges::{Piece, PieceBuilder, intersect};

/// A tree with every kind of bridge.
fn tree() -> (Arc<Fabric>, Vec<Arc<Probe>>) {
    let log = Log::default();
    let fabric = new_fabric(&log);
    let bridge = |bus, devfn, kind| {
        fabric
            .add_bridge(bus, devfn, kind, AcsFlags::ISOLATION)
            .unwrap()
    };
    let first = bridge(BusId::ROOT, at(1, 0), PortKind::RootPort);
    let switch = bridge(first, at(0, 0), PortKind::UpstreamPort);
    let left = bridge(switch, at(0, 0), PortKind::DownstreamPort);
    let right = bridge(switch, at(1, 0), PortKind::DownstreamPort);
    let pci = bridge(left, at(0, 0), PortKind::PcieToPciBridge);
    let places = [
        (BusId::ROOT, at(2, 0)),
        (BusId::ROOT, at(2, 1)),
        (right, at(0, 0)),
        (pci, at(3, 0)),
    ];
    let probes = places.map(|(bus, devfn)| {
        let probe = Probe::new(endpoint(), upstream(&log));
        fabric.add(bus, devfn, probe.clone()).unwrap();
        probe
    });
    fabric.assign().unwrap();
    (fabric, probes.into())
}

/// A write to somewhere that matters, or anywhere.
fn write() -> impl Strategy<Value = (u64, Vec<u8>)> {
    let register = prop_oneof![
        8 => (0_u16..0x40).boxed(),
        3 => (0x40_u16..0x100).boxed(),
        1 => (0_u16..CONFIG_SPACE_SIZE).boxed(),
    ];
    let devfn = prop_oneof![
        Just(at(0, 0)),
        Just(at(1, 0)),
        Just(at(2, 0)),
        Just(at(2, 1)),
        Just(at(3, 0)),
    ];
    let byte = prop_oneof![Just(0_u8), Just(0xff), Just(0xc0), 0_u8..8, any::<u8>()];
    (0_u8..6, devfn, register, vec(byte, 1..=8))
        .prop_map(|(bus, devfn, register, data)| (ecam(bus, devfn, register), data))
}

/// Every function that config accesses reach, found as software enumerates.
fn enumerate(fabric: &Fabric, bus: u8, found: &mut Vec<(u8, u8)>, depth: u8) {
    for devfn in 0..=255 {
        let devfn = DevFn::from_raw(devfn);
        if read_u32(fabric, ecam(bus, devfn, 0)) == u32::MAX {
            continue;
        }
        found.push((bus, devfn.raw()));
        let header = read_u32(fabric, ecam(bus, devfn, 0x0c)) >> 16 & 0x7f;
        let numbers = read_u32(fabric, ecam(bus, devfn, PRIMARY_BUS)).to_le_bytes();
        if header == 1 && numbers[1] > bus && depth < 8 {
            enumerate(fabric, numbers[1], found, depth + 1);
        }
    }
}

fn check(fabric: &Fabric, probes: &[Arc<Probe>]) -> Result<(), TestCaseError> {
    let state = fabric.inspect();
    let mut found = Vec::new();
    enumerate(fabric, 0, &mut found, 0);
    for function in &state.functions {
        let Some((device, bus, devfn)) = fabric.function(function.id) else {
            return Err(TestCaseError::fail("a function is gone"));
        };
        // The port says what the fabric says, and nothing masters the bus without a place.
        let masters = device.port().refusal().is_none();
        prop_assert_eq!(masters, function.bus_master);
        if let Some(requester) = function.requester {
            prop_assert_eq!(device.port().requester(), requester);
        }
        prop_assert!(!masters || fabric.bus_number(bus).is_some());
        prop_assert!(!masters || device.config().command().contains(Command::BUS_MASTER));
        if let Some(number) = fabric.bus_number(bus) {
            let id = read_u32(fabric, ecam(number, devfn, 0));
            prop_assert_eq!(id, device.config().read_u32(0));
        }
    }
    // What enumeration finds is one function.
    for &(bus, devfn) in &found {
        let known = state
            .functions
            .iter()
            .filter(|function| {
                fabric.address(function.id) == Some(RequesterId::from_devfn(0, bus, devfn))
            })
            .count();
        prop_assert_eq!(known, 1, "{:02x}:{:02x}", bus, devfn);
    }
    // A BAR that answers is enabled, and lies where it answers.
    for probe in probes {
        probe.take_accesses();
        for bar in probe.config().bars() {
            if bar.bar.decode() == Decode::Io {
                continue;
            }
            let offset = 0x9000;
            fabric.mmio_read(PhysAddr(bar.address.wrapping_add(offset)), &mut [0; 4]);
            for (index, at, _) in probe.take_accesses() {
                let answered = probe.config().bars();
                let answered = answered.iter().find(|bar| bar.index == index);
                let consistent = answered.is_some_and(|answered| {
                    answered.enabled
                        && answered.address.wrapping_add(at) == bar.address.wrapping_add(offset)
                });
                prop_assert!(consistent, "{:?} answered for {:?}", answered, bar);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_config_writes_leave_the_routing_consistent(writes in vec(write(), 1..40)) {
        let (fabric, probes) = tree();
        for (offset, data) in writes {
            fabric.ecam_write(offset, &data);
        }
        check(&fabric, &probes)?;
    }

    #[test]
    fn any_port_and_memory_accesses_are_safe(
        accesses in vec((any::<u16>(), any::<u64>(), vec(any::<u8>(), 0..=16)), 1..40)
    ) {
        let (fabric, _) = tree();
        for (port, address, data) in accesses {
            let mut data = data;
            fabric.config_port_write(port % 16, &data);
            fabric.config_port_read(port % 16, &mut data);
            fabric.ecam_write(address, &data);
            fabric.ecam_read(address, &mut data);
            for address in [address, LOW + address % 0x40_0000] {
                fabric.mmio_write(PhysAddr(address), &data);
                fabric.mmio_read(PhysAddr(address), &mut data);
            }
            fabric.pio_write(port, &data);
            fabric.pio_read(port, &mut data);
        }
    }

    #[test]
    fn the_first_piece_keeps_its_addresses(
        pieces in vec((0_u64..64, 0_u64..24, 0_u64..64, 0_u64..40), 0..12)
    ) {
        let mut builder = PieceBuilder::default();
        let mut model = [None; 128];
        for (node, &(start, len, low, span)) in pieces.iter().enumerate() {
            let piece = Piece { start, end: start + len, node, bar: 0, offset: 0 };
            builder.insert(piece, &(low..=low + span));
            for address in start.max(low)..=(start + len).min(low + span) {
                model[address as usize].get_or_insert((node, address - start));
            }
        }
        let pieces = builder.finish();
        for (address, expected) in (0..).zip(model) {
            let found = pieces.find(address, 1);
            prop_assert_eq!(
                found.map(|piece| (piece.node, piece.offset + address - piece.start)),
                expected
            );
        }
    }

    #[test]
    fn intersections_hold_what_both_hold(
        outer in vec((0_u64..8, 0_u64..8), 0..6),
        inner in vec((0_u64..64, 0_u64..32), 0..4)
    ) {
        // Disjoint by construction, one in each 16.
        let outer: Vec<_> = (0..).zip(outer)
            .map(|(index, (start, len))| index * 16 + start..=index * 16 + start + len)
            .collect();
        let inner: Vec<_> = inner.into_iter().map(|(start, len)| start..=start + len).collect();
        let result = intersect(&outer, inner.iter().cloned());
        for address in 0..128 {
            let hold = |ranges: &[std::ops::RangeInclusive<u64>]| {
                ranges.iter().filter(|range| range.contains(&address)).count()
            };
            prop_assert_eq!(hold(&result), usize::from(hold(&outer) > 0 && hold(&inner) > 0));
        }
    }
}
