//! How a driver reaches a unit: its registers, and the waits for what the unit does.

use thiserror::Error;
use vm_iommu_pagetable::{BadAddress, TableMemory};
use vm_iommu_spec::PhysAddr;

/// A condition on a register or on a word in memory: `value & mask == expected`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Until {
    /// The bits that matter.
    pub mask: u64,
    /// What they have to be; bits outside the mask are clear.
    pub expected: u64,
}

impl Until {
    /// All bits of `mask` are set.
    pub const fn set(mask: u64) -> Self {
        Self {
            mask,
            expected: mask,
        }
    }

    /// All bits of `mask` are clear.
    pub const fn clear(mask: u64) -> Self {
        Self { mask, expected: 0 }
    }

    /// Whether `value` meets the condition.
    pub const fn is_met_by(self, value: u64) -> bool {
        value & self.mask == self.expected
    }
}

/// How often a wait looks before it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpinBudget(pub u32);

/// A wait that used up its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("gave up after {} looks, the last at {last:#x}", budget.0)]
pub struct TimedOut {
    /// How often it looked.
    pub budget: SpinBudget,
    /// What it saw last.
    pub last: u64,
}

/// A driver's connection to a unit: its registers by their offset in bytes, and how to wait for
/// it.
///
/// The waits are part of the connection because what passes the time differs: a processor spins;
/// a bus over an emulated unit gives it a turn in [`relax`](Self::relax); a bus that records a
/// program for another processor records the wait.
pub trait RegisterBus {
    /// Reads the 32-bit register at `offset`.
    fn read32(&self, offset: u16) -> u32;

    /// Reads the 64-bit register at `offset`.
    fn read64(&self, offset: u16) -> u64;

    /// Writes the 32-bit register at `offset`.
    fn write32(&self, offset: u16, value: u32);

    /// Writes the 64-bit register at `offset`.
    fn write64(&self, offset: u16, value: u64);

    /// Passes the time between two looks of a wait.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Reads the 32-bit register at `offset` until the condition is met, and yields what met it.
    ///
    /// # Errors
    /// [`TimedOut`] when the budget is used up.
    fn poll32(&self, offset: u16, until: Until, budget: SpinBudget) -> Result<u32, TimedOut> {
        let mut last = 0;
        for _ in 0..budget.0 {
            last = self.read32(offset);
            if until.is_met_by(u64::from(last)) {
                return Ok(last);
            }
            self.relax();
        }
        Err(TimedOut {
            budget,
            last: u64::from(last),
        })
    }

    /// Loads the 64-bit word at `address`, which the unit writes, until the condition is met, and
    /// yields what met it.
    ///
    /// # Errors
    /// [`WaitError`] when the budget is used up, or the word is not in memory.
    fn poll_memory(
        &self,
        memory: &dyn TableMemory,
        address: PhysAddr,
        until: Until,
        budget: SpinBudget,
    ) -> Result<u64, WaitError> {
        let mut last = 0;
        for _ in 0..budget.0 {
            last = memory.load(address)?;
            if until.is_met_by(last) {
                return Ok(last);
            }
            self.relax();
        }
        Err(TimedOut { budget, last }.into())
    }
}

/// Why a wait for a word in memory failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The budget is used up.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// The word is not in memory.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
}

impl<B: RegisterBus + ?Sized> RegisterBus for &B {
    fn read32(&self, offset: u16) -> u32 {
        (**self).read32(offset)
    }

    fn read64(&self, offset: u16) -> u64 {
        (**self).read64(offset)
    }

    fn write32(&self, offset: u16, value: u32) {
        (**self).write32(offset, value);
    }

    fn write64(&self, offset: u16, value: u64) {
        (**self).write64(offset, value);
    }

    fn relax(&self) {
        (**self).relax();
    }

    fn poll32(&self, offset: u16, until: Until, budget: SpinBudget) -> Result<u32, TimedOut> {
        (**self).poll32(offset, until, budget)
    }

    fn poll_memory(
        &self,
        memory: &dyn TableMemory,
        address: PhysAddr,
        until: Until,
        budget: SpinBudget,
    ) -> Result<u64, WaitError> {
        (**self).poll_memory(memory, address, until, budget)
    }
}
