//! MSI, MSI-X and the wired pin.

use super::*;

/// A probe on the root bus, bus mastering on.
struct Device {
    machine: Machine,
    bar: u64,
}

const ADDRESS: u64 = 0xfee0_1000;

impl Device {
    fn new() -> Self {
        let machine = Machine::new();
        set_command(
            &machine.fabric,
            0,
            at(2, 0),
            Command::MEMORY | Command::BUS_MASTER,
        );
        let bar = machine.bar(&machine.beside, 0).0;
        Self { machine, bar }
    }

    fn config(&self) -> &ConfigSpace {
        self.machine.beside.config()
    }

    fn signal(&self, vector: u16) {
        self.config().interrupts().signal(vector);
    }

    /// The data of the messages raised since the last call.
    fn raised(&self) -> Vec<u32> {
        let log = self.machine.log.take();
        log.iter().map(|(_, message)| message.data).collect()
    }

    fn write_config(&self, register: u16, data: &[u8]) {
        self.machine
            .fabric
            .ecam_write(ecam(0, at(2, 0), register), data);
    }

    fn write_table(&self, offset: u64, data: &[u8]) {
        assert!(
            self.machine
                .fabric
                .mmio_write(PhysAddr(self.bar + offset), data)
        );
    }

    fn read_bar(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        assert!(
            self.machine
                .fabric
                .mmio_read(PhysAddr(self.bar + offset), &mut data)
        );
        u64::from_le_bytes(data)
    }

    fn msix_control(&self, control: u8) {
        let register = self.config().msix_capability().unwrap() + 3;
        self.write_config(register, &[control]);
    }

    fn set_entry(&self, vector: u64, data: u32) {
        self.write_table(vector * 16, &ADDRESS.to_le_bytes());
        self.write_table(vector * 16 + 8, &data.to_le_bytes());
        self.write_table(vector * 16 + 12, &[0; 4]);
    }

    fn enable_msi(&self, vectors_log2: u8) {
        let msi = self.config().msi_capability().unwrap();
        self.write_config(msi + 4, &ADDRESS.to_le_bytes());
        self.write_config(msi + 0xc, &0x4040_u16.to_le_bytes());
        self.write_config(msi + 2, &[vectors_log2 << 4 | 1]);
    }
}

const ENABLE: u8 = 0x80;
const FUNCTION_MASK: u8 = 0x40;

#[test]
fn msix_raises_the_message_of_the_entry() {
    let device = Device::new();
    device.set_entry(1, 0x31);
    device.signal(1);
    assert!(device.raised().is_empty());
    assert_eq!(device.read_bar(0x8000), 0, "lost, not pending");
    device.msix_control(ENABLE);
    device.signal(1);
    let message = MsiMessage {
        address: ADDRESS,
        data: 0x31,
    };
    let requester = RequesterId::new(0, 0, 2, 0).unwrap();
    assert_eq!(device.machine.log.take(), [(requester, message)]);
    device.signal(3);
    device.signal(u16::MAX);
    assert!(device.raised().is_empty());
}

#[test]
fn a_masked_vector_is_pending_until_unmasked() {
    let device = Device::new();
    device.set_entry(0, 0x30);
    device.set_entry(2, 0x32);
    device.msix_control(ENABLE);
    device.write_table(2 * 16 + 12, &[1, 0, 0, 0]);
    device.signal(2);
    device.signal(2);
    device.signal(0);
    assert_eq!(device.raised(), [0x30]);
    assert_eq!(device.read_bar(0x8000), 1 << 2);
    // A new message while masked is the one that is raised.
    device.write_table(2 * 16 + 8, &0x52_u32.to_le_bytes());
    device.write_table(2 * 16 + 12, &[0; 4]);
    assert_eq!(device.raised(), [0x52]);
    assert_eq!(device.read_bar(0x8000), 0);
}

#[test]
fn the_function_mask_holds_every_vector_back() {
    let device = Device::new();
    device.set_entry(0, 0x30);
    device.set_entry(1, 0x31);
    device.msix_control(ENABLE | FUNCTION_MASK);
    device.signal(1);
    device.signal(0);
    assert!(device.raised().is_empty());
    assert_eq!(device.read_bar(0x8000), 3);
    device.write_table(16 + 12, &[1, 0, 0, 0]);
    device.msix_control(ENABLE);
    assert_eq!(device.raised(), [0x30]);
    assert_eq!(device.read_bar(0x8000), 2);
}

#[test]
fn the_msix_table_takes_aligned_doublewords_and_quadwords() {
    let device = Device::new();
    assert_eq!(device.read_bar(8), 1 << 32, "masked at power-on");
    device.write_table(0, &[0xff; 4]);
    assert_eq!(device.read_bar(0), 0xffff_fffc);
    device.write_table(8, &[0xff; 8]);
    assert_eq!(device.read_bar(8), 0x1_ffff_ffff);
    for (offset, data) in [(0, &[0; 1][..]), (4, &[0; 2]), (2, &[0; 4]), (4, &[0; 8])] {
        device.write_table(offset, data);
    }
    device.write_table(0x8000, &[0xff; 8]);
    assert_eq!(device.read_bar(0), 0xffff_fffc);
    assert_eq!(device.read_bar(8), 0x1_ffff_ffff);
    assert_eq!(device.read_bar(0x8000), 0);
    assert_eq!(device.machine.beside.take_accesses(), []);
    // One past the table belongs to the device.
    assert_eq!(device.read_bar(48), 0x5a5a_5a5a_5a5a_5a5a);
}

