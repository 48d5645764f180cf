//! The function as a guest finds it: on a fabric, behind a root port.

use std::sync::Arc;

use vm_iommu_pci::{AcsFlags, BusId, DevFn, Fabric, PciFunction, PortKind, Windows};
use vm_iommu_spec::{PhysAddr, RequesterId};

use super::echo::Echo;
use crate::Features;
use crate::testing::Machine;

/// Memory space and bus mastering, in the command register.
const MEMORY_AND_MASTER: u16 = 0b110;

struct Guest {
    machine: Machine,
    fabric: Arc<Fabric>,
}

impl Guest {
    fn new() -> Self {
        let machine = Machine::new(Echo::new(&[16]), true);
        let windows = Windows {
            memory32: 0xc000_0000..=0xdfff_ffff,
            memory64: 0x40_0000_0000..=0x4f_ffff_ffff,
            io: 0xc000..=0xffff,
        };
        let upstream = machine.function.port().upstream().clone();
        let fabric = Fabric::new(0, windows, upstream).unwrap();
        let port = fabric
            .add_bridge(
                BusId::ROOT,
                DevFn::new(1, 0).unwrap(),
                PortKind::RootPort,
                AcsFlags::ISOLATION,
            )
            .unwrap();
        fabric
            .add(port, DevFn::new(0, 0).unwrap(), machine.function.clone())
            .unwrap();
        fabric.assign().unwrap();
        let guest = Self { machine, fabric };
        guest.write_config(4, &MEMORY_AND_MASTER.to_le_bytes());
        guest
    }

    fn write_config(&self, register: u16, data: &[u8]) {
        // Bus 1, device 0, function 0.
        self.fabric.ecam_write(1 << 20 | u64::from(register), data);
    }

    fn bar(&self, index: u8) -> u64 {
        let bars = self.machine.function.config().bars();
        bars.iter().find(|bar| bar.index == index).unwrap().address
    }

    fn read(&self, offset: u64) -> u8 {
        let mut data = [0];
        let found = self
            .fabric
            .mmio_read(PhysAddr(self.bar(0) + offset), &mut data);
        assert!(found);
        data[0]
    }
}

#[test]
fn requests_and_interrupts_pass_the_fabric() {
    let mut guest = Guest::new();
    guest.machine.start(Features::empty());
    assert_eq!(guest.read(20), 0xf, "status, by its address");
    guest.machine.send(0, &[b"hi"], &[2]);
    let doorbell = PhysAddr(guest.bar(0) + 0x3000);
    assert!(guest.fabric.mmio_write(doorbell, &[0, 0]));
    guest.machine.kick(0);
    assert_eq!(guest.machine.used(0), [(0, 2)]);
    let (_, message) = Machine::message(1);
    let requester = RequesterId::from_devfn(0, 1, 0);
    assert_eq!(guest.machine.msi.take(), [(requester, message)]);
}

#[test]
fn a_function_level_reset_stops_and_leaves_a_device_that_works() {
    let mut guest = Guest::new();
    guest.machine.start(Features::empty());
    guest.machine.send(0, &[b"hi"], &[2]);
    let bars = [guest.bar(0), guest.bar(2)];
    let control = guest.machine.function.config().pcie_capability().unwrap() + 8;
    guest.write_config(control, &0x8000_u16.to_le_bytes());
    guest.machine.kick(0);
    assert_eq!(guest.machine.used(0), []);
    assert_eq!(guest.machine.status(), 0);

    for (register, bar) in [(0x10, bars[0]), (0x18, bars[1])] {
        guest.write_config(register, &(bar as u32).to_le_bytes());
    }
    guest.write_config(0x14, &((bars[0] >> 32) as u32).to_le_bytes());
    guest.write_config(4, &MEMORY_AND_MASTER.to_le_bytes());
    guest.machine.start(Features::empty());
    guest.machine.send(0, &[b"hi"], &[2]);
    guest.machine.kick(0);
    assert_eq!(guest.machine.used(0), [(0, 2)]);
    assert_eq!(guest.read(20), 0xf);
}
