use std::sync::Arc;

use vm_iommu_pci::PciFunction;

use super::echo::Echo;
use crate::testing::Machine;
use crate::{Features, NewError, VirtioPci};

fn started() -> Machine {
    let mut machine = Machine::new(Echo::new(&[16, 16]), true);
    machine.start(Features::empty());
    machine
}

#[test]
fn capabilities_lead_to_every_structure() {
    let machine = started();
    let config = machine.function.config();
    assert_eq!(config.read_u32(0), 0x1044_1af4);
    assert_eq!(config.read_u8(8), 1, "revision");
    let mut at = u16::from(config.read_u8(0x34));
    let mut found = Vec::new();
    while at != 0 {
        if config.read_u8(at) == 9 {
            let word = |offset| config.read_u32(at + offset);
            found.push((config.read_u8(at + 3), word(8), word(12)));
            if config.read_u8(at + 3) == 2 {
                assert_eq!(word(16), 4, "notify_off_multiplier");
            }
        }
        at = config.read_u8(at + 1).into();
    }
    assert_eq!(
        found,
        [
            (1, 0x0000, 60),
            (2, 0x3000, 8),
            (3, 0x1000, 1),
            (4, 0x2000, 4),
            (5, 0, 0)
        ]
    );
}

#[test]
fn the_configuration_is_read_and_written_within_its_length() {
    let machine = started();
    assert_eq!(machine.read(0x2000, 4), 0x0403_0201);
    assert_eq!(machine.read(0x2002, 4), 0x0403);
    assert_eq!(machine.read(0x2004, 4), 0);
    machine.write(0x2003, 2, 0xaabb);
    assert_eq!(machine.read(0x2000, 4), 0xbb03_0201);
    machine.write(0x2004, 4, 0xffff_ffff);
    assert_eq!(machine.read(0x2ffc, 4), 0);
}

#[test]
fn a_changed_configuration_interrupts_and_counts() {
    let machine = started();
    let generation = machine.read(21, 1);
    machine.function.config_changed();
    assert_eq!(machine.read(21, 1), generation + 1);
    assert_eq!(machine.msi.take(), [Machine::message(0)]);
    assert_eq!(machine.read(0x1000, 1), 2, "ISR");
    assert_eq!(machine.read(0x1000, 1), 0, "a read clears it");
}

#[test]
fn a_queue_interrupts_by_its_own_vector() {
    let mut machine = started();
    for queue in [0, 1] {
        machine.send(queue, &[b"x"], &[1]);
        machine.kick(queue);
        assert_eq!(machine.msi.take(), [Machine::message(queue + 1)]);
        assert_eq!(machine.read(0x1000, 1), 0, "no ISR with MSI-X");
    }
    machine.write(22, 2, 1);
    machine.write(26, 2, 0xffff);
    machine.send(1, &[b"x"], &[1]);
    machine.kick(1);
    assert_eq!(machine.used(1).len(), 2);
    assert_eq!(machine.msi.take(), []);
}

#[test]
fn without_msi_x_the_isr_and_the_wired_pin_tell() {
    let mut machine = started();
    let capability = machine.function.config().msix_capability().unwrap();
    machine.function.write_config(capability + 2, &[0, 0]);
    // Interrupt Status, in the status register.
    let pin = |machine: &Machine| machine.function.config().read_u16(6) & 1 << 3 != 0;
    machine.send(0, &[b"x"], &[1]);
    machine.kick(0);
    assert!(pin(&machine));
    machine.function.config_changed();
    assert_eq!(machine.read(0x1000, 1), 3);
    assert!(!pin(&machine), "a read of the ISR lowers it");
    assert_eq!(machine.msi.take(), []);
    machine.function.config_changed();
    assert!(pin(&machine));
    machine.write(20, 1, 0);
    assert!(!pin(&machine));
}

#[test]
fn doorbells_are_the_notification_addresses() {
    let machine = started();
    let doorbells = machine.function.doorbells();
    assert_eq!(doorbells.len(), 2);
    for (queue, doorbell) in (0_u16..).zip(&doorbells) {
        let offset = 0x3000 + 4 * u64::from(queue);
        assert_eq!((doorbell.bar, doorbell.offset), (0, offset));
        assert_eq!((doorbell.len, doorbell.datamatch), (2, None));
        assert!(Arc::ptr_eq(
            &doorbell.event,
            machine.function.event(queue).unwrap()
        ));
        // DRIVER_OK had rung it.
        assert_eq!(doorbell.event.read().unwrap(), 1);
        // Any width may ring it, but only at its own address.
        machine.write(offset + 1, 1, 0);
        assert!(doorbell.event.read().is_err());
        machine.write(offset, 4, 0);
        assert_eq!(doorbell.event.read().unwrap(), 1);
    }
    machine.write(0x3008, 2, 2);
    assert!(machine.function.event(2).is_none());
}

#[test]
fn the_window_in_config_space_reaches_the_structures() {
    let machine = started();
    let config = machine.function.config();
    let mut window = u16::from(config.read_u8(0x34));
    while !(config.read_u8(window) == 9 && config.read_u8(window + 3) == 5) {
        window = config.read_u8(window + 1).into();
    }
    let show = |bar: u8, offset: u32, len: u32| {
        machine.function.write_config(window + 4, &[bar]);
        machine
            .function
            .write_config(window + 8, &offset.to_le_bytes());
        machine
            .function
            .write_config(window + 12, &len.to_le_bytes());
    };
    let read = || {
        let mut data = [0; 4];
        machine.function.read_config(window + 16, &mut data);
        u32::from_le_bytes(data)
    };
    show(0, 18, 2);
    assert_eq!(read(), 2, "num_queues");
    show(0, 20, 1);
    assert_eq!(read(), 0xf, "status");
    show(0, 0x2000, 4);
    machine
        .function
        .write_config(window + 16, &0x0807_0605_u32.to_le_bytes());
    assert_eq!(machine.read(0x2000, 4), 0x0807_0605);
    show(0, 22, 2);
    machine
        .function
        .write_config(window + 16, &[1, 0, 0xff, 0xff]);
    assert_eq!(machine.read(22, 2), 1);
    // What names no register.
    for (bar, offset, len) in [
        (1, 0, 4),
        (2, 0, 4),
        (0, 0, 0),
        (0, 0, 3),
        (0, 0, 8),
        (0, 2, 4),
        (0, 0x4000, 4),
        (0, u32::MAX, 4),
        (0, 0x2000, u32::MAX),
    ] {
        show(bar, offset, len);
        assert_eq!(read(), 0, "{bar} {offset:#x} {len}");
        machine.function.write_config(window + 16, &[0xff; 4]);
    }
    assert_eq!(machine.read(0x2000, 4), 0x0807_0605);
    assert_eq!(machine.status(), 0xf);
}

#[test]
fn impossible_devices_are_refused() {
    let port = Arc::clone(started().function.port());
    for sizes in [&[][..], &[0], &[48], &[16; 1025]] {
        let refused = VirtioPci::new(Echo::new(sizes), port.clone(), Features::empty());
        assert!(matches!(refused, Err(NewError::Queues { .. })));
    }
}