#[test]
fn msi_replaces_the_low_bits_by_the_vector() {
    let device = Device::new();
    device.enable_msi(1);
    device.signal(0);
    device.signal(1);
    device.signal(3);
    assert_eq!(device.raised(), [0x4040, 0x4041, 0x4041]);
    // More than the function is capable of counts as what it is.
    device.enable_msi(7);
    device.signal(3);
    assert_eq!(device.raised(), [0x4043]);
}

#[test]
fn msi_vectors_are_masked_one_by_one() {
    let device = Device::new();
    device.enable_msi(2);
    let msi = device.config().msi_capability().unwrap();
    device.write_config(msi + 0x10, &[0b0100, 0, 0, 0]);
    device.signal(2);
    device.signal(1);
    assert_eq!(device.raised(), [0x4041]);
    assert_eq!(device.config().read_u32(msi + 0x14), 0b0100);
    device.write_config(msi + 0x10, &[0; 4]);
    assert_eq!(device.raised(), [0x4042]);
    assert_eq!(device.config().read_u32(msi + 0x14), 0);
}

#[test]
fn interrupts_need_bus_mastering() {
    let device = Device::new();
    device.enable_msi(0);
    set_command(&device.machine.fabric, 0, at(2, 0), Command::MEMORY);
    device.signal(0);
    assert!(device.raised().is_empty());
    set_command(
        &device.machine.fabric,
        0,
        at(2, 0),
        Command::MEMORY | Command::BUS_MASTER,
    );
    assert!(device.raised().is_empty());
    device.signal(0);
    assert_eq!(device.raised(), [0x4040]);
}

#[test]
fn interrupts_come_from_the_live_requester() {
    let machine = Machine::new();
    let fabric = &machine.fabric;
    set_command(fabric, 1, at(0, 0), Command::BUS_MASTER);
    let msi = machine.behind.config().msi_capability().unwrap();
    fabric.ecam_write(ecam(1, at(0, 0), msi + 2), &[1]);
    let raise = || {
        machine.behind.config().interrupts().signal(0);
        machine
            .log
            .take()
            .first()
            .map(|(requester, _)| requester.bus())
    };
    assert_eq!(raise(), Some(1));
    fabric.ecam_write(ecam(0, at(1, 0), SECONDARY_BUS), &[0x55, 0x55]);
    assert_eq!(raise(), Some(0x55));
    set_command(fabric, 0, at(1, 0), Command::MEMORY);
    assert_eq!(raise(), None);
}

#[derive(Default)]
struct Lines(Mutex<Vec<(u8, bool)>>);

impl IntxSink for Lines {
    fn set(&self, line: u8, asserted: bool) {
        self.0.lock().unwrap().push((line, asserted));
    }
}

#[test]
fn the_pin_is_wired_by_device_number_and_shared() {
    let machine = Machine::new();
    let lines = Arc::new(Lines::default());
    machine.fabric.connect_intx(lines.clone(), [16, 17, 18, 19]);
    machine.fabric.assign().unwrap();
    let changes = || std::mem::take(&mut *lines.0.lock().unwrap());
    let (behind, beside) = (machine.behind.config(), machine.beside.config());
    // INTA of 02.0 is INTC of the host bridge; INTA of 00.0 behind 01.0 is INTB.
    assert_eq!(beside.read_u8(INTERRUPT_LINE), 18);
    assert_eq!(behind.read_u8(INTERRUPT_LINE), 17);
    beside.interrupts().set_level(true);
    beside.interrupts().set_level(true);
    assert_eq!(beside.read_u16(STATUS) & 8, 8);
    assert_eq!(changes(), [(2, true)]);
    let third = Probe::new(endpoint(), upstream(&machine.log));
    machine
        .fabric
        .add(BusId::ROOT, at(6, 0), third.clone())
        .unwrap();
    third.config().interrupts().set_level(true);
    beside.interrupts().set_level(false);
    assert_eq!(changes(), []);
    third.config().interrupts().set_level(false);
    assert_eq!(changes(), [(2, false)]);
}

#[test]
fn the_pin_is_silent_under_msi_and_interrupt_disable() {
    let device = Device::new();
    let lines = Arc::new(Lines::default());
    device
        .machine
        .fabric
        .connect_intx(lines.clone(), [16, 17, 18, 19]);
    let changes = || std::mem::take(&mut *lines.0.lock().unwrap());
    device.config().interrupts().set_level(true);
    assert_eq!(changes(), [(2, true)]);
    device.enable_msi(0);
    assert_eq!(changes(), [(2, false)]);
    let msi = device.config().msi_capability().unwrap();
    device.write_config(msi + 2, &[0]);
    assert_eq!(changes(), [(2, true)]);
    let disable = Command::INTX_DISABLE | Command::MEMORY;
    set_command(&device.machine.fabric, 0, at(2, 0), disable);
    assert_eq!(changes(), [(2, false)]);
    assert_eq!(device.config().read_u16(STATUS) & 8, 8);
}
