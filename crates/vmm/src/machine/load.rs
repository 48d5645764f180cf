//! What firmware and boot loader do: tables, the kernel, and the boot CPU's first state.

use super::devices::Served;
use super::unit::{self, Port, Scope};
use super::{Machine, MachineError};
use crate::acpi::{self, AcpiConfig};
use crate::boot::{self, BOOT_MSRS};
use crate::loader;

impl Machine {
    /// Writes the ACPI tables, loads the kernel and sets the boot CPU to enter it, if the
    /// configuration names a kernel.
    pub(super) fn load(&mut self) -> Result<(), MachineError> {
        let Some(kernel) = &self.config.kernel else {
            return Ok(());
        };
        let memory = &self.vm.ram().memory();
        let acpi = AcpiConfig {
            cpus: self.config.cpus,
            extra: self.unit_table().into_iter().collect(),
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

    /// The table that tells of the units, if there are any.
    fn unit_table(&self) -> Option<Vec<u8>> {
        let ports: Vec<Port> = self
            .ports
            .iter()
            .filter_map(|port| {
                let requester = self.fabric.address(port.id)?;
                let bus = self.fabric.bus_number(port.bus)?;
                Some(Port { requester, bus })
            })
            .collect();
        let served: Option<Vec<_>> = match &self.served {
            Served::Some(ids) => {
                let addresses = ids.iter().filter_map(|id| self.fabric.address(*id));
                Some(addresses.filter(|address| address.bus() == 0).collect())
            }
            Served::All | Served::Nobody => None,
        };
        let scope = Scope {
            ioapic: unit::ioapic_source(&self.config.iommu),
            served: served.as_deref(),
            ports: &ports,
        };
        unit::table(&self.units, &self.config.iommu, &self.own_functions, &scope)
    }
}
