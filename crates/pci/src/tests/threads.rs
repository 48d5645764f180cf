//! Processors and device threads at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vm_iommu_spec::Iova;
use vm_memory::{GuestMemory, Permissions};

use super::*;

/// Processors reprogram the fabric while a device moves data, raises interrupts from inside its
/// epochs, and is accessed. Nobody waits for ever, and what was disabled last stays so.
#[test]
fn reprogramming_under_load_neither_deadlocks_nor_leaks() {
    let machine = Machine::new();
    let fabric = &machine.fabric;
    let device_end = at(0, 0);
    let stop = AtomicBool::new(false);
    let msi = machine.behind.config().msi_capability().unwrap();
    let control = machine.behind.config().pcie_capability().unwrap() + 8;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut device = machine.behind.handle();
            while !stop.load(Ordering::Relaxed) {
                let session = device.session();
                let slices = session.get_slices(GuestAddress(0x1000), 64, Permissions::Write);
                let _ = slices.map(Iterator::count);
                machine.behind.config().interrupts().signal(0);
                drop(session);
                let _ = device.write(Iova(0x2000), &[0; 64]);
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let address = machine.bar(&machine.behind, 0);
                fabric.mmio_write(PhysAddr(address.0 + 0x9000), &[0; 4]);
                fabric.mmio_write(PhysAddr(address.0 + 12), &[0; 4]);
            }
        });
        let processors = [0_u8, 1].map(|seed| {
            scope.spawn(move || {
                for round in 0..400_u32 {
                    let bus = 1 + (round % 3) as u8;
                    match (round + u32::from(seed)) % 5 {
                        0 => fabric.ecam_write(ecam(0, at(1, 0), SECONDARY_BUS), &[bus, bus]),
                        1 => set_command(
                            fabric,
                            bus,
                            device_end,
                            Command::MEMORY | Command::BUS_MASTER,
                        ),
                        2 => fabric.ecam_write(ecam(bus, device_end, msi + 2), &[1]),
                        3 => set_command(fabric, bus, device_end, Command::MEMORY),
                        _ => fabric.ecam_write(ecam(bus, device_end, control + 1), &[0x80]),
                    }
                }
            })
        });
        for processor in processors {
            processor.join().unwrap();
        }
        fabric.ecam_write(ecam(0, at(1, 0), SECONDARY_BUS), &[5, 5]);
        set_command(fabric, 5, device_end, Command::empty());
        // From here on nothing may arrive.
        machine.log.take();
        thread::yield_now();
        assert!(machine.log.take().is_empty());
        stop.store(true, Ordering::Relaxed);
    });
    assert!(machine.behind.port().refusal().is_some());
    assert_eq!(machine.behind.port().requester().bus(), 5);
    machine.behind.take_accesses();
}
