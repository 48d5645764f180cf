//! The DSDT: the devices that a guest cannot find by itself.

use acpi_tables::aml::{
    self, AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, IO, Interrupt, Local,
    Memory32Fixed, Method, Name, Package, PackageBuilder, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{HEADER, OEM_ID, OEM_REVISION, OEM_TABLE_ID, SLEEP_TYPE_OFF};
use crate::layout;

/// Revision of AML with 64-bit integers.
const REVISION: u8 = 2;

/// `_OSC`'s UUID for PCI host bridges (PCI Firmware 3.3, 4.5.1).
const OSC_PCI: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
/// What `_OSC` leaves to the guest: PME, AER, the PCIe capability structure. Hot-plug and the
/// rest are not granted, for nothing is ever plugged.
const OSC_GRANTED: u32 = 1 << 2 | 1 << 3 | 1 << 4;
/// `_OSC` status: unrecognised UUID, unrecognised revision, some capabilities were masked.
const OSC_UNKNOWN_UUID: u32 = 1 << 2;
const OSC_UNKNOWN_REVISION: u32 = 1 << 3;
const OSC_MASKED: u32 = 1 << 4;

/// The table for a machine with `cpus` CPUs.
pub fn build(cpus: u16) -> Vec<u8> {
    let mut body = Vec::new();
    let mut devices = Vec::new();
    pci_host_bridge(&mut devices);
    motherboard(&mut devices);
    serial_port(&mut devices);
    for cpu in 0..cpus {
        processor(&mut devices, cpu);
    }
    Scope::raw(Path::new("\\_SB_"), devices)
        .iter()
        .for_each(|&byte| body.byte(byte));
    Name::new(
        Path::new("\\_S5_"),
        &Package::new(vec![&SLEEP_TYPE_OFF, &aml::ZERO, &aml::ZERO, &aml::ZERO]),
    )
    .to_aml_bytes(&mut body);

    let mut table = Sdt::new(
        *b"DSDT",
        HEADER as u32,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.append_slice(&body);
    table.as_slice().to_vec()
}

fn id(name: &'static str) -> Name {
    Name::new(Path::new("_HID"), &EISAName::new(name))
}

fn number(name: &str, value: u32) -> Name {
    Name::new(Path::new(name), &value)
}

/// The host bridge of segment 0 with its windows. A guest moves BARs only within these.
fn pci_host_bridge(sink: &mut dyn AmlSink) {
    let buses = AddressSpace::<u16>::new_bus_number(0, u16::from(u8::MAX));
    let config_port = IO::new(layout::PCI_CONFIG, layout::PCI_CONFIG, 1, 8);
    let ports = AddressSpace::new_io(
        *layout::PCI_WINDOW_PIO.start(),
        *layout::PCI_WINDOW_PIO.end(),
        None,
    );
    let low = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        *layout::PCI_WINDOW_32.start() as u32,
        *layout::PCI_WINDOW_32.end() as u32,
        None,
    );
    let high = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        *layout::PCI_WINDOW_64.start(),
        *layout::PCI_WINDOW_64.end(),
        None,
    );
    let resources = Name::new(
        Path::new("_CRS"),
        &ResourceTemplate::new(vec![&buses, &config_port, &ports, &low, &high]),
    );
    let compatible = Name::new(Path::new("_CID"), &EISAName::new("PNP0A03"));

    let (status, granted) = (Path::new("CDW1"), Path::new("CDW3"));
    let status_field = aml::CreateDWordField::new(&status, &Arg(3), &aml::ZERO);
    let granted_field = aml::CreateDWordField::new(&granted, &Arg(3), &8u8);
    let requested = aml::Store::new(&Local(0), &granted);
    let grant = aml::And::new(&granted, &granted, &OSC_GRANTED);
    let some_masked = aml::NotEqual::new(&Local(0), &granted);
    let say_masked = aml::Or::new(&status, &status, &OSC_MASKED);
    let if_masked = aml::If::new(&some_masked, vec![&say_masked]);
    let other_revision = aml::NotEqual::new(&Arg(1), &aml::ONE);
    let say_revision = aml::Or::new(&status, &status, &OSC_UNKNOWN_REVISION);
    let if_revision = aml::If::new(&other_revision, vec![&say_revision]);
    let uuid = aml::Uuid::new(OSC_PCI);
    let is_pci = aml::Equal::new(&Arg(0), &uuid);
    let if_pci = aml::If::new(
        &is_pci,
        vec![&granted_field, &requested, &grant, &if_masked, &if_revision],
    );
    let say_unknown = aml::Or::new(&status, &status, &OSC_UNKNOWN_UUID);
    let otherwise = aml::Else::new(vec![&say_unknown]);
    let answer = aml::Return::new(&Arg(3));
    // Serialized, because the named fields live as long as a call.
    let osc = Method::new(
        Path::new("_OSC"),
        4,
        true,
        vec![&status_field, &if_pci, &otherwise, &answer],
    );

    let routing = Name::new(Path::new("_PRT"), &interrupt_routing());

    Device::new(
        Path::new("PCI0"),
        vec![
            &id("PNP0A08"),
            &compatible,
            &number("_SEG", 0),
            &number("_BBN", 0),
            &number("_UID", 0),
            &resources,
            &routing,
            &osc,
        ],
    )
    .to_aml_bytes(sink);
}

