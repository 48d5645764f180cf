//! Routing: config accesses, BARs, bus numbers, bus mastering.

use vm_iommu_spec::{FaultReason, Iova};
use vmm_sys_util::eventfd::EventFd;

use super::*;

const HOST: u32 = 0x0008_1b36;
const PROBE: u32 = 0x5678_1234;

#[test]
fn config_accesses_follow_the_bus_numbers() {
    let machine = Machine::new();
    let fabric = &machine.fabric;
    assert_eq!(read_u32(fabric, ecam(0, at(0, 0), 0)), HOST);
    assert_eq!(read_u32(fabric, ecam(1, at(0, 0), 0)), PROBE);
    assert_eq!(read_u32(fabric, ecam(7, at(0, 0), 0)), u32::MAX);
    fabric.ecam_write(ecam(0, at(1, 0), SECONDARY_BUS), &[7, 9]);
    assert_eq!(read_u32(fabric, ecam(1, at(0, 0), 0)), u32::MAX);
    assert_eq!(read_u32(fabric, ecam(7, at(0, 0), 0)), PROBE);
    assert_eq!(read_u32(fabric, ecam(8, at(0, 0), 0)), u32::MAX);
}

#[test]
fn config_accesses_of_any_size_and_place_are_split() {
    let machine = Machine::new();
    let fabric = &machine.fabric;
    let base = ecam(0, at(2, 0), 0);
    let mut data = [0; 8];
    fabric.ecam_read(base + 1, &mut data[..2]);
    assert_eq!(data[..2], [0x12, 0x78]);
    fabric.ecam_read(base + 2, &mut data[..4]);
    assert_eq!(data[..2], [0x78, 0x56]);
    // From the last doubleword of one function into the next, which is not there.
    fabric.ecam_read(base + 0xffe, &mut data[..4]);
    assert_eq!(data[..4], [0, 0, 0xff, 0xff]);
    fabric.ecam_read(u64::MAX, &mut data);
    fabric.ecam_write(u64::MAX, &data);
    fabric.ecam_read(base, &mut []);
    // 64-bit BAR in one write.
    let address = (HIGH + 0x10_0000).to_le_bytes();
    fabric.ecam_write(base + 0x18, &address);
    assert_eq!(machine.bar(&machine.beside, 2), PhysAddr(HIGH + 0x10_0000));
}

#[test]
fn config_ports_reach_what_ecam_reaches() {
    let machine = Machine::new();
    let fabric = &machine.fabric;
    let address = 0x8000_0000_u32 | 2 << 11;
    fabric.config_port_write(0, &address.to_le_bytes());
    let mut data = [0; 4];
    fabric.config_port_read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), address);
    fabric.config_port_read(4, &mut data);
    assert_eq!(u32::from_le_bytes(data), PROBE);
    fabric.config_port_read(6, &mut data[..2]);
    assert_eq!(data[..2], [0x78, 0x56]);
    fabric.config_port_read(7, &mut data[..1]);
    assert_eq!(data[0], 0x56);
    // The address's own lowest bits name a byte, too.
    fabric.config_port_write(0, &(address | 2).to_le_bytes());
    fabric.config_port_read(4, &mut data[..2]);
    assert_eq!(data[..2], [0x78, 0x56]);
    fabric.config_port_write(0, &address.to_le_bytes());
    // Past the data ports there is nothing.
    fabric.config_port_read(6, &mut data);
    assert_eq!(data, [0x78, 0x56, 0xff, 0xff]);
    // Byte writes to the address ports are not for the configuration mechanism.
    fabric.config_port_write(3, &[0]);
    fabric.config_port_read(4, &mut data);
    assert_eq!(u32::from_le_bytes(data), PROBE);
    // Disabled.
    fabric.config_port_write(0, &(2_u32 << 11).to_le_bytes());
    fabric.config_port_read(4, &mut data);
    assert_eq!(data, [0xff; 4]);
    fabric.config_port_read(9, &mut data);
    fabric.config_port_write(9, &data);
}

