//! The I/O APIC, register by register.

use std::sync::{Arc, Mutex};

use vm_device::DeviceMmio;
use vm_device::bus::MmioAddress;
use vm_iommu_spec::{Interrupt, MsiMessage, RequesterId, TriggerMode};

use crate::interrupt::{IoApic, PinSink, Redirection};
use crate::layout;

const BASE: MmioAddress = MmioAddress(layout::IOAPIC);

/// Takes every message unless told to refuse, and hands out a vector of its own.
#[derive(Default)]
struct Recorder {
    raised: Mutex<Vec<MsiMessage>>,
    followed: Mutex<Vec<(usize, Option<MsiMessage>)>>,
    refuse: Mutex<bool>,
    /// The vector that remapping yields; the message's own if not set.
    vector: Mutex<Option<u8>>,
}

impl PinSink for Recorder {
    fn raise(&self, requester: RequesterId, message: MsiMessage) -> Option<Interrupt> {
        assert_eq!(requester.to_string(), "0000:ff:00.0");
        self.raised.lock().unwrap().push(message);
        let mut interrupt = Interrupt::from_compatibility(message);
        if let Some(vector) = *self.vector.lock().unwrap() {
            interrupt.vector = vector;
        }
        (!*self.refuse.lock().unwrap()).then_some(interrupt)
    }

    fn follow(&self, pin: usize, source: Option<(RequesterId, MsiMessage)>) {
        let message = source.map(|(_, message)| message);
        self.followed.lock().unwrap().push((pin, message));
    }
}

impl Recorder {
    fn count(&self) -> usize {
        self.raised.lock().unwrap().len()
    }
}

fn apic() -> (Arc<IoApic>, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    (
        IoApic::new(
            RequesterId::from_source_id(0, layout::IOAPIC_SOURCE_ID),
            Arc::clone(&recorder) as _,
        ),
        recorder,
    )
}

fn write(apic: &IoApic, register: u8, value: u32) {
    apic.mmio_write(BASE, 0, &u32::from(register).to_le_bytes());
    apic.mmio_write(BASE, 0x10, &value.to_le_bytes());
}

fn read(apic: &IoApic, register: u8) -> u32 {
    let mut data = [0; 4];
    apic.mmio_write(BASE, 0, &[register]);
    apic.mmio_read(BASE, 0x10, &mut data);
    u32::from_le_bytes(data)
}

fn set(apic: &IoApic, pin: u8, entry: u64) {
    write(apic, 0x11 + 2 * pin, (entry >> 32) as u32);
    write(apic, 0x10 + 2 * pin, entry as u32);
}

fn remote_irr(apic: &IoApic, pin: usize) -> bool {
    apic.entry(pin).unwrap().remote_irr()
}

#[test]
fn it_is_a_version_20_with_24_masked_pins() {
    let (apic, _) = apic();
    assert_eq!(read(&apic, 1), 0x0017_0020);
    assert_eq!(read(&apic, 0), 0);
    for pin in 0..24 {
        assert_eq!(read(&apic, 0x10 + 2 * pin), 0x1_0000);
        assert_eq!(read(&apic, 0x11 + 2 * pin), 0);
    }
    // Past the last pin, and between the registers.
    assert_eq!(read(&apic, 0x40), u32::MAX);
    assert_eq!(read(&apic, 0x05), u32::MAX);
    write(&apic, 0xff, 0);
}

#[test]
fn only_the_writable_bits_of_an_entry_are_written() {
    let mut entry = Redirection::default();
    entry.write_half(false, u32::MAX);
    entry.write_half(true, u32::MAX);
    assert_eq!(entry.raw(), 0xffff_0000_0001_afff);
    entry.write_half(false, 0);
    assert_eq!(entry.raw(), 0xffff_0000_0000_0000);
}

#[test]
fn the_register_index_takes_byte_accesses_and_data_only_whole_ones() {
    let (apic, _) = apic();
    apic.mmio_write(BASE, 0, &[0x10]);
    apic.mmio_write(BASE, 0x10, &[0x33, 0x44]);
    assert_eq!(read(&apic, 0x10), 0x1_0000);
    let mut select = [0; 4];
    apic.mmio_read(BASE, 0, &mut select);
    assert_eq!(select, [0x10, 0, 0, 0]);
}

#[test]
fn an_entry_in_compatibility_format_becomes_its_message() {
    let mut entry = Redirection::default();
    // Destination 5, logical, level, lowest priority, vector 0x61.
    entry.write_half(true, 5 << 24);
    entry.write_half(false, 0x8961);
    let message = entry.message();
    assert_eq!(message.address, 0xfee0_5004);
    assert_eq!(message.data, 0xc161);
    let interrupt = Interrupt::from_compatibility(message);
    assert_eq!((interrupt.destination, interrupt.vector), (5, 0x61));
    assert_eq!(interrupt.trigger_mode, TriggerMode::Level);
}

