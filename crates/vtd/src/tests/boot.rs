//! The register accesses of Linux's driver while it boots, and what has to come of them.

use vm_iommu_dma::InterruptRemapper;
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::descriptor::raw;
use vm_iommu_spec::vtd::{Irte, RemappableAddress, RootEntry};
use vm_iommu_spec::{MsiMessage, PhysAddr};

use super::machine::*;
use crate::{AddressWidths, VtdConfig};

/// 39 bits, one fault record, neither coherent walks nor 32-bit destinations.
fn traced_config() -> VtdConfig {
    VtdConfig {
        address_widths: AddressWidths::BITS_39,
        fault_records: 1,
        coherent: false,
        snoop_control: false,
        extended_interrupt_mode: false,
        ..VtdConfig::default()
    }
}

enum Step {
    /// Offset, size, value expected.
    Read(u16, u8, u64),
    /// Offset, size, value.
    Write(u16, u8, u64),
    /// A descriptor with a wait behind it is put where the next tail write says.
    Queue([u64; 2]),
}

use Step::{Queue, Read, Write};

#[test]
fn linux_boot_sequence_reads_what_hardware_answers() {
    let machine = Machine::new(traced_config());
    let iec = [raw::InterruptEntryInvalidate::new().into_bits(), 0];
    let queue = 0x17_6000;
    let root = 0xbb_a000;
    let steps = [
        Read(0x08, 8, 0x00d2_008c_2226_0206),
        Read(0x10, 8, 0x00f0_0f4a),
        Read(0x00, 4, 0x10),
        Read(0x1c, 4, 0),
        Read(0x34, 4, 0),
        Read(0x1c, 4, 0),
        Write(0x88, 4, 0),
        Write(0x90, 8, queue),
        Write(0x18, 4, 0x0400_0000),
        Read(0x1c, 4, 0x0400_0000),
        Write(0xb8, 8, 0x80_000f),
        Write(0x18, 4, 0x0500_0000),
        Read(0x1c, 4, 0x0500_0000),
        Queue(iec),
        Write(0x88, 4, 0x20),
        Write(0x18, 4, 0x0600_0000),
        Read(0x1c, 4, 0x0700_0000),
        Queue(iec),
        Write(0x88, 4, 0x40),
        Queue(iec),
        Write(0x88, 4, 0x60),
        Read(0x1c, 4, 0x0700_0000),
        Write(0x20, 8, root),
        Write(0x18, 4, 0x4600_0000),
        Read(0x1c, 4, 0x4700_0000),
        Queue(context_global()),
        Write(0x88, 4, 0x80),
        Queue(iotlb_global()),
        Write(0x88, 4, 0xa0),
        Write(0x3c, 4, 0x21),
        Write(0x40, 4, 0xfee0_0000),
        Write(0x44, 4, 0),
        Write(0x38, 4, 0),
        Read(0x38, 4, 0),
        Write(0x18, 4, 0x8600_0000),
        Read(0x1c, 4, 0xc700_0000),
        Queue(iotlb_pages(1, 0xffff_f000, 0)),
        Write(0x88, 4, 0xc0),
        Queue(iotlb_domain(1)),
        Write(0x88, 4, 0xe0),
        Write(0x18, 4, 0x0600_0000),
        Read(0x1c, 4, 0x4700_0000),
    ];
    let mut head = queue;
    for (index, step) in steps.into_iter().enumerate() {
        match step {
            Read(offset, 4, expected) => {
                assert_eq!(u64::from(machine.read32(offset)), expected, "step {index}");
            }
            Read(offset, _, expected) => {
                assert_eq!(machine.read64(offset), expected, "step {index}");
            }
            Write(offset, 4, value) => {
                machine.ram.store(PhysAddr(STATUS), 0).unwrap();
                machine.write32(offset, value as u32);
                if offset == 0x88 && value != 0 {
                    assert!(machine.waited(), "step {index}");
                    assert_eq!(machine.read64(0x80), value, "step {index}");
                }
            }
            Write(offset, _, value) => machine.write64(offset, value),
            Queue(descriptor) => {
                machine.store128(head, descriptor);
                machine.store128(head + 16, wait(2));
                head += 32;
            }
        }
    }
}

#[test]
fn after_boot_dma_is_translated_and_interrupts_are_remapped() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    machine.map(0xffff_f000, 0x20_0000, 12, 3);
    machine
        .write_at(0xffff_f008, 0x1122_3344_5566_7788)
        .unwrap();
    assert_eq!(
        machine.ram.load(PhysAddr(0x20_0008)).unwrap(),
        0x1122_3344_5566_7788
    );
    assert_eq!(machine.read_at(0xffff_f008).unwrap(), 0x1122_3344_5566_7788);

    machine.write64(0xb8, IRT | 0xf | 1 << 11);
    machine.command(SIRTP);
    machine.enable(IRE);
    let entry = Irte::new()
        .with_present(true)
        .with_vector(0x51)
        .with_destination(0x1_0002)
        .with_source(SOURCE)
        .with_source_validation(1);
    machine.store128(IRT + 5 * 16, entry.words());
    let address = RemappableAddress::new()
        .with_prefix(0xfee)
        .with_remappable(true)
        .with_subhandle_valid(true)
        .with_handle(5);
    let message = MsiMessage {
        address: u64::from(address.into_bits()),
        data: 0,
    };
    let interrupt = machine.unit.remap(requester(), message).unwrap();
    assert_eq!((interrupt.destination, interrupt.vector), (0x1_0002, 0x51));
    assert!(machine.records().is_empty());
}

#[test]
fn an_unmapped_address_is_refused_and_recorded_and_interrupts() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    machine.write32(0x3c, 0x21);
    machine.write32(0x40, 0xfee0_0000);
    machine.write32(0x44, 0x100);
    machine.write32(0x38, 0);
    machine.read_at(0x1234_5678).unwrap_err();
    let records = machine.records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].page(), 0x1234_5000);
    assert_eq!(records[0].source(), SOURCE);
    assert!(records[0].read());
    assert_eq!(records[0].reason(), 6);
    assert_eq!(machine.read32(0x34), 2);
    let events = machine.events.0.lock().unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].vector, events[0].destination), (0x21, 0x100));
}

#[test]
fn root_table_set_without_translation_changes_no_address() {
    let machine = Machine::new(VtdConfig::default());
    machine.set_root(0, RootEntry::new());
    machine.write64(0x20, ROOT);
    machine.command(SRTP);
    machine.write_at(0x5000, 1).unwrap();
    assert_eq!(machine.ram.load(PhysAddr(0x5000)).unwrap(), 1);
}
