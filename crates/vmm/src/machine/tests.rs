//! The assembled machine, seen through its bus before any processor runs.

use std::io::Write;

use kvm_ioctls::{IoEventAddress, NoDatamatch};
use tempfile::NamedTempFile;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Machine, MachineError, Unit, thread_times};
use crate::config::MachineConfig;
use crate::io::Console;
use crate::kvm::KvmError;
use crate::layout;

/// Offsets in config space.
const COMMAND: u64 = 0x04;
const BAR0: u64 = 0x10;

const DISK: u64 = 1;

/// A machine with these options; `None`, said on standard error, where there is no KVM.
fn machine(iommu: &str, devices: &[String]) -> Option<Machine> {
    let config = MachineConfig {
        iommu: iommu.parse().unwrap(),
        devices: devices.iter().map(|text| text.parse().unwrap()).collect(),
        ..MachineConfig::default()
    };
    match Machine::new(config, Console::writer(std::io::sink())) {
        Ok(machine) => Some(machine),
        Err(MachineError::Kvm(
            error @ (KvmError::NoDevice | KvmError::NoPermission | KvmError::Open(_)),
        )) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn disk() -> (NamedTempFile, String) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&[0; 4096]).unwrap();
    let option = format!("virtio-blk,path={}", file.path().display());
    (file, option)
}

fn config(device: u64, register: u64) -> u64 {
    layout::ECAM.start() + (device << 15) + register
}

fn read(machine: &Machine, address: u64) -> u32 {
    let mut data = [0; 4];
    machine.bus().read_memory(address, &mut data);
    u32::from_le_bytes(data)
}

fn write(machine: &Machine, address: u64, value: u32) {
    machine.bus().write_memory(address, &value.to_le_bytes());
}

/// Whether KVM turns writes at `address` into events: it takes no second one there.
fn has_doorbell(machine: &Machine, address: u64) -> bool {
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    let place = IoEventAddress::Mmio(address);
    let fd = machine.vm().fd();
    match fd.register_ioevent(&event, &place, NoDatamatch) {
        Ok(()) => {
            fd.unregister_ioevent(&event, &place, NoDatamatch).unwrap();
            false
        }
        Err(error) => {
            assert_eq!(error.errno(), libc::EEXIST);
            true
        }
    }
}

#[test]
fn doorbells_follow_the_bar_its_decoding_and_its_reset() {
    let (_file, option) = disk();
    let Some(machine) = machine("none", &[option]) else {
        return;
    };
    let bar = u64::from(read(&machine, config(DISK, BAR0)) & !0xf);
    let id = machine.fabric().inspect().functions[1].id;
    let (function, _, _) = machine.fabric().function(id).unwrap();
    assert_eq!(function.name(), "virtio-blk");
    let doorbell = function.doorbells().remove(0);
    assert_eq!(doorbell.bar, 0);
    let offset = doorbell.offset;
    assert!(has_doorbell(&machine, bar + offset));
    assert!(!has_doorbell(&machine, bar));

    let moved = layout::PCI_WINDOW_32.end() + 1 - 0x10_0000;
    write(&machine, config(DISK, BAR0), moved as u32);
    assert!(has_doorbell(&machine, moved + offset));
    assert!(!has_doorbell(&machine, bar + offset));

    let command = read(&machine, config(DISK, COMMAND));
    write(&machine, config(DISK, COMMAND), command & !2);
    assert!(!has_doorbell(&machine, moved + offset));
    write(&machine, config(DISK, COMMAND), command | 2);
    assert!(has_doorbell(&machine, moved + offset));

    // A 64-bit BAR may go above memory.
    write(
        &machine,
        config(DISK, BAR0 + 4),
        (layout::PCI_WINDOW_64.start() >> 32) as u32,
    );
    write(&machine, config(DISK, BAR0), 0);
    assert!(has_doorbell(
        &machine,
        layout::PCI_WINDOW_64.start() + offset
    ));
    assert!(!has_doorbell(&machine, moved + offset));
}

#[test]
fn the_unit_and_the_devices_answer_where_the_map_says() {
    let (_file, option) = disk();
    let Some(machine) = machine("vtd,fault-records=256", &[option, "edu".to_owned()]) else {
        return;
    };
    // VER_REG, GSTS_REG.
    assert_eq!(read(&machine, layout::VTD), 0x10);
    assert_eq!(read(&machine, layout::VTD + 0x1c), 0);
    assert_eq!(read(&machine, config(0, 0)) & 0xffff, 0x1b36);
    assert_eq!(read(&machine, config(1, 0)), 0x1042_1af4);
    assert_eq!(read(&machine, config(2, 0)), 0x11e8_1234);
    assert_eq!(read(&machine, config(3, 0)), u32::MAX);
    let bar = u64::from(read(&machine, config(2, BAR0)) & !0xf);
    assert_eq!(read(&machine, bar), 0x0100_00ed);
    // Interrupt Line: a pin of the I/O APIC.
    let line = read(&machine, config(2, 0x3c)) as u8;
    assert!(layout::INTX_PINS.contains(&line));
}

