//! The processors, and what their exits reach.

use std::sync::Arc;

use super::StopSwitch;
use crate::config::{IommuConfig, MachineConfig};
use crate::interrupt::IoApic;
use crate::io::Bus;
use crate::kvm::{CpuModel, ExitHandler, KvmError, Vcpu, Vm};

/// The processors of `config`, at their reset state.
pub(super) fn make(vm: &Arc<Vm>, config: &MachineConfig) -> Result<Vec<Vcpu>, KvmError> {
    let most = vm.kvm().get_max_vcpus();
    if usize::from(config.cpus) > most {
        return Err(KvmError::TooManyCpus {
            given: config.cpus,
            most,
        });
    }
    let model = CpuModel::new(vm.kvm(), config.cpus, &config.cpu_features)?;
    if matches!(config.iommu, IommuConfig::AmdVi(_)) && !model.offers("cx16") {
        log::warn!("the guest has no CMPXCHG16B (cx16), without which Linux drives no AMD-Vi unit");
    }
    (0..config.cpus)
        .map(|index| Vcpu::new(vm, index, &model.for_cpu(index)?))
        .collect()
}

/// What exits reach: the bus, the I/O APIC and the stop switch.
pub(super) struct Exits {
    pub(super) bus: Arc<Bus>,
    pub(super) ioapic: Arc<IoApic>,
    pub(super) stop: StopSwitch,
}

impl ExitHandler for Exits {
    fn read_port(&self, port: u16, data: &mut [u8]) {
        self.bus.read_port(port, data);
    }

    fn write_port(&self, port: u16, data: &[u8]) {
        self.bus.write_port(port, data);
    }

    fn read_memory(&self, address: u64, data: &mut [u8]) {
        self.bus.read_memory(address, data);
    }

    fn write_memory(&self, address: u64, data: &[u8]) {
        self.bus.write_memory(address, data);
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.ioapic.end_of_interrupt(vector);
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_thrown()
    }
}
