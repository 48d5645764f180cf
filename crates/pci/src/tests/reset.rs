//! Function-level and secondary bus reset.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use vm_iommu_spec::Iova;
use vm_memory::{GuestMemory, Permissions};

use super::*;

fn initiate_flr(fabric: &Fabric, bus: u8, devfn: DevFn, probe: &Probe) {
    let control = probe.config().pcie_capability().unwrap() + 8;
    let offset = ecam(bus, devfn, control);
    let value = read_u32(fabric, offset) as u16 | 0x8000;
    fabric.ecam_write(offset, &value.to_le_bytes());
}

#[test]
fn a_function_reset_returns_to_power_on_but_keeps_its_place() {
    let machine = Machine::new();
    let (fabric, probe) = (&machine.fabric, &machine.behind);
    let fresh = Probe::new(endpoint(), upstream(&machine.log));
    let old = machine.bar(probe, 0);
    set_command(fabric, 1, at(0, 0), Command::MEMORY | Command::BUS_MASTER);
    probe.config().interrupts().set_level(true);
    fabric.mmio_write(PhysAddr(old.0 + 8), &[1, 0, 0, 0]);
    initiate_flr(fabric, 1, at(0, 0), probe);
    assert_eq!(*probe.resets.lock().unwrap(), 1);
    for register in (0..CONFIG_SPACE_SIZE).step_by(4) {
        let found = read_u32(fabric, ecam(1, at(0, 0), register));
        assert_eq!(found, fresh.config().read_u32(register), "{register:#x}");
    }
    assert!(!fabric.mmio_read(old, &mut [0; 4]));
    assert!(probe.port().refusal().is_some());
    assert_eq!(
        fabric.requester(machine.behind_id),
        Some(RequesterId::from_devfn(0, 1, 0))
    );
    // Software restores what it saved.
    let offset = ecam(1, at(0, 0), BAR0);
    fabric.ecam_write(offset, &(old.0 as u32).to_le_bytes());
    set_command(fabric, 1, at(0, 0), Command::MEMORY | Command::BUS_MASTER);
    let mut entry = [0xff; 4];
    assert!(fabric.mmio_read(PhysAddr(old.0 + 8), &mut entry));
    assert_eq!(entry, [0; 4]);
    assert_eq!(probe.port().refusal(), None);
}

#[test]
fn bits_beside_initiate_flr_do_not_reset() {
    let machine = Machine::new();
    let control = machine.beside.config().pcie_capability().unwrap() + 8;
    for (register, data) in [
        (control, &[0xff, 0x7f][..]),
        (control + 2, &[0xff, 0xff]),
        (control - 2, &[0xff, 0xff]),
    ] {
        machine.fabric.ecam_write(ecam(0, at(2, 0), register), data);
    }
    assert_eq!(*machine.beside.resets.lock().unwrap(), 0);
    // The root port has no such bit.
    machine
        .fabric
        .ecam_write(ecam(0, at(1, 0), 0x48), &[0xff, 0xff]);
    assert_eq!(machine.fabric.bus_number(BusId(1)), Some(1));
}

#[test]
fn a_reset_waits_for_dma_in_flight() {
    let machine = Machine::new();
    let (fabric, probe) = (&machine.fabric, &machine.beside);
    set_command(fabric, 0, at(2, 0), Command::BUS_MASTER);
    let done = AtomicBool::new(false);
    let mut device = probe.handle();
    let session = device.session();
    let slices = session
        .get_slices(GuestAddress(0x1000), 8, Permissions::Write)
        .unwrap();
    assert_eq!(slices.count(), 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            initiate_flr(fabric, 0, at(2, 0), probe);
            done.store(true, Ordering::SeqCst);
        });
        thread::sleep(Duration::from_millis(50));
        assert!(!done.load(Ordering::SeqCst));
        assert_eq!(*probe.resets.lock().unwrap(), 0);
        drop(session);
    });
    assert!(done.load(Ordering::SeqCst));
    assert!(device.write(Iova(0x1000), &[0]).is_err());
}

#[test]
fn a_secondary_bus_reset_holds_all_that_is_behind() {
    let machine = Machine::new();
    let (fabric, probe) = (&machine.fabric, &machine.behind);
    set_command(fabric, 1, at(0, 0), Command::MEMORY | Command::BUS_MASTER);
    let bar = machine.bar(probe, 0);
    let control = ecam(0, at(1, 0), BRIDGE_CONTROL);
    fabric.ecam_write(control, &BRIDGE_CONTROL_SECONDARY_RESET.to_le_bytes());
    assert_eq!(*probe.resets.lock().unwrap(), 1);
    assert_eq!(*machine.beside.resets.lock().unwrap(), 0);
    assert_eq!(read_u32(fabric, ecam(1, at(0, 0), 0)), u32::MAX);
    assert!(probe.port().refusal().is_some());
    // Written again it is no second reset.
    fabric.ecam_write(control, &BRIDGE_CONTROL_SECONDARY_RESET.to_le_bytes());
    assert_eq!(*probe.resets.lock().unwrap(), 1);
    fabric.ecam_write(control, &[0, 0]);
    assert_eq!(read_u32(fabric, ecam(1, at(0, 0), 0)), 0x5678_1234);
    assert!(!fabric.mmio_read(bar, &mut [0; 4]));
    assert!(probe.port().refusal().is_some());
    assert_eq!(probe.port().requester(), RequesterId::from_devfn(0, 1, 0));
}

#[test]
fn a_config_write_from_within_a_reset_is_carried_out_after_it() {
    let machine = Machine::new();
    let fabric = &machine.fabric;
    let offset = ecam(0, at(1, 0), SECONDARY_BUS);
    *machine.beside.back.lock().unwrap() = Some((Arc::downgrade(fabric), offset, vec![8, 8]));
    initiate_flr(fabric, 0, at(2, 0), &machine.beside);
    assert_eq!(fabric.bus_number(BusId(1)), Some(8));
    assert_eq!(machine.behind.port().requester().bus(), 8);
}
