//! The unit's registers and the memory it shares with the driver.

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::registers::{Control, Status, offset};

use super::{Error, Wait};
use crate::{RegisterBus, SpinBudget, Until};

/// Both sides of the conversation with a unit, and what its control register was last told.
#[derive(Debug)]
pub(super) struct Link<B, M> {
    pub(super) bus: B,
    pub(super) memory: M,
    pub(super) budget: SpinBudget,
    control: Control,
}

impl<B: RegisterBus, M: TableMemory> Link<B, M> {
    /// A conversation with a unit whose control register says `control`.
    pub(super) fn new(bus: B, memory: M, budget: SpinBudget, control: Control) -> Self {
        Self {
            bus,
            memory,
            budget,
            control,
        }
    }

    pub(super) fn control(&self) -> Control {
        self.control
    }

    /// Changes the control register, if `change` changes it.
    pub(super) fn set_control(&mut self, change: impl FnOnce(Control) -> Control) {
        let control = change(self.control);
        if control != self.control {
            self.control = control;
            self.bus.write64(offset::CONTROL, control.into_bits());
        }
    }

    /// Waits until all bits of `status` are clear.
    pub(super) fn wait_stopped(&self, status: Status, wait: Wait) -> Result<(), Error> {
        // All status bits are in the lower half.
        let until = Until::clear(status.bits());
        match self.bus.poll32(offset::STATUS, until, self.budget) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Stuck { wait, source }),
        }
    }

    /// Empties a ring: its head and its tail become 0.
    pub(super) fn reset_ring(&self, head: u16, tail: u16) {
        self.bus.write32(head, 0);
        self.bus.write32(tail, 0);
    }
}
