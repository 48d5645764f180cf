//! What firmware leaves behind.

use super::*;

#[test]
fn everything_is_reachable_after_assignment() {
    let machine = Machine::new();
    for probe in [&machine.behind, &machine.beside] {
        for bar in probe.config().bars() {
            assert_eq!(bar.address % bar.bar.size(), 0);
            assert!(bar.enabled);
            let reached = match bar.bar.decode() {
                Decode::Memory => {
                    let address = PhysAddr(bar.address + bar.bar.size() - 4);
                    machine.fabric.mmio_read(address, &mut [0; 4])
                }
                Decode::Io => machine.fabric.pio_read(bar.address as u16, &mut [0; 1]),
            };
            assert!(reached, "{bar:?}");
        }
        assert_eq!(probe.take_accesses().len(), 3);
    }
    // Bus mastering is the driver's to enable, but for bridges.
    assert!(machine.behind.port().refusal().is_some());
    assert!(
        !machine
            .behind
            .config()
            .command()
            .contains(Command::BUS_MASTER)
    );
}

#[test]
fn what_does_not_fit_below_four_gigabytes_goes_above() {
    let log = Log::default();
    let fabric = new_fabric(&log);
    let bus = fabric
        .add_bridge(BusId::ROOT, at(1, 0), PortKind::RootPort, AcsFlags::empty())
        .unwrap();
    let huge = Bar::Memory64 {
        size: 1 << 32,
        prefetchable: true,
    };
    let builder = ConfigBuilder::endpoint(identity()).bar(0, huge);
    let probe = Probe::new(builder, upstream(&log));
    fabric.add(bus, at(0, 0), probe.clone()).unwrap();
    fabric.assign().unwrap();
    let address = probe.config().bars()[0].address;
    assert_eq!(address, HIGH);
    assert!(fabric.mmio_read(PhysAddr(address + 0xffff_fff0), &mut [0; 8]));
}

#[test]
fn what_fits_nowhere_is_an_error() {
    let log = Log::default();
    let fabric = new_fabric(&log);
    let huge = Bar::Memory32 {
        size: 1 << 30,
        prefetchable: false,
    };
    let builder = ConfigBuilder::endpoint(identity()).bar(0, huge);
    let probe = Probe::new(builder, upstream(&log));
    fabric.add(BusId::ROOT, at(1, 0), probe).unwrap();
    let error = fabric.assign().unwrap_err();
    assert!(matches!(error, AssignError::Full { .. }), "{error}");
}

#[test]
fn buses_are_numbered_depth_first() {
    let log = Log::default();
    let fabric = new_fabric(&log);
    let bridge = |bus, devfn, kind| {
        fabric
            .add_bridge(bus, devfn, kind, AcsFlags::empty())
            .unwrap()
    };
    let first = bridge(BusId::ROOT, at(1, 0), PortKind::RootPort);
    let last = bridge(BusId::ROOT, at(2, 0), PortKind::RootPort);
    let switch = bridge(first, at(0, 0), PortKind::UpstreamPort);
    let left = bridge(switch, at(0, 0), PortKind::DownstreamPort);
    let right = bridge(switch, at(1, 0), PortKind::DownstreamPort);
    let probe = Probe::new(endpoint(), upstream(&log));
    fabric.add(right, at(0, 0), probe.clone()).unwrap();
    fabric.assign().unwrap();
    let numbers = [first, switch, left, right, last].map(|bus| fabric.bus_number(bus));
    assert_eq!(numbers, [1, 2, 3, 4, 5].map(Some));
    assert_eq!(
        read_u32(&fabric, ecam(0, at(1, 0), PRIMARY_BUS)),
        0x0004_0100
    );
    let address = PhysAddr(probe.config().bars()[0].address);
    assert!(fabric.mmio_read(address, &mut [0; 4]));
    assert_eq!(probe.port().requester(), RequesterId::from_devfn(0, 4, 0));
}

#[test]
fn inspect_tells_where_everything_is() {
    let machine = Machine::new();
    let tree = serde_json::to_value(machine.fabric.inspect()).unwrap();
    let function = &tree["functions"][2];
    assert_eq!(function["address"], "0000:01:00.0");
    assert_eq!(function["kind"], "Endpoint");
    assert_eq!(function["bridge"], 1);
    let bar = machine.bar(&machine.behind, 0);
    assert_eq!(function["bars"][0]["address"], bar.0);
    assert_eq!(tree["functions"][3]["kind"], "IntegratedEndpoint");
    assert_eq!(tree["groups"].as_array().unwrap().len(), 4);
}
