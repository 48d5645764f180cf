//! The machine: everything put together, and run.

mod devices;
mod doorbells;
mod ending;
mod error;
mod load;
mod processors;
mod run;
mod segment;
mod smbus;
#[cfg(test)]
mod tests;
mod thread_times;
mod times;
mod unit;

pub use ending::{Ending, StopSwitch};
pub use error::MachineError;
pub use run::Outcome;
pub(crate) use times::Milliseconds;
use times::Times;
use unit::OwnFunction;
pub use unit::{Unit, UnitInspection};

use std::sync::Arc;

use vm_iommu_devices::IoThread;
use vm_iommu_dma::Epochs;
use vm_iommu_pci::{AcsBasis, Fabric, FunctionId};

use crate::config::MachineConfig;
use crate::interrupt::{IoApic, LocalApics, MsiRouter};
use crate::io::{
    Bus, BusBuilder, Console, ConsoleInput, ExitDevice, FwCfg, PowerControl, SerialPort,
};
use crate::kvm::{KickSignal, Vcpu, Vm};
use crate::layout;
use devices::{Devices, RootPort, Served, Upstreams};
use doorbells::Doorbells;

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
    fabric: Arc<Fabric>,
    units: Vec<Unit>,
    ports: Vec<RootPort>,
    served: Served,
    own_functions: Vec<OwnFunction>,
    /// Device threads end before the units' workers, which they may wait for.
    _device_threads: Vec<IoThread>,
    _workers: Vec<unit::Worker>,
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
        let vcpus = processors::make(&vm, &config)?;
        let apics = LocalApics::new(Arc::clone(&vm));
        let router = MsiRouter::new(Arc::clone(&vm), Arc::clone(&apics))?;
        let ioapic = IoApic::new(unit::ioapic_source(&config.iommu), Arc::clone(&router) as _);

        let epochs = Arc::new(Epochs::default());
        let units = (0..config.iommu.units())
            .filter_map(|_| {
                Unit::make(&config.iommu, vm.ram(), &epochs, Arc::clone(&apics)).transpose()
            })
            .collect::<Result<Vec<_>, _>>()?;
        let remapping: Vec<_> = units.iter().map(Unit::remapping).collect();
        if !remapping.is_empty() {
            router.set_remappers(remapping.iter().map(|unit| Arc::clone(unit) as _).collect());
        }
        let upstreams = Upstreams::new(vm.ram(), &epochs, &router, &remapping);
        let fabric = segment::make(upstreams.direct.clone(), &ioapic)?;
        let own_functions = unit::add_functions(&units, &fabric, &upstreams)?;
        let ports = devices::add_ports(&fabric, &config.iommu)?;
        let Devices { served, threads } = devices::add(&fabric, &config, &upstreams, &ports)?;
        fabric.assign()?;
        fabric.observe(Arc::new(Doorbells::new(Arc::clone(&vm))));

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
        segment::connect(&mut bus, &fabric)?;
        for (number, remapping) in (0..).zip(&remapping) {
            let (first, len) = remapping.registers();
            let registers = Arc::new(unit::Registers(Arc::clone(remapping)));
            bus.memory(first + number * layout::UNIT_STRIDE, len, registers)?;
        }

        let workers = remapping.into_iter().map(unit::Worker::start);
        let workers = workers.collect::<Result<Vec<_>, _>>()?;
        let mut machine = Self {
            config,
            times,
            kick,
            stop,
            vcpus,
            bus: Arc::new(bus.build()),
            serial,
            input: console.input,
            ioapic,
            router,
            fabric,
            units,
            ports,
            served,
            own_functions,
            _device_threads: threads,
            _workers: workers,
            vm,
        };
        machine.load()?;
        Ok(machine)
    }

    /// The virtual machine: KVM's handle and the guest's memory.
    pub fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }

    /// The processor that runs first.
    pub fn boot_cpu(&self) -> Option<&Vcpu> {
        self.vcpus.first()
    }

    /// What the processors' exits reach.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The I/O APIC.
    pub fn ioapic(&self) -> &Arc<IoApic> {
        &self.ioapic
    }

    /// The interrupt router.
    pub fn router(&self) -> &Arc<MsiRouter> {
        &self.router
    }

    /// The PCI segment.
    pub fn fabric(&self) -> &Arc<Fabric> {
        &self.fabric
    }

    /// The remapping unit of the root bus, if there is one.
    pub fn unit(&self) -> Option<&Unit> {
        self.units.first()
    }

    /// All remapping units: that of the root bus, then those of root ports in order.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The switch that stops the machine.
    pub fn stop_switch(&self) -> &StopSwitch {
        &self.stop
    }

    /// The isolation groups of the functions that units serve, as names such as
    /// `0000:00:01.0`; none without a unit.
    pub fn isolation_groups(&self) -> Vec<Vec<String>> {
        let served = |id: &FunctionId| match &self.served {
            Served::Nobody => false,
            Served::All => self.own_functions.iter().all(|own| own.id != *id),
            Served::Some(ids) => ids.contains(id) || self.ports.iter().any(|port| port.id == *id),
        };
        self.fabric
            .groups(AcsBasis::Capability)
            .iter()
            .map(|group| {
                let members = group.members.iter().filter(|id| served(id));
                let addresses = members.filter_map(|id| self.fabric.address(*id));
                addresses.map(|address| address.to_string()).collect()
            })
            .filter(|group: &Vec<String>| !group.is_empty())
            .collect()
    }

    pub(crate) fn milliseconds(&self) -> Milliseconds {
        self.times.finish(self.serial.first_byte())
    }
}
