//! The command buffer (section 2.4).

use core::ops::RangeInclusive;

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::command::raw;
use vm_iommu_spec::amd::registers::{RingBase, Status, offset};
use vm_iommu_spec::{DomainId, Iova, PhysAddr, RequesterId};

use super::link::Link;
use super::{Error, Wait};
use crate::{RegisterBus, SpinBudget, Until, WaitError};

/// Into how many parts a wait is divided, between which the driver looks whether the unit stopped.
const PARTS: u32 = 64;

/// A command to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command([u64; 2]);

impl Command {
    /// What is cached of one device table entry.
    pub(super) fn device(requester: RequesterId) -> Self {
        let low = raw::InvalidateDevice::new().with_device(requester.source_id());
        Self([low.into_bits(), 0])
    }

    /// What is cached of one device's interrupt remapping table.
    pub(super) fn interrupts(requester: RequesterId) -> Self {
        let low = raw::InvalidateDevice::new()
            .with_device(requester.source_id())
            .with_opcode(raw::INVALIDATE_INTERRUPT_TABLE);
        Self([low.into_bits(), 0])
    }

    /// All translations of a domain, guest ones included.
    pub(super) fn domain(domain: DomainId) -> Self {
        Self::pages(domain, false, &(Iova(0)..=Iova(u64::MAX)), true)
    }

    /// The translations of a range in a domain; if `guest`, those of guest tables that requests
    /// without PASID use. `directories` says that entries that point to tables changed.
    pub(super) fn pages(
        domain: DomainId,
        guest: bool,
        range: &RangeInclusive<Iova>,
        directories: bool,
    ) -> Self {
        let low = raw::InvalidatePages::new().with_domain(domain.0);
        let high = raw::PageSelector::of_range(range)
            .with_guest(guest)
            .with_directories(directories);
        Self([low.into_bits(), high.into_bits()])
    }

    /// Everything.
    pub(super) fn all() -> Self {
        Self([raw::InvalidateAll::new().into_bits(), 0])
    }

    fn completion_wait(place: PhysAddr, data: u64) -> Self {
        let low = raw::CompletionWait::new()
            .with_store(true)
            .with_address(place);
        Self([low.into_bits(), data])
    }
}

/// The command buffer in memory. The driver waits after each batch, so that the buffer is empty
/// between two.
#[derive(Debug)]
pub(super) struct CommandBuffer {
    base: PhysAddr,
    length: u8,
    /// Where the next command goes, as an index.
    tail: u32,
    /// The word that completion waits store to.
    semaphore: PhysAddr,
    /// What the last one stored there.
    sequence: u64,
}

impl CommandBuffer {
    /// A buffer of `1 << length` commands at `base`, 8 to 15; `semaphore` is a zeroed word.
    pub(super) fn new(base: PhysAddr, length: u8, semaphore: PhysAddr) -> Self {
        Self {
            base,
            length,
            tail: 0,
            semaphore,
            sequence: 0,
        }
    }

    /// Makes it the unit's command buffer.
    pub(super) fn enable<B: RegisterBus, M: TableMemory>(&mut self, link: &mut Link<B, M>) {
        let base = RingBase::new()
            .with_address(self.base)
            .with_length(self.length);
        link.bus.write64(offset::COMMAND_BUFFER, base.into_bits());
        self.restart(link);
    }

    /// Has the unit carry out commands, and waits until it has.
    pub(super) fn submit<B: RegisterBus, M: TableMemory>(
        &mut self,
        link: &mut Link<B, M>,
        commands: &[Command],
    ) -> Result<(), Error> {
        let batch = (self.entries() / 2) as usize;
        for commands in commands.chunks(batch) {
            for command in commands {
                self.push(link, *command)?;
            }
            self.sequence = self.sequence.wrapping_add(1);
            self.push(
                link,
                Command::completion_wait(self.semaphore, self.sequence),
            )?;
            // The buffer is at most 2^19 bytes long.
            let tail = u64::from(self.tail) * raw::SIZE;
            link.bus.write32(offset::COMMAND_TAIL, tail as u32);
            self.wait(link)?;
        }
        Ok(())
    }

    /// 256 to 32768.
    fn entries(&self) -> u32 {
        1 << self.length
    }

    fn restart<B: RegisterBus, M: TableMemory>(&mut self, link: &mut Link<B, M>) {
        link.reset_ring(offset::COMMAND_HEAD, offset::COMMAND_TAIL);
        self.tail = 0;
        link.set_control(|control| control.with_command_buffer(true));
    }

    fn push<M: TableMemory, B>(
        &mut self,
        link: &Link<B, M>,
        Command([low, high]): Command,
    ) -> Result<(), Error> {
        let place = PhysAddr(self.base.0 + u64::from(self.tail) * raw::SIZE);
        link.memory.store(place, low)?;
        link.memory.store(PhysAddr(place.0 + 8), high)?;
        self.tail = (self.tail + 1) % self.entries();
        Ok(())
    }

    fn wait<B: RegisterBus, M: TableMemory>(&mut self, link: &mut Link<B, M>) -> Result<(), Error> {
        let mut left = link.budget.0;
        loop {
            let part = SpinBudget(left.min((link.budget.0 / PARTS).max(1)));
            left -= part.0;
            let until = Until {
                mask: u64::MAX,
                expected: self.sequence,
            };
            let looked = link
                .bus
                .poll_memory(&link.memory, self.semaphore, until, part);
            match looked {
                Ok(_) => return Ok(()),
                Err(WaitError::BadAddress(error)) => return Err(error.into()),
                Err(WaitError::TimedOut(mut source)) => {
                    let status = Status::from_bits_retain(link.bus.read64(offset::STATUS));
                    if !status.contains(Status::COMMAND_RUN) {
                        return Err(self.recover(link)?);
                    }
                    if left == 0 {
                        source.budget = link.budget;
                        let wait = Wait::Commands;
                        return Err(Error::Stuck { wait, source });
                    }
                }
            }
        }
    }

    /// Empties the buffer after the unit stopped at a command, starts it again, and yields which
    /// command it was (section 2.4.9).
    fn recover<B: RegisterBus, M: TableMemory>(
        &mut self,
        link: &mut Link<B, M>,
    ) -> Result<Error, Error> {
        let head = link.bus.read32(offset::COMMAND_HEAD);
        link.set_control(|control| control.with_command_buffer(false));
        link.wait_stopped(Status::COMMAND_RUN, Wait::CommandsStopped)?;
        self.restart(link);
        let address = PhysAddr(self.base.0.saturating_add(head.into()));
        Ok(Error::Command { address })
    }
}
