//! The unit's registers and the memory it shares with the driver.

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::registers::{GlobalBits, offset};

use super::{Error, Wait};
use crate::{RegisterBus, SpinBudget, Until};

/// Both sides of the conversation with a unit, and what GCMD was last told.
#[derive(Debug)]
pub(super) struct Link<B, M> {
    pub(super) bus: B,
    pub(super) memory: M,
    pub(super) budget: SpinBudget,
    /// What is enabled: each command repeats it, or it would be turned off.
    enabled: GlobalBits,
}

impl<B: RegisterBus, M: TableMemory> Link<B, M> {
    pub(super) fn new(bus: B, memory: M, budget: SpinBudget) -> Self {
        Self {
            bus,
            memory,
            budget,
            enabled: GlobalBits::empty(),
        }
    }

    pub(super) fn enabled(&self) -> GlobalBits {
        self.enabled
    }

    /// Takes over what the unit was found with.
    pub(super) fn found(&mut self, enabled: GlobalBits) {
        self.enabled = enabled & GlobalBits::ENABLES;
    }

    /// Gives one command, an enable or a one-shot, and waits for its status.
    pub(super) fn command(&mut self, command: GlobalBits) -> Result<(), Error> {
        self.write(self.enabled | command);
        self.wait(Until::set(command.bits().into()), Wait::Command(command))?;
        self.enabled |= command & GlobalBits::ENABLES;
        Ok(())
    }

    /// Turns one enable off and waits for its status.
    pub(super) fn disable(&mut self, command: GlobalBits) -> Result<(), Error> {
        self.enabled -= command;
        self.write(self.enabled);
        self.wait(Until::clear(command.bits().into()), Wait::Disable(command))
    }

    /// Flushes the unit's write buffer, after entries became present.
    pub(super) fn flush_write_buffer(&mut self) -> Result<(), Error> {
        let command = GlobalBits::WRITE_BUFFER_FLUSH;
        self.write(self.enabled | command);
        self.wait(Until::clear(command.bits().into()), Wait::Command(command))
    }

    fn write(&self, value: GlobalBits) {
        self.bus.write32(offset::GCMD, value.bits());
    }

    fn wait(&self, until: Until, wait: Wait) -> Result<(), Error> {
        match self.bus.poll32(offset::GSTS, until, self.budget) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Stuck { wait, source }),
        }
    }
}
