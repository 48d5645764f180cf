//! Small programs on the machine, without an operating system.

use std::arch::global_asm;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vm_iommu_dma::MsiSink;
use vm_iommu_spec::{MsiMessage, RequesterId};
use vm_iommu_vmm::boot::{self, Entry, Protocol};
use vm_iommu_vmm::config::{IommuConfig, MachineConfig};
use vm_iommu_vmm::interrupt::Messages;
use vm_iommu_vmm::io::Console;
use vm_iommu_vmm::kvm::KvmError;
use vm_iommu_vmm::machine::{Ending, Machine, MachineError, Outcome};
use vm_memory::{Bytes, GuestAddress};

global_asm!(include_str!("payload.s"), options(att_syntax));

const START: GuestAddress = GuestAddress(0x10_0000);

macro_rules! payload {
    ($start:ident, $end:ident) => {{
        unsafe extern "C" {
            static $start: u8;
            static $end: u8;
        }
        let start = &raw const $start;
        // SAFETY: both symbols bound one object in the read-only data of this program.
        unsafe { std::slice::from_raw_parts(start, (&raw const $end).offset_from(start) as usize) }
    }};
}

/// What the guest writes to its serial port.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A machine about to run `payload`; `None`, said on standard error, where there is no KVM.
fn machine(cpus: u16, protocol: Protocol, payload: &[u8]) -> Option<(Machine, Screen)> {
    let config = MachineConfig {
        cpus,
        iommu: IommuConfig::None,
        ..MachineConfig::default()
    };
    machine_of(config, protocol, payload)
}