#[test]
fn a_moved_bar_answers_at_its_new_place_only() {
    let machine = Machine::new();
    let (fabric, probe) = (&machine.fabric, &machine.beside);
    let old = machine.bar(probe, 0);
    assert!(fabric.mmio_write(PhysAddr(old.0 + 0x9000), &[1, 2]));
    assert_eq!(probe.take_accesses(), [(0, 0x9000, Some(vec![1, 2]))]);
    let new = PhysAddr(0xdff0_0000);
    let register = ecam(0, at(2, 0), BAR0);
    fabric.ecam_write(register, &(new.0 as u32).to_le_bytes());
    let mut data = [0; 4];
    assert!(!fabric.mmio_read(old, &mut data));
    assert_eq!(data, [0xff; 4]);
    assert!(fabric.mmio_read(PhysAddr(new.0 + 0xfffc), &mut data));
    assert_eq!(data, [0x5a; 4]);
    // Across its end, and outside of the host bridge's windows.
    assert!(!fabric.mmio_read(PhysAddr(new.0 + 0xfffe), &mut data));
    fabric.ecam_write(register, &0xfee0_0000_u32.to_le_bytes());
    assert!(!fabric.mmio_read(PhysAddr(0xfee0_0000), &mut data));
    assert!(!fabric.mmio_read(PhysAddr(u64::MAX), &mut data));
}

#[test]
fn memory_and_ports_are_decoded_only_while_enabled() {
    let machine = Machine::new();
    let (fabric, probe) = (&machine.fabric, &machine.beside);
    let memory = machine.bar(probe, 0);
    let port = machine.bar(probe, 4).0 as u16;
    let reachable = || {
        (
            fabric.mmio_read(memory, &mut [0; 4]),
            fabric.pio_read(port, &mut [0; 4]),
        )
    };
    assert_eq!(reachable(), (true, true));
    set_command(fabric, 0, at(2, 0), Command::MEMORY);
    assert_eq!(reachable(), (true, false));
    set_command(fabric, 0, at(2, 0), Command::IO);
    assert_eq!(reachable(), (false, true));
    set_command(fabric, 0, at(2, 0), Command::empty());
    assert_eq!(reachable(), (false, false));
}

#[test]
fn bridges_forward_what_is_in_their_windows() {
    let machine = Machine::new();
    let (fabric, probe) = (&machine.fabric, &machine.behind);
    let memory = machine.bar(probe, 0);
    let port = machine.bar(probe, 4).0 as u16;
    assert!(fabric.mmio_read(memory, &mut [0; 4]));
    assert!(fabric.pio_read(port, &mut [0; 4]));
    set_command(fabric, 0, at(1, 0), Command::IO);
    assert!(!fabric.mmio_read(memory, &mut [0; 4]));
    assert!(fabric.pio_read(port, &mut [0; 4]));
    set_command(fabric, 0, at(1, 0), Command::MEMORY);
    assert!(!fabric.pio_read(port, &mut [0; 4]));
    // A window that ends below its base is closed.
    fabric.ecam_write(ecam(0, at(1, 0), MEMORY_BASE), &[0xf0, 0xff, 0, 0]);
    assert!(!fabric.mmio_read(memory, &mut [0; 4]));
}

#[test]
fn a_window_cuts_a_bar() {
    let log = Log::default();
    let fabric = new_fabric(&log);
    let bus = fabric
        .add_bridge(BusId::ROOT, at(1, 0), PortKind::RootPort, AcsFlags::empty())
        .unwrap();
    let big = Bar::Memory32 {
        size: 1 << 22,
        prefetchable: false,
    };
    let probe = Probe::new(
        ConfigBuilder::endpoint(identity()).bar(0, big),
        upstream(&log),
    );
    fabric.add(bus, at(0, 0), probe.clone()).unwrap();
    fabric.assign().unwrap();
    let base = probe.config().bars()[0].address;
    // Only the second megabyte passes.
    let megabyte = ((base >> 16) as u16 + 0x10).to_le_bytes();
    fabric.ecam_write(
        ecam(0, at(1, 0), MEMORY_BASE),
        &[megabyte[0], megabyte[1], megabyte[0], megabyte[1]],
    );
    assert!(!fabric.mmio_read(PhysAddr(base), &mut [0; 4]));
    assert!(fabric.mmio_read(PhysAddr(base + 0x10_0004), &mut [0; 4]));
    assert!(!fabric.mmio_read(PhysAddr(base + 0x20_0000), &mut [0; 4]));
    assert_eq!(probe.take_accesses(), [(0, 0x10_0004, None)]);
}

