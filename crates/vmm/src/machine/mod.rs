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
use devices::{Devices, Served, Upstreams};
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
    unit: Option<Unit>,
    served: Served,
    own_function: Option<OwnFunction>,
    /// Device threads end before the unit's worker, which they may wait for.
    _device_threads: Vec<IoThread>,
    _worker: Option<unit::Worker>,
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
        let unit = Unit::make(&config.iommu, vm.ram(), &epochs, apics)?;
        let remapping = unit.as_ref().map(Unit::remapping);
        if let Some(remapping) = &remapping {
            router.set_remapper(Arc::clone(remapping) as _);
        }
        let upstreams = Upstreams::new(vm.ram(), &epochs, &router, remapping.as_ref());
        let fabric = segment::make(upstreams.direct.clone(), &ioapic)?;
        let own_function = match &unit {
            Some(unit) => unit.add_functions(&fabric, &upstreams.direct, &upstreams.served)?,
            None => None,
        };
        let Devices { served, threads } = devices::add(&fabric, &config, &upstreams)?;
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
        if let Some(remapping) = &remapping {
            let (start, len) = remapping.registers();
            let registers = Arc::new(unit::Registers(Arc::clone(remapping)));
            bus.memory(start, len, registers)?;
        }

        let worker = remapping.map(unit::Worker::start).transpose()?;
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
            unit,
            served,
            own_function,
            _device_threads: threads,
            _worker: worker,
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

    /// The remapping unit, if there is one.
    pub fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }

    /// The switch that stops the machine.
    pub fn stop_switch(&self) -> &StopSwitch {
        &self.stop
    }

    /// The isolation groups of the functions that the unit serves, as names such as
    /// `0000:00:01.0`; none without a unit.
    pub fn isolation_groups(&self) -> Vec<Vec<String>> {
        let served = |id: &FunctionId| match &self.served {
            Served::Nobody => false,
            Served::All => self.own_function.as_ref().is_none_or(|own| own.id != *id),
            Served::Some(ids) => ids.contains(id),
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