#[test]
fn an_entry_in_remappable_format_carries_its_index() {
    let mut entry = Redirection::default();
    // Index 0x8123: bits 14:0 in 63:49, bit 15 in 11; format in 48; vector 4 for the end of it.
    entry.write_half(true, 0x0123 << 17 | 1 << 16);
    entry.write_half(false, 1 << 11 | 4);
    let message = entry.message();
    assert_eq!(message.address, 0xfee0_0000 | 0x0123 << 5 | 1 << 4 | 1 << 2);
    assert_eq!(message.data, 4);
}

#[test]
fn an_edge_is_sent_once_and_lost_while_masked() {
    let (apic, recorder) = apic();
    let line = apic.line(4).unwrap();
    line.pulse();
    set(&apic, 4, 0x40);
    assert_eq!(recorder.count(), 0);
    line.set(true);
    line.set(true);
    assert_eq!(recorder.count(), 1);
    line.set(false);
    line.pulse();
    assert_eq!(recorder.count(), 2);
    assert!(!remote_irr(&apic, 4));
    assert!(apic.line(24).is_none());
}

#[test]
fn a_level_is_sent_again_after_its_end_while_asserted() {
    let (apic, recorder) = apic();
    let line = apic.line(9).unwrap();
    set(&apic, 9, 0x8050);
    line.set(true);
    assert!(remote_irr(&apic, 9));
    line.set(false);
    line.set(true);
    assert_eq!(recorder.count(), 1, "not before the end");
    apic.end_of_interrupt(0x51);
    assert_eq!(recorder.count(), 1, "another vector's end");
    apic.end_of_interrupt(0x50);
    assert_eq!(recorder.count(), 2);
    line.set(false);
    apic.end_of_interrupt(0x50);
    assert_eq!(recorder.count(), 2);
    assert!(!remote_irr(&apic, 9));
}

#[test]
fn a_masked_level_waits_for_its_unmasking() {
    let (apic, recorder) = apic();
    let line = apic.line(9).unwrap();
    set(&apic, 9, 0x1_8050);
    line.set(true);
    assert_eq!(recorder.count(), 0);
    set(&apic, 9, 0x8050);
    assert_eq!(recorder.count(), 1);
}

#[test]
fn a_processors_end_names_the_remapped_vector_and_the_register_the_entrys() {
    let (apic, recorder) = apic();
    *recorder.vector.lock().unwrap() = Some(0x77);
    let line = apic.line(9).unwrap();
    // As a kernel writes it: the vector field is the pin's number.
    set(&apic, 9, 0x8009);
    line.set(true);
    line.set(false);
    apic.end_of_interrupt(9);
    assert!(remote_irr(&apic, 9));
    apic.end_of_interrupt(0x77);
    assert!(!remote_irr(&apic, 9));
    line.set(true);
    line.set(false);
    apic.mmio_write(BASE, 0x40, &0x77_u32.to_le_bytes());
    assert!(remote_irr(&apic, 9));
    apic.mmio_write(BASE, 0x40, &9_u32.to_le_bytes());
    assert!(!remote_irr(&apic, 9));
}

#[test]
fn a_refused_level_awaits_no_end() {
    let (apic, recorder) = apic();
    *recorder.refuse.lock().unwrap() = true;
    let line = apic.line(9).unwrap();
    set(&apic, 9, 0x8050);
    line.set(true);
    assert_eq!(recorder.count(), 1);
    assert!(!remote_irr(&apic, 9));
}

#[test]
fn an_edge_triggered_write_drops_remote_irr() {
    let (apic, _) = apic();
    let line = apic.line(9).unwrap();
    set(&apic, 9, 0x8050);
    line.set(true);
    line.set(false);
    assert!(remote_irr(&apic, 9));
    write(&apic, 0x10 + 18, 0x50);
    write(&apic, 0x10 + 18, 0x8050);
    assert!(!remote_irr(&apic, 9));
}

#[test]
fn level_pins_are_followed_for_their_end_also_while_masked_in_service() {
    let (apic, recorder) = apic();
    set(&apic, 9, 0x8050);
    set(&apic, 4, 0x40);
    write(&apic, 0x10 + 18, 0x1_8050);
    let followed = recorder.followed.lock().unwrap();
    let last = |pin| followed.iter().rev().find(|(of, _)| *of == pin).unwrap().1;
    assert_eq!(last(9).unwrap().data, 0xc050);
    assert_eq!(last(4), None);
}