#[test]
fn of_two_bars_in_one_place_the_first_function_answers() {
    let machine = Machine::new();
    let (first, second) = (&machine.behind, &machine.beside);
    let place = machine.bar(first, 0);
    let register = ecam(0, at(2, 0), BAR0);
    machine
        .fabric
        .ecam_write(register, &(place.0 as u32).to_le_bytes());
    let beyond_the_vectors = PhysAddr(place.0 + 0x9000);
    assert!(machine.fabric.mmio_read(beyond_the_vectors, &mut [0; 4]));
    assert_eq!(first.take_accesses().len(), 1);
    assert_eq!(second.take_accesses(), []);
}

#[test]
fn the_requester_id_follows_the_secondary_bus_number() {
    let machine = Machine::new();
    let fabric = &machine.fabric;
    let port = machine.behind.port();
    let id = |bus| RequesterId::from_devfn(0, bus, 0);
    assert_eq!(port.requester(), id(1));
    fabric.ecam_write(ecam(0, at(1, 0), SECONDARY_BUS), &[0x42, 0x42]);
    assert_eq!(port.requester(), id(0x42));
    assert_eq!(fabric.requester(machine.behind_id), Some(id(0x42)));
    assert_eq!(
        fabric.bus_number(fabric.behind(FunctionId(1)).unwrap()),
        Some(0x42)
    );
    assert_eq!(
        fabric.requester(machine.beside_id),
        RequesterId::new(0, 0, 2, 0)
    );
}

#[test]
fn a_function_behind_an_unnumbered_bridge_reaches_nobody() {
    let machine = Machine::new();
    let fabric = &machine.fabric;
    set_command(fabric, 1, at(0, 0), Command::BUS_MASTER);
    assert_eq!(machine.behind.port().refusal(), None);
    for numbers in [[0, 0], [0, 9], [9, 3]] {
        fabric.ecam_write(ecam(0, at(1, 0), SECONDARY_BUS), &numbers);
        assert_eq!(fabric.requester(machine.behind_id), None);
        assert!(machine.behind.port().refusal().is_some());
    }
    fabric.ecam_write(ecam(0, at(1, 0), SECONDARY_BUS), &[9, 9]);
    assert_eq!(machine.behind.port().refusal(), None);
}

#[test]
fn dma_needs_bus_master_enable_all_the_way_up() {
    let machine = Machine::new();
    let fabric = &machine.fabric;
    let device = machine.behind.handle();
    let outcome = || {
        let result = device.write(Iova(0x1000), b"x");
        result.map_err(|partial| partial.fault.reason)
    };
    assert_eq!(outcome(), Err(FaultReason::BusMasterDisabled));
    set_command(fabric, 1, at(0, 0), Command::BUS_MASTER);
    assert_eq!(outcome(), Ok(()));
    set_command(fabric, 0, at(1, 0), Command::MEMORY);
    assert_eq!(outcome(), Err(FaultReason::BusMasterDisabled));
    set_command(fabric, 0, at(1, 0), Command::BUS_MASTER);
    assert_eq!(outcome(), Ok(()));
    set_command(fabric, 1, at(0, 0), Command::empty());
    assert_eq!(outcome(), Err(FaultReason::BusMasterDisabled));
}

