//! The unit's PCI function (section 3.2).

use vm_iommu_dma::Upstream;
use vm_iommu_pci::PciFunction;
use vm_iommu_spec::PhysAddr;
use vm_iommu_spec::amd::registers::{CapabilityHeader, Status, offset};

use super::machine::*;
use crate::{AmdViConfig, AmdViFunction};

fn function(machine: &Machine) -> std::sync::Arc<AmdViFunction> {
    let upstream = Upstream::direct(machine.ram.clone());
    AmdViFunction::new(&machine.unit, PhysAddr(0x1_fed8_0000), upstream).unwrap()
}

fn read(function: &AmdViFunction, offset: u16) -> u32 {
    let mut data = [0; 4];
    function.read_config(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn the_capability_block_names_the_registers_and_what_the_unit_offers() {
    let machine = Machine::new(everything());
    let function = function(&machine);
    assert_eq!(read(&function, 0), 0x1419_1022);
    assert_eq!(read(&function, 8) >> 8, 0x08_0600);
    let block = function.capability_offset();
    let header = CapabilityHeader::from_bits(read(&function, block));
    assert_eq!((header.id(), header.kind(), header.revision()), (0xf, 3, 1));
    assert!(header.iotlb() && header.extended_feature() && !header.np_cache());
    assert_eq!(read(&function, block + 4), 0xfed8_0001);
    assert_eq!(read(&function, block + 8), 1);
    assert_eq!(read(&function, block + 12), 0);
    let misc = everything().miscellaneous().into_bits();
    assert_eq!(read(&function, block + 16), misc as u32);
    // Read-only, the enabled base address included.
    for register in (block..block + 24).step_by(4) {
        let before = read(&function, register);
        function.write_config(register, &[0xff; 4]);
        assert_eq!(read(&function, register), before);
    }
    assert_eq!(u16::from(header.next()), block + 24);
}

#[test]
fn msi_is_the_units_and_needs_no_bus_master() {
    let machine = Machine::translating(AmdViConfig::default(), 3);
    let function = function(&machine);
    let msi = function.capability_offset() + 24;
    assert_eq!(read(&function, msi), 0x0080_0005);
    function.write_config(msi + 4, &0xfee0_2000_u32.to_le_bytes());
    function.write_config(msi + 12, &[0x66, 0]);
    function.write_config(msi + 2, &[0x81, 0]);
    assert_eq!(read(&function, msi), 0x0081_0005);
    let mut byte = [0];
    function.read_config(msi + 2, &mut byte);
    assert_eq!(byte, [0x81]);
    // The same registers in the window.
    assert_eq!(machine.read32(offset::MSI_CAPABILITY), 0x0081_0005);
    assert_eq!(machine.read32(offset::MSI_DATA), 0x66);
    machine.enable(|control| control.with_event_interrupt(true));
    assert!(machine.read_at(0x5000).is_err());
    let interrupts = machine.interrupts();
    assert_eq!((interrupts[0].destination, interrupts[0].vector), (2, 0x66));
    assert!(machine.status().contains(Status::EVENT_INTERRUPT));
    function.reset();
    assert_eq!(read(&function, msi), 0x0081_0005, "the unit goes on");
}

#[test]
fn odd_accesses_do_no_harm() {
    let machine = Machine::new(AmdViConfig::default());
    let function = function(&machine);
    let msi = function.capability_offset() + 24;
    for offset in 0..4096_u16 {
        for len in 1..=4 {
            let mut data = [0; 4];
            function.read_config(offset, &mut data[..len]);
            function.write_config(offset, &data[..len]);
        }
    }
    assert_eq!(read(&function, msi) & 0xffff, 5);
    let mut data = [0; 8];
    function.read_bar(0, 0, &mut data);
    function.write_bar(0, 0, &data);
    assert_eq!(function.name(), "amdvi");
}