#[test]
fn the_amd_vi_unit_comes_with_its_function_and_a_southbridge() {
    let (_file, option) = disk();
    let Some(machine) = machine("amdvi", &[option, "edu".to_owned()]) else {
        return;
    };
    // EFR, as the unit was made; the control register.
    let Some(Unit::AmdVi(unit)) = machine.unit() else {
        panic!("no AMD-Vi unit");
    };
    let feature = unit.config().extended_feature().into_bits();
    assert_eq!(read(&machine, layout::AMDVI + 0x30), feature as u32);
    assert_eq!(read(&machine, layout::AMDVI + 0x18), 0);
    // The unit's function, 00:00.2: class 0806, and the base address in its capability block.
    let function = |register| layout::ECAM.start() + (2 << 12) + register;
    assert_eq!(read(&machine, function(8)) >> 8, 0x08_06_00);
    let capability = u64::from(read(&machine, function(0x34)) as u8);
    assert_eq!(read(&machine, function(capability)) & 0xff, 0x0f);
    let base = read(&machine, function(capability + 4));
    assert_eq!(base, layout::AMDVI as u32 | 1);
    // The bus controller, and the devices.
    assert_eq!(read(&machine, config(0x14, 8)) >> 8, 0x0c_05_00);
    assert_eq!(read(&machine, config(1, 0)), 0x1042_1af4);
    assert_eq!(read(&machine, config(2, 0)), 0x11e8_1234);
}

#[test]
fn further_units_have_registers_root_ports_and_functions_of_their_own() {
    let devices = ["edu".to_owned(), "edu,port=2".to_owned()];
    for (iommu, base) in [
        ("vtd,units=3", layout::VTD),
        ("amdvi,units=3", layout::AMDVI),
    ] {
        let Some(machine) = machine(iommu, &devices) else {
            return;
        };
        assert_eq!(machine.units().len(), 3);
        for unit in 0..3 {
            let first = base + unit * layout::UNIT_STRIDE;
            let inspected = match &machine.units()[unit as usize] {
                Unit::Vtd(unit) => unit.config().capability().into_bits(),
                Unit::AmdVi(unit) => unit.config().extended_feature().into_bits(),
            };
            let offset = if base == layout::VTD { 8 } else { 0x30 };
            assert_eq!(read(&machine, first + offset), inspected as u32, "{iommu}");
            if base == layout::AMDVI {
                let function = layout::ECAM.start() + ((2 + unit) << 12);
                let capability = u64::from(read(&machine, function + 0x34) as u8);
                let said = read(&machine, function + capability + 4);
                assert_eq!(said, first as u32 | 1);
            }
        }
        // What is behind a port is on a bus of its own.
        let port = config(layout::root_port(2).into(), 0x18);
        let bus = u64::from(read(&machine, port) >> 8 & 0xff);
        assert!(bus > 0);
        let behind = layout::ECAM.start() + (bus << 20);
        assert_eq!(read(&machine, behind), 0x11e8_1234);
        let groups = machine.isolation_groups().concat();
        assert!(
            groups.contains(&format!("0000:{bus:02x}:00.0")),
            "{groups:?}"
        );
        assert!(groups.contains(&"0000:00:1d.0".to_owned()), "{groups:?}");
    }
}

#[test]
fn groups_are_those_of_the_functions_behind_the_unit() {
    let (_file, option) = disk();
    let beside = format!("{option},iommu=off");
    for (iommu, devices, expected) in [
        (
            "vtd",
            vec![option.clone(), "edu".to_owned()],
            vec!["0000:00:00.0", "0000:00:01.0", "0000:00:02.0"],
        ),
        (
            "vtd",
            vec![beside.clone(), "edu".to_owned()],
            vec!["0000:00:02.0"],
        ),
        // All but the unit's own function.
        (
            "amdvi",
            vec![option.clone(), "edu".to_owned()],
            vec![
                "0000:00:00.0",
                "0000:00:14.0",
                "0000:00:01.0",
                "0000:00:02.0",
            ],
        ),
        (
            "amdvi",
            vec![beside, "edu".to_owned()],
            vec!["0000:00:02.0"],
        ),
        ("none", vec![option, "edu".to_owned()], vec![]),
    ] {
        let Some(machine) = machine(iommu, &devices) else {
            return;
        };
        let groups = machine.isolation_groups().concat();
        assert_eq!(groups, expected, "{iommu} {devices:?}");
    }
}

#[test]
fn a_machine_that_cannot_be_says_why() {
    let missing = "virtio-blk,path=/nonexistent/disk".to_owned();
    let config = MachineConfig {
        iommu: "none".parse().unwrap(),
        devices: vec![missing.parse().unwrap()],
        ..MachineConfig::default()
    };
    match Machine::new(config, Console::writer(std::io::sink())) {
        Err(MachineError::Disk(error)) => assert!(error.to_string().contains("/nonexistent/disk")),
        Err(MachineError::Kvm(error)) => eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("a machine without its disk"),
    }
}

#[test]
fn a_threads_processor_time_is_found_under_its_name() {
    let worker = std::thread::Builder::new().name("counts".to_owned());
    let worker = worker.spawn(|| {
        let begin = std::time::Instant::now();
        while begin.elapsed() < std::time::Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        (thread_times::of_all(), thread_times::of_this())
    });
    let (all, own) = worker.unwrap().join().unwrap();
    let (name, milliseconds) = own.unwrap();
    assert_eq!(name, "counts");
    // Other work may have had the processor, but a thread that spins gets some of it.
    assert!(milliseconds > 0.0 && all["counts"] <= milliseconds);
}