#[test]
fn every_bridge_on_the_way_gates_dma_and_windows() {
    let log = Log::default();
    let fabric = new_fabric(&log);
    let bridge = |bus, devfn, kind| {
        fabric
            .add_bridge(bus, devfn, kind, AcsFlags::empty())
            .unwrap()
    };
    let port = bridge(BusId::ROOT, at(1, 0), PortKind::RootPort);
    let switch = bridge(port, at(0, 0), PortKind::UpstreamPort);
    let end = bridge(switch, at(0, 0), PortKind::DownstreamPort);
    let probe = Probe::new(endpoint(), upstream(&log));
    fabric.add(end, at(0, 0), probe.clone()).unwrap();
    fabric.assign().unwrap();
    let address = PhysAddr(probe.config().bars()[0].address);
    set_command(&fabric, 3, at(0, 0), Command::MEMORY | Command::BUS_MASTER);
    for (bus, devfn) in [(0, at(1, 0)), (1, at(0, 0)), (2, at(0, 0))] {
        assert_eq!(probe.port().refusal(), None);
        assert!(fabric.mmio_read(address, &mut [0; 4]));
        set_command(&fabric, bus, devfn, Command::MEMORY);
        assert!(probe.port().refusal().is_some());
        set_command(&fabric, bus, devfn, Command::BUS_MASTER);
        assert!(!fabric.mmio_read(address, &mut [0; 4]));
        set_command(&fabric, bus, devfn, Command::MEMORY | Command::BUS_MASTER);
    }
}

#[test]
fn dma_into_a_bar_is_refused() {
    let machine = Machine::new();
    set_command(
        &machine.fabric,
        0,
        at(2, 0),
        Command::MEMORY | Command::BUS_MASTER,
    );
    let bar = machine.bar(&machine.beside, 0);
    let result = machine.beside.handle().write(Iova(bar.0), &[0; 4]);
    assert_eq!(result.unwrap_err().fault.reason, FaultReason::NotMemory);
    assert_eq!(machine.beside.take_accesses(), []);
}

#[derive(Default)]
struct Watcher(Mutex<Vec<(bool, u64, u64)>>);

impl FabricObserver for Watcher {
    fn mapped(&self, mapping: &BarMapping) {
        let mut events = self.0.lock().unwrap();
        for (address, doorbell) in mapping.doorbells() {
            events.push((true, address, doorbell.offset));
        }
    }

    fn unmapped(&self, mapping: &BarMapping) {
        let mut events = self.0.lock().unwrap();
        for (address, doorbell) in mapping.doorbells() {
            events.push((false, address, doorbell.offset));
        }
    }
}

fn doorbell() -> Doorbell {
    Doorbell {
        bar: 0,
        offset: 0x9000,
        len: 2,
        datamatch: None,
        event: Arc::new(EventFd::new(0).unwrap()),
    }
}

#[test]
fn doorbells_follow_moves_enables_and_resets() {
    let log = Log::default();
    let fabric = new_fabric(&log);
    let probe = Probe::with_doorbells(endpoint(), upstream(&log), vec![doorbell()]);
    fabric.add(BusId::ROOT, at(2, 0), probe.clone()).unwrap();
    fabric.assign().unwrap();
    let watcher = Arc::new(Watcher::default());
    fabric.observe(watcher.clone());
    let events = || std::mem::take(&mut *watcher.0.lock().unwrap());
    let old = probe.config().bars()[0].address;
    assert_eq!(events(), [(true, old + 0x9000, 0x9000)]);
    fabric.ecam_write(ecam(0, at(2, 0), BAR0), &0xd800_0000_u32.to_le_bytes());
    assert_eq!(
        events(),
        [(false, old + 0x9000, 0x9000), (true, 0xd800_9000, 0x9000)]
    );
    set_command(&fabric, 0, at(2, 0), Command::IO);
    assert_eq!(events(), [(false, 0xd800_9000, 0x9000)]);
    set_command(&fabric, 0, at(2, 0), Command::MEMORY);
    assert_eq!(events(), [(true, 0xd800_9000, 0x9000)]);
    let control = probe.config().pcie_capability().unwrap() + 8;
    fabric.ecam_write(ecam(0, at(2, 0), control), &[0, 0x80]);
    assert_eq!(events(), [(false, 0xd800_9000, 0x9000)]);
}

