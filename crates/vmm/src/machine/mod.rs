//! The machine: everything put together, and run.

mod ending;
mod error;
mod processors;
mod run;
mod times;

pub use ending::{Ending, StopSwitch};
pub use error::MachineError;
pub use run::Outcome;
pub(crate) use times::Milliseconds;
use times::Times;

use std::sync::Arc;

use crate::acpi::{self, AcpiConfig};
use crate::boot::{self, BOOT_MSRS};
use crate::config::MachineConfig;
use crate::interrupt::{IoApic, MsiRouter};
use crate::io::{
    Bus, BusBuilder, Console, ConsoleInput, ExitDevice, FwCfg, PowerControl, SerialPort,
};
use crate::kvm::{KickSignal, Vcpu, Vm};
use crate::{layout, loader};

/// A machine that is ready to run.
pub struct Machine {
    config: MachineConfig,
    times: Times,
    kick: KickSignal,
    stop: StopSwitch,
    vcpus: Vec<Vcpu>,
    bus: Arc<Bus>,
    serial: Arc<SerialPort>,
    input: ConsoleInput,
    ioapic: Arc<IoApic>,
    router: Arc<MsiRouter>,
    vm: Arc<Vm>,
}

impl Machine {
    /// Builds the machine that `config` describes and loads its kernel, if it names one;
    /// otherwise memory is empty and the boot CPU's registers are to be set.
    ///
    /// # Errors
    /// What is wrong with the configuration, its files, or the host.
    pub fn new(config: MachineConfig, console: Console) -> Result<Self, MachineError> {
        let times = Times::start();
        config.validate()?;
        let kick = KickSignal::install()?;
        let stop = StopSwitch::new()?;
        let vm = Arc::new(Vm::new(config.memory)?);
        let router = MsiRouter::new(Arc::clone(&vm))?;
        let ioapic = IoApic::new(Arc::clone(&router) as _);

        let line = ioapic.line(layout::COM1_IRQ).ok_or(MachineError::NoPin {
            irq: layout::COM1_IRQ,
        })?;
        let serial = Arc::new(SerialPort::new(line, console.output)?);
        let mut bus = BusBuilder::default();
        bus.ports(layout::COM1, 8, Arc::clone(&serial) as _)?;
        bus.ports(
            layout::EXIT_DEVICE,
            4,
            Arc::new(ExitDevice::new(stop.clone())),
        )?;
        bus.ports(layout::FW_CFG, 2, Arc::new(FwCfg::new(&config)))?;
        bus.ports(
            layout::ACPI_SLEEP_CONTROL,
            3,
            Arc::new(PowerControl::new(stop.clone())),
        )?;
        bus.memory(layout::IOAPIC, 0x1000, Arc::clone(&ioapic) as _)?;

        let mut machine = Self {
            vcpus: processors::make(&vm, &config)?,
            config,
            times,
            kick,
            stop,
            bus: Arc::new(bus.build()),
            serial,
            input: console.input,
            ioapic,
            router,
            vm,
        };
        machine.load(Vec::new())?;
        Ok(machine)
    }

    /// The guest's memory.
    pub fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }

    /// The processor that runs first.
    pub fn boot_cpu(&self) -> Option<&Vcpu> {
        self.vcpus.first()
    }

    /// The I/O APIC.
    pub fn ioapic(&self) -> &Arc<IoApic> {
        &self.ioapic
    }

    /// The interrupt router.
    pub fn router(&self) -> &Arc<MsiRouter> {
        &self.router
    }

    /// The switch that stops the machine.
    pub fn stop_switch(&self) -> &StopSwitch {
        &self.stop
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.bus
    }

    pub(crate) fn milliseconds(&self) -> Milliseconds {
        self.times.finish(self.serial.first_byte())
    }

    /// Writes the ACPI tables, loads the kernel and sets the boot CPU to enter it.
    fn load(&mut self, tables: Vec<Vec<u8>>) -> Result<(), MachineError> {
        let Some(kernel) = &self.config.kernel else {
            return Ok(());
        };
        let memory = self.vm.ram().memory();
        let acpi = AcpiConfig {
            cpus: self.config.cpus,
            extra: tables,
        };
        let rsdp = acpi::write_tables(memory, &acpi)?;
        let entry = loader::load(memory, kernel, rsdp)?;
        let state = boot::initial_state(memory, &entry)?;
        for vcpu in &self.vcpus {
            vcpu.set_msrs(BOOT_MSRS)?;
        }
        if let Some(vcpu) = self.vcpus.first() {
            let reset = vcpu.system_registers()?;
            vcpu.set_registers(&state.regs(), &state.sregs(reset))?;
        }
        self.times.loaded();
        Ok(())
    }
}