fn machine_of(
    config: MachineConfig,
    protocol: Protocol,
    payload: &[u8],
) -> Option<(Machine, Screen)> {
    let screen = Screen::default();
    let machine = match Machine::new(config, Console::writer(screen.clone())) {
        Ok(machine) => machine,
        Err(MachineError::Kvm(
            error @ (KvmError::NoDevice | KvmError::NoPermission | KvmError::Open(_)),
        )) => {
            eprintln!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("no machine: {error}"),
    };
    let memory = &machine.vm().ram().memory();
    memory.write_slice(payload, START).unwrap();
    let entry = Entry {
        protocol,
        start: START,
        info: GuestAddress(0),
    };
    let state = boot::initial_state(memory, &entry).unwrap();
    let cpu = machine.boot_cpu().unwrap();
    let reset = cpu.system_registers().unwrap();
    cpu.set_registers(&state.regs(), &state.sregs(reset))
        .unwrap();
    Some((machine, screen))
}

/// Runs `payload` to its end, which must come soon.
fn run(cpus: u16, protocol: Protocol, payload: &[u8]) -> Option<(Outcome, String)> {
    let (machine, screen) = machine(cpus, protocol, payload)?;
    let stop = machine.stop_switch().clone();
    let watchdog = std::thread::spawn(move || {
        let limit = Instant::now() + Duration::from_secs(30);
        while !stop.is_thrown() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.stop(Ending::Interrupted);
    });
    let outcome = machine.run().unwrap();
    watchdog.join().unwrap();
    Some((outcome, screen.text()))
}

#[test]
fn the_serial_port_speaks_and_the_exit_device_ends_the_machine() {
    let Some((outcome, text)) = run(1, Protocol::Pvh, payload!(payload_hello, payload_hello_end))
    else {
        return;
    };
    assert_eq!(outcome.ending, Ending::ExitDevice { value: 0x2a });
    assert_eq!(outcome.ending.exit_code(), 0x55);
    assert_eq!(text, "hello from the guest\n");
    assert_eq!(outcome.report.exits["pio_write"], text.len() as u64 + 1);
}

#[test]
fn the_io_apic_delivers_edges_and_levels_and_hears_of_the_end_of_a_level() {
    let Some((outcome, text)) = run(
        1,
        Protocol::Linux64,
        payload!(payload_ioapic, payload_ioapic_end),
    ) else {
        return;
    };
    assert_eq!(
        outcome.ending,
        Ending::ExitDevice { value: 0 },
        "{text:?} {:?}",
        outcome.report
    );
    assert_eq!(text, "EL");
    assert_eq!(outcome.report.exits["ioapic_eoi"], 1);
    assert_eq!(outcome.report.interrupts.delivered, 2);
}

#[test]
fn a_vectors_event_reaches_the_processor_through_its_route() {
    let payload = payload!(payload_msi, payload_msi_end);
    let Some((machine, screen)) = machine(1, Protocol::Linux64, payload) else {
        return;
    };
    let vector = Messages::remapped(Arc::clone(machine.router()), 0).vector();
    let message = MsiMessage {
        address: 0xfee0_0000,
        data: 0x40,
    };
    let requester = RequesterId::from_devfn(0, 0, 8);
    vector.configure(Some((requester, message)));
    let stop = machine.stop_switch().clone();
    let sender = std::thread::spawn(move || {
        let limit = Instant::now() + Duration::from_secs(30);
        while screen.text() != "R" && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
        vector.signal();
        while !stop.is_thrown() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.stop(Ending::Interrupted);
        screen.text()
    });
    let outcome = machine.run().unwrap();
    assert_eq!(sender.join().unwrap(), "RM");
    assert_eq!(outcome.ending, Ending::ExitDevice { value: 0 });
    let interrupts = outcome.report.interrupts;
    assert_eq!((interrupts.routed, interrupts.delivered), (1, 0));
}

#[test]
fn a_second_processor_starts_and_knows_its_number() {
    let Some((outcome, _)) = run(2, Protocol::Pvh, payload!(payload_smp, payload_smp_end)) else {
        return;
    };
    assert_eq!(outcome.ending, Ending::ExitDevice { value: 1 });
}

#[test]
fn a_triple_fault_ends_the_machine() {
    let payload = payload!(payload_triple_fault, payload_triple_fault_end);
    let Some((outcome, _)) = run(1, Protocol::Linux64, payload) else {
        return;
    };
    assert_eq!(outcome.ending, Ending::TripleFault);
}

#[test]
fn power_goes_off_after_what_nobody_answers_read_as_ones() {
    let payload = payload!(payload_power_off, payload_power_off_end);
    let Some((outcome, text)) = run(3, Protocol::Pvh, payload) else {
        return;
    };
    assert_eq!(outcome.ending, Ending::PowerOff);
    assert_eq!(text, "3");
    assert_eq!(outcome.report.bus.unclaimed_ports, 1);
    assert_eq!(outcome.report.bus.unclaimed_memory, 1);
}

#[test]
fn a_machine_stops_from_outside_and_leaves_nothing_behind() {
    let mut disk = tempfile::NamedTempFile::new().unwrap();
    disk.write_all(&[0; 4096]).unwrap();
    let path = disk.path().display();
    let devices = [format!("virtio-blk,path={path}"), "edu".to_owned()];
    let config = MachineConfig {
        cpus: 4,
        iommu: "vtd".parse().unwrap(),
        devices: devices.map(|text| text.parse().unwrap()).to_vec(),
        ..MachineConfig::default()
    };
    // An endless loop.
    let Some((machine, _)) = machine_of(config, Protocol::Pvh, &[0xeb, 0xfe]) else {
        return;
    };
    let vm = Arc::downgrade(machine.vm());
    let fabric = Arc::downgrade(machine.fabric());
    let stop = machine.stop_switch().clone();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        stop.stop(Ending::Interrupted);
    });
    let outcome = machine.run().unwrap();
    stopper.join().unwrap();
    assert_eq!(outcome.ending, Ending::Interrupted);
    assert_eq!((vm.strong_count(), fabric.strong_count()), (0, 0));
    let left = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| {
            ["vcpu", "vtd", "virtio"]
                .iter()
                .any(|own| name.starts_with(own))
        });
    // Other tests of this process run machines too; nextest gives each its own process.
    if std::env::var_os("NEXTEST").is_some() {
        assert_eq!(left.count(), 0);
    }
}