/// Adds another watcher when it is first called.
struct Recruiter(Weak<Fabric>, Arc<Watcher>, Mutex<bool>);

impl FabricObserver for Recruiter {
    fn mapped(&self, _mapping: &BarMapping) {}

    fn unmapped(&self, _mapping: &BarMapping) {
        if !std::mem::replace(&mut *self.2.lock().unwrap(), true)
            && let Some(fabric) = self.0.upgrade()
        {
            fabric.observe(self.1.clone());
        }
    }
}

#[test]
fn an_observer_that_comes_amid_a_change_learns_its_outcome() {
    let log = Log::default();
    let fabric = new_fabric(&log);
    let probe = Probe::with_doorbells(endpoint(), upstream(&log), vec![doorbell()]);
    fabric.add(BusId::ROOT, at(2, 0), probe.clone()).unwrap();
    fabric.assign().unwrap();
    let watcher = Arc::new(Watcher::default());
    let events = || std::mem::take(&mut *watcher.0.lock().unwrap());
    let recruiter = Recruiter(Arc::downgrade(&fabric), watcher.clone(), Mutex::default());
    fabric.observe(Arc::new(recruiter));
    set_command(&fabric, 0, at(2, 0), Command::empty());
    assert_eq!(events(), []);
    set_command(&fabric, 0, at(2, 0), Command::MEMORY);
    let address = probe.config().bars()[0].address + 0x9000;
    assert_eq!(events(), [(true, address, 0x9000)]);
}

#[test]
fn a_config_write_from_within_a_bar_write_takes_effect() {
    let machine = Machine::new();
    let fabric = &machine.fabric;
    let command = ecam(0, at(2, 0), COMMAND);
    let bar = machine.bar(&machine.beside, 0);
    *machine.beside.back.lock().unwrap() = Some((Arc::downgrade(fabric), command, vec![0, 0]));
    assert!(fabric.mmio_write(PhysAddr(bar.0 + 0x9000), &[0; 4]));
    assert!(!fabric.mmio_write(PhysAddr(bar.0 + 0x9000), &[0; 4]));
}

#[test]
fn functions_of_one_device_say_so() {
    let log = Log::default();
    let fabric = new_fabric(&log);
    for function in [1, 0] {
        let probe = Probe::new(endpoint(), upstream(&log));
        fabric.add(BusId::ROOT, at(3, function), probe).unwrap();
    }
    for (devfn, expected) in [(at(3, 0), 0x80), (at(3, 1), 0x80), (at(0, 0), 0)] {
        let header = read_u32(&fabric, ecam(0, devfn, 0x0c)) >> 16 & 0xff;
        assert_eq!(header, expected, "{devfn}");
    }
}

#[test]
fn a_place_must_exist_and_be_free() {
    let log = Log::default();
    let fabric = new_fabric(&log);
    let bus = fabric
        .add_bridge(BusId::ROOT, at(1, 0), PortKind::RootPort, AcsFlags::empty())
        .unwrap();
    let add = |bus, devfn| {
        let probe = Probe::new(endpoint(), upstream(&log));
        fabric.add(bus, devfn, probe)
    };
    let taken = add(BusId::ROOT, at(1, 0)).unwrap_err();
    assert!(matches!(taken, AddError::Taken { .. }));
    let off_link = add(bus, at(1, 0)).unwrap_err();
    assert!(matches!(off_link, AddError::NotOnLink { .. }));
    assert!(add(bus, at(0, 1)).is_ok());
    let nowhere = add(BusId(9), at(0, 0)).unwrap_err();
    assert!(matches!(nowhere, AddError::NoBus { .. }));
    let port = fabric.add_bridge(bus, at(0, 2), PortKind::RootPort, AcsFlags::empty());
    assert_eq!(port, Err(AddError::RootPortBelowRoot));
}
