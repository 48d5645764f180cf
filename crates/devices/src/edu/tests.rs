//! `edu` as a guest sees it: in a fabric, through its BAR and config space.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vm_iommu_dma::{GuestRam, MsiSink, MsiVector, Upstream};
use vm_iommu_pci::registers::{COMMAND, Command as PciCommand};
use vm_iommu_pci::{BusId, DevFn, Fabric, IntxSink, PciFunction, Windows};
use vm_iommu_spec::{FaultReason, MsiMessage, PhysAddr, RequesterId};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

/// Interrupts that were raised: data of messages, and levels of the pin.
#[derive(Clone, Default)]
struct Raised(Arc<Mutex<Vec<Interrupt>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interrupt {
    Message(u32),
    Level(bool),
}

struct Vector(Raised, Mutex<Option<MsiMessage>>);

impl Raised {
    fn push(&self, interrupt: Interrupt) {
        self.0.lock().unwrap().push(interrupt);
    }

    fn take(&self) -> Vec<Interrupt> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl MsiSink for Raised {
    fn signal(&self, _requester: RequesterId, message: MsiMessage) {
        self.push(Interrupt::Message(message.data));
    }

    fn vector(&self) -> Box<dyn MsiVector> {
        Box::new(Vector(self.clone(), Mutex::default()))
    }
}

impl MsiVector for Vector {
    fn configure(&self, message: Option<(RequesterId, MsiMessage)>) {
        *self.1.lock().unwrap() = message.map(|(_, message)| message);
    }

    fn signal(&self) {
        if let Some(message) = *self.1.lock().unwrap() {
            self.0.push(Interrupt::Message(message.data));
        }
    }
}

impl IntxSink for Raised {
    fn set(&self, _line: u8, asserted: bool) {
        self.push(Interrupt::Level(asserted));
    }
}

const DEVFN: u8 = 1 << 3;
const RAM: usize = 0x4_0000;

struct Guest {
    fabric: Arc<Fabric>,
    edu: Arc<Edu>,
    ram: GuestRam,
    raised: Raised,
    bar: u64,
}

impl Guest {
    fn new() -> Self {
        Self::with(EduConfig::default())
    }

    fn with(config: EduConfig) -> Self {
        let raised = Raised::default();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
        let ram = GuestRam::new(memory);
        let upstream = Upstream {
            msi: Arc::new(raised.clone()),
            ..Upstream::direct(ram.clone())
        };
        let windows = Windows {
            memory32: 0xc000_0000..=0xdfff_ffff,
            memory64: 0x40_0000_0000..=0x40_ffff_ffff,
            io: 0xc000..=0xffff,
        };
        let fabric = Fabric::new(0, windows, upstream.clone()).unwrap();
        let edu = Arc::new(Edu::new(config, upstream).unwrap());
        fabric
            .add(BusId::ROOT, DevFn::from_raw(DEVFN), edu.clone())
            .unwrap();
        fabric.connect_intx(Arc::new(raised.clone()), [16, 17, 18, 19]);
        fabric.assign().unwrap();
        let bar = edu.config().bars()[0].address;
        let guest = Self {
            fabric,
            edu,
            ram,
            raised,
            bar,
        };
        guest.set_command(PciCommand::MEMORY | PciCommand::BUS_MASTER);
        guest
    }

    fn write_config(&self, register: u16, data: &[u8]) {
        let offset = u64::from(DEVFN) << 12 | u64::from(register);
        self.fabric.ecam_write(offset, data);
    }

    fn set_command(&self, command: PciCommand) {
        self.write_config(COMMAND, &command.bits().to_le_bytes());
    }

    fn enable_msi(&self) {
        let msi = self.edu.config().msi_capability().unwrap();
        self.write_config(msi + 4, &0xfee0_0000_u64.to_le_bytes());
        self.write_config(msi + 0xc, &[0x41, 0]);
        self.write_config(msi + 2, &[1]);
    }

    fn write(&self, offset: u64, value: u32) {
        let address = PhysAddr(self.bar + offset);
        assert!(self.fabric.mmio_write(address, &value.to_le_bytes()));
    }

    fn write_u64(&self, offset: u64, value: u64) {
        let address = PhysAddr(self.bar + offset);
        assert!(self.fabric.mmio_write(address, &value.to_le_bytes()));
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        assert!(
            self.fabric
                .mmio_read(PhysAddr(self.bar + offset), &mut data)
        );
        u32::from_le_bytes(data)
    }

    fn read_u64(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        assert!(
            self.fabric
                .mmio_read(PhysAddr(self.bar + offset), &mut data)
        );
        u64::from_le_bytes(data)
    }

    fn transfer(&self, source: u64, destination: u64, count: u64, command: u32) {
        self.write_u64(0x80, source);
        self.write_u64(0x88, destination);
        self.write_u64(0x90, count);
        self.write(0x98, command);
        assert_eq!(self.read(0x98) & 1, 0, "the transfer has ended");
    }

    fn fault(&self) -> Option<FaultReason> {
        self.edu.last_fault().map(|fault| fault.reason)
    }
}

#[test]
fn identification_and_liveness_read_as_documented() {
    let guest = Guest::new();
    assert_eq!(guest.edu.config().read_u32(0), 0x11e8_1234);
    assert_eq!(guest.read(0), 0x0100_00ed);
    guest.write(4, 0x1234_5678);
    assert_eq!(guest.read(4), !0x1234_5678);
}

#[test]
fn factorials_are_modulo_2_to_the_32() {
    let guest = Guest::new();
    let cases = [
        (0, 1),
        (1, 1),
        (5, 120),
        (12, 479_001_600),
        (13, 1_932_053_504),
        (33, 1 << 31),
        (34, 0),
        (u32::MAX, 0),
    ];
    for (n, expected) in cases {
        guest.write(8, n);
        assert_eq!(guest.read(0x20) & 1, 0);
        assert_eq!(guest.read(8), expected, "{n}!");
    }
    assert!(guest.raised.take().is_empty());
}

#[test]
fn a_factorial_interrupts_if_asked_to() {
    let guest = Guest::new();
    guest.enable_msi();
    guest.write(0x20, u32::MAX);
    assert_eq!(guest.read(0x20), 0x80);
    guest.write(8, 3);
    assert_eq!(guest.raised.take(), [Interrupt::Message(0x41)]);
    assert_eq!(guest.read(0x24), 1);
    guest.write(0x64, 1);
    assert_eq!(guest.read(0x24), 0);
}

#[test]
fn the_pin_is_held_until_all_causes_are_acknowledged() {
    let guest = Guest::new();
    guest.write(0x60, 0);
    assert!(guest.raised.take().is_empty());
    guest.write(0x60, 0b11);
    assert_eq!(guest.raised.take(), [Interrupt::Level(true)]);
    guest.write(0x64, 0b01);
    assert!(guest.raised.take().is_empty());
    guest.write(0x64, 0b10);
    assert_eq!(guest.raised.take(), [Interrupt::Level(false)]);
}

#[test]
fn each_raise_is_a_message_under_msi() {
    let guest = Guest::new();
    guest.enable_msi();
    guest.write(0x60, 1);
    guest.write(0x60, 1);
    assert_eq!(guest.raised.take(), [Interrupt::Message(0x41); 2]);
    guest.write(0x64, u32::MAX);
    assert!(guest.raised.take().is_empty());
}

#[test]
fn dma_copies_to_the_buffer_and_back() {
    let guest = Guest::new();
    guest.enable_msi();
    let memory = guest.ram.memory();
    let pattern: Vec<u8> = (0..4096_u32).map(|index| (index * 7 % 251) as u8).collect();
    memory.write_slice(&pattern, GuestAddress(0x1234)).unwrap();
    guest.transfer(0x1234, 0x4_0000, 4096, 0b001);
    assert!(guest.raised.take().is_empty());
    guest.transfer(0x4_0000, 0x3_0000, 4096, 0b111);
    assert_eq!(guest.raised.take(), [Interrupt::Message(0x41)]);
    assert_eq!(guest.read(0x24), 0x100);
    let mut copy = vec![0; 4096];
    memory
        .read_slice(&mut copy, GuestAddress(0x3_0000))
        .unwrap();
    assert_eq!(copy, pattern);
    assert_eq!(guest.fault(), None);
    // Part of the buffer.
    guest.transfer(0x4_0ff0, 0x100, 16, 0b011);
    memory
        .read_slice(&mut copy[..16], GuestAddress(0x100))
        .unwrap();
    assert_eq!(copy[..16], pattern[4080..]);
}

#[test]
fn an_invalidation_after_a_transfer_needs_no_system_call() {
    let guest = Guest::new();
    guest.transfer(0x1234, 0x4_0000, 16, 0b001);
    assert_eq!(guest.fault(), None);
    let epochs = &guest.edu.port().upstream().epochs;
    epochs.drain().wait();
    assert_eq!(epochs.counters().barriers, 0);
}

#[test]
fn a_refused_transfer_ends_with_one_interrupt_and_its_fault() {
    let guest = Guest::new();
    guest.enable_msi();
    guest.transfer(RAM as u64 - 8, 0x4_0000, 16, 0b101);
    assert_eq!(guest.raised.take(), [Interrupt::Message(0x41)]);
    assert_eq!(guest.fault(), Some(FaultReason::NotMemory));
    guest.transfer(0x4_0000, 0xc00_0000, 16, 0b011);
    assert_eq!(guest.fault(), Some(FaultReason::NotMemory));
    guest.transfer(0, 0x4_0000, 16, 0b001);
    assert_eq!(guest.fault(), None);
    guest.set_command(PciCommand::MEMORY);
    guest.transfer(0, 0x4_0000, 16, 0b101);
    assert_eq!(guest.fault(), Some(FaultReason::BusMasterDisabled));
    assert!(guest.raised.take().is_empty());
}

#[test]
fn transfers_beyond_the_buffer_do_not_begin() {
    let guest = Guest::new();
    let memory = guest.ram.memory();
    memory
        .write_slice(&[0xaa; 64], GuestAddress(0x100))
        .unwrap();
    for (buffer, count) in [
        (0x3_ffff, 1),
        (0x4_0000, 4097),
        (0x4_0ff8, 9),
        (0x4_1000, 1),
        (0, 16),
        (u64::MAX, 16),
        (0x4_0000, u64::MAX),
    ] {
        guest.transfer(buffer, 0x100, count, 0b011);
        guest.transfer(0x100, buffer, count, 0b001);
    }
    let mut bytes = [0; 64];
    memory.read_slice(&mut bytes, GuestAddress(0x100)).unwrap();
    assert_eq!(bytes, [0xaa; 64]);
    // Of nothing, anywhere in the buffer, it is fine.
    guest.transfer(0x4_1000, 0x100, 0, 0b011);
    assert_eq!(guest.fault(), None);
}

#[test]
fn address_bits_above_the_mask_are_not_driven() {
    let guest = Guest::with(EduConfig { dma_mask: 0xffff });
    let memory = guest.ram.memory();
    memory.write_slice(b"low", GuestAddress(0x2000)).unwrap();
    guest.transfer(0x77_0001_2000, 0x4_0000, 3, 0b001);
    guest.transfer(0x4_0000, 0xffff_0000_0000_3000, 3, 0b011);
    let mut bytes = [0; 3];
    memory.read_slice(&mut bytes, GuestAddress(0x3000)).unwrap();
    assert_eq!(&bytes, b"low");
}

#[test]
fn only_documented_sizes_reach_a_register() {
    let guest = Guest::new();
    guest.write(4, 7);
    assert_eq!(guest.read_u64(0), u64::MAX);
    let mut data = [0; 2];
    guest.fabric.mmio_read(PhysAddr(guest.bar), &mut data);
    assert_eq!(data, [0xff; 2]);
    guest.fabric.mmio_write(PhysAddr(guest.bar + 4), &[0; 8]);
    guest.fabric.mmio_write(PhysAddr(guest.bar + 4), &[0; 1]);
    assert_eq!(guest.read(4), !7);
    guest.write_u64(0x80, u64::MAX);
    assert_eq!(guest.read_u64(0x80), u64::MAX);
    guest.write(0x80, 5);
    assert_eq!(guest.read_u64(0x80), 5);
    assert_eq!(guest.read(0x84), u32::MAX);
    // The buffer is the device's own.
    assert_eq!(guest.read(0x4_0000), u32::MAX);
}

#[test]
fn a_function_reset_clears_registers_buffer_and_pin() {
    let guest = Guest::new();
    let memory = guest.ram.memory();
    memory.write_slice(b"secret", GuestAddress(0x100)).unwrap();
    guest.transfer(0x100, 0x4_0000, 6, 0b101);
    guest.write(4, 1);
    assert_eq!(guest.raised.take(), [Interrupt::Level(true)]);
    let control = guest.edu.config().pcie_capability().unwrap() + 8;
    guest.write_config(control, &0x8000_u16.to_le_bytes());
    assert_eq!(guest.raised.take(), [Interrupt::Level(false)]);
    guest.write_config(0x10, &(guest.bar as u32).to_le_bytes());
    guest.set_command(PciCommand::MEMORY | PciCommand::BUS_MASTER);
    assert_eq!(guest.read(4), u32::MAX);
    assert_eq!(guest.read(0x24), 0);
    guest.transfer(0x4_0000, 0x100, 6, 0b011);
    let mut bytes = [1; 6];
    memory.read_slice(&mut bytes, GuestAddress(0x100)).unwrap();
    assert_eq!(bytes, [0; 6]);
}

proptest! {
    #[test]
    fn any_accesses_are_safe_and_leave_no_transfer_running(
        accesses in proptest::collection::vec(
            (
                prop_oneof![Just(0x80_u64), Just(0x88), Just(0x90), Just(0x98), 0_u64..0xa0, any::<u64>()],
                prop_oneof![Just(0x4_0000_u64), 0_u64..0x5_0000, any::<u64>()],
                prop_oneof![Just(4_usize), Just(8), 0_usize..=8],
            ),
            1..64,
        )
    ) {
        let guest = Guest::new();
        for (offset, value, len) in accesses {
            let mut data = value.to_le_bytes();
            guest.edu.write_bar(0, offset, &data[..len]);
            guest.edu.read_bar(0, offset, &mut data[..len]);
            prop_assert_eq!(guest.read(0x98) & 1, 0);
        }
    }
}