/// Which I/O APIC input each device's INTA to INTD reaches (ACPI 6.5, 6.2.13): the lines rotate
/// with the device number, as the fabric wires them.
fn interrupt_routing() -> PackageBuilder {
    let inputs = layout::INTX_PINS;
    let mut routing = PackageBuilder::new();
    for device in 0..32_usize {
        for pin in 0..inputs.len() {
            let input = u32::from(inputs[(device + pin) % inputs.len()]);
            let every_function = (device as u32) << 16 | 0xffff;
            let mut route = PackageBuilder::new();
            route.add_element(&every_function);
            route.add_element(&(pin as u8));
            route.add_element(&aml::ZERO);
            route.add_element(&input);
            routing.add_element(&route);
        }
    }
    routing
}

/// What is spoken for: the ECAM window, which Linux uses only if it finds it here or in the
/// memory map, and the ports of the machine's own devices. Not the remapping unit's registers:
/// its driver must find them free.
fn motherboard(sink: &mut dyn AmlSink) {
    let size = layout::ECAM.end() - layout::ECAM.start() + 1;
    let ecam = Memory32Fixed::new(true, *layout::ECAM.start() as u32, size as u32);
    let ports = |start, count| IO::new(start, start, 1, count);
    let exit = ports(layout::EXIT_DEVICE, 4);
    let fw_cfg = ports(layout::FW_CFG, 2);
    let registers = ports(layout::ACPI_SLEEP_CONTROL, 3);
    let resources = Name::new(
        Path::new("_CRS"),
        &ResourceTemplate::new(vec![&ecam, &exit, &fw_cfg, &registers]),
    );
    Device::new(
        Path::new("MBRD"),
        vec![&id("PNP0C02"), &number("_UID", 0), &resources],
    )
    .to_aml_bytes(sink);
}

/// COM1.
fn serial_port(sink: &mut dyn AmlSink) {
    let ports = IO::new(layout::COM1, layout::COM1, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, layout::COM1_IRQ);
    let resources = Name::new(
        Path::new("_CRS"),
        &ResourceTemplate::new(vec![&ports, &interrupt]),
    );
    Device::new(
        Path::new("COM1"),
        vec![&id("PNP0501"), &number("_UID", 1), &resources],
    )
    .to_aml_bytes(sink);
}

/// A processor, matched with its MADT entry by `_UID`.
fn processor(sink: &mut dyn AmlSink, cpu: u16) {
    Device::new(
        Path::new(&format!("C{cpu:03X}")),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0007"),
            &number("_UID", cpu.into()),
        ],
    )
    .to_aml_bytes(sink);
}
