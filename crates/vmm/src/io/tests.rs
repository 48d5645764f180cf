//! The platform's small devices, one by one.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use vm_device::DevicePio;
use vm_device::bus::PioAddress;
use vm_iommu_spec::{Interrupt, MsiMessage, RequesterId};

use super::{BusBuilder, EscapeFilter, ExitDevice, FwCfg, PowerControl, SerialPort};
use crate::config::{MachineConfig, MemorySize};
use crate::interrupt::{IoApic, PinSink};
use crate::layout;
use crate::machine::{Ending, StopSwitch};

fn switch() -> StopSwitch {
    StopSwitch::new().unwrap()
}

#[test]
fn keys_pass_except_for_the_one_that_stops_the_machine() {
    let mut filter = EscapeFilter::default();
    assert_eq!(filter.feed(b"ls\n"), (b"ls\n".to_vec(), false));
    // Twice is once, and anything but X after it passes.
    assert_eq!(filter.feed(b"\x01\x01b"), (b"\x01b".to_vec(), false));
    assert_eq!(filter.feed(b"\x01c"), (b"c".to_vec(), false));
    // The two keys may come apart.
    assert_eq!(filter.feed(b"a\x01"), (b"a".to_vec(), false));
    assert_eq!(filter.feed(b"xyz"), (Vec::new(), true));
}

#[test]
fn nobody_answers_with_ones_and_accesses_do_not_straddle_devices() {
    let mut builder = BusBuilder::default();
    let device = Arc::new(FwCfg::new(&MachineConfig::default()));
    builder
        .ports(layout::FW_CFG, 2, Arc::clone(&device) as _)
        .unwrap();
    assert!(builder.ports(layout::FW_CFG + 1, 1, device).is_err());
    let bus = builder.build();
    for (port, len) in [(0x80_u16, 1_usize), (layout::FW_CFG + 1, 2), (0xffff, 4)] {
        let mut data = [0; 4];
        bus.read_port(port, &mut data[..len]);
        assert!(data[..len].iter().all(|byte| *byte == 0xff), "{port:#x}");
        bus.write_port(port, &data[..len]);
    }
    let mut data = [0; 8];
    bus.read_memory(u64::MAX - 3, &mut data);
    assert_eq!(data, [0xff; 8]);
    bus.write_memory(0xfec0_0000, &data);
    let counters = bus.counters();
    assert_eq!(
        (counters.unclaimed_ports, counters.unclaimed_memory),
        (6, 2)
    );
}

#[test]
fn the_firmware_configuration_tells_processors_and_memory_then_zeros() {
    let config = MachineConfig {
        cpus: 3,
        memory: MemorySize::from_bytes(512 << 20).unwrap(),
        ..MachineConfig::default()
    };
    let device = FwCfg::new(&config);
    let base = PioAddress(layout::FW_CFG);
    let item = |selector: u16, count: usize| {
        device.pio_write(base, 0, &selector.to_le_bytes());
        let mut bytes = vec![0xaa; count];
        for byte in bytes.chunks_mut(1) {
            device.pio_read(base, 1, byte);
        }
        bytes
    };
    assert_eq!(item(0, 4), b"QEMU");
    assert_eq!(item(1, 4), [1, 0, 0, 0]);
    assert_eq!(item(3, 8), (512_u64 << 20).to_le_bytes());
    assert_eq!(item(5, 4), [3, 0, 0, 0]);
    assert_eq!(item(0xf, 2), [3, 0]);
    assert_eq!(item(0x8000, 2), [0, 0]);
}

#[test]
fn the_exit_device_takes_any_width_and_the_first_reason_counts() {
    for (data, value) in [
        (vec![7], 7),
        (vec![1, 2], 0x201),
        (vec![1, 2, 3, 4], 0x0403_0201),
    ] {
        let stop = switch();
        let device = ExitDevice::new(stop.clone());
        device.pio_write(PioAddress(0xf4), 1, &[9]);
        assert!(!stop.is_thrown());
        device.pio_write(PioAddress(0xf4), 0, &data);
        assert!(stop.is_thrown());
        stop.stop(Ending::PowerOff);
        assert_eq!(stop.wait(), Ending::ExitDevice { value });
    }
    assert_eq!(Ending::ExitDevice { value: u32::MAX }.exit_code(), 0xff);
    assert_eq!(Ending::ExitDevice { value: 0 }.exit_code(), 1);
}

#[test]
fn only_soft_off_and_the_reset_value_end_the_machine() {
    let base = PioAddress(layout::ACPI_SLEEP_CONTROL);
    let after = |offset: u16, value: u8| {
        let stop = switch();
        PowerControl::new(stop.clone()).pio_write(base, offset, &[value]);
        stop.is_thrown().then(|| stop.wait())
    };
    assert_eq!(after(0, 5 << 2 | 1 << 5), Some(Ending::PowerOff));
    assert_eq!(after(0, 5 << 2), None);
    assert_eq!(after(0, 3 << 2 | 1 << 5), None);
    assert_eq!(after(1, 5 << 2 | 1 << 5), None);
    assert_eq!(after(2, layout::ACPI_RESET_VALUE), Some(Ending::Reset));
    assert_eq!(after(2, 0), None);
}

#[derive(Default)]
struct Edges(Mutex<usize>);

impl PinSink for Edges {
    fn raise(&self, _requester: RequesterId, message: MsiMessage) -> Option<Interrupt> {
        *self.0.lock().unwrap() += 1;
        Some(Interrupt::from_compatibility(message))
    }

    fn follow(&self, _pin: usize, _source: Option<(RequesterId, MsiMessage)>) {}
}

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_serial_port_takes_what_fits_and_says_when_there_is_room_again() {
    use vm_device::DeviceMmio;
    use vm_device::bus::MmioAddress;

    let edges = Arc::new(Edges::default());
    let apic = IoApic::new(
        RequesterId::from_source_id(0, layout::IOAPIC_SOURCE_ID),
        Arc::clone(&edges) as _,
    );
    let write = |register: u32, value: u32| {
        apic.mmio_write(MmioAddress(layout::IOAPIC), 0, &register.to_le_bytes());
        apic.mmio_write(MmioAddress(layout::IOAPIC), 0x10, &value.to_le_bytes());
    };
    write(0x10 + 2 * layout::COM1_IRQ, 0x40);
    let screen = Screen::default();
    let line = apic.line(layout::COM1_IRQ).unwrap();
    let port = SerialPort::new(line, Box::new(screen.clone())).unwrap();
    let base = PioAddress(layout::COM1);

    assert!(port.first_byte().is_none());
    port.pio_write(base, 0, b"!");
    assert!(port.first_byte().is_some());
    assert_eq!(*screen.0.lock().unwrap(), b"!");

    // Received data available interrupts are on.
    port.pio_write(base, 1, &[1]);
    let room = port.capacity();
    assert_eq!(port.receive(&vec![b'k'; room + 5]), room);
    assert_eq!(*edges.0.lock().unwrap(), 1);
    assert!(port.room().read().is_err());
    for _ in 0..room {
        let mut byte = [0];
        port.pio_read(base, 0, &mut byte);
        assert_eq!(byte, [b'k']);
    }
    port.room().read().unwrap();
    assert_eq!(port.capacity(), room);
}
