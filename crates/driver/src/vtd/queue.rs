//! The invalidation queue (section 6.5.2).

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::descriptor::raw;
use vm_iommu_spec::vtd::registers::{
    FaultStatus, GlobalBits, Granularity, InvalidateAddress, QueueAddress, QueueErrorRecord,
    QueuePointer, offset,
};
use vm_iommu_spec::{DomainId, Iova, PhysAddr, RequesterId};

use super::link::Link;
use super::{Error, InterruptIndex, Wait};
use crate::{RegisterBus, SpinBudget, Until, WaitError};

/// Size of a descriptor in bytes.
const DESCRIPTOR: u64 = 16;

/// Into how many parts a wait is divided, between which the driver looks for errors.
const PARTS: u32 = 64;

/// A descriptor to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor([u64; 2]);

impl Descriptor {
    /// The whole context cache.
    pub(super) fn all_contexts() -> Self {
        Self::of_context(raw::ContextInvalidate::new().with_granularity(Granularity::Global))
    }

    /// What is cached of one requester's context entry. `domain` is the one that the entry named.
    pub(super) fn context(requester: RequesterId, domain: DomainId) -> Self {
        Self::of_context(
            raw::ContextInvalidate::new()
                .with_granularity(Granularity::Selective)
                .with_domain(domain.0)
                .with_source(requester.source_id()),
        )
    }

    fn of_context(low: raw::ContextInvalidate) -> Self {
        Self([low.into_bits(), 0])
    }

    /// All translations.
    pub(super) fn all_translations() -> Self {
        Self::of_iotlb(Granularity::Global, DomainId(0), InvalidateAddress::new())
    }

    /// All translations of a domain.
    pub(super) fn domain(domain: DomainId) -> Self {
        Self::of_iotlb(Granularity::Domain, domain, InvalidateAddress::new())
    }

    /// The translations of `2^mask` pages of a domain. `leaves_only` promises that no entry that
    /// points to a table was changed.
    pub(super) fn pages(domain: DomainId, page: Iova, mask: u8, leaves_only: bool) -> Self {
        let address = InvalidateAddress::new()
            .with_address(page)
            .with_address_mask(mask)
            .with_hint(leaves_only);
        Self::of_iotlb(Granularity::Selective, domain, address)
    }

    fn of_iotlb(granularity: Granularity, domain: DomainId, address: InvalidateAddress) -> Self {
        let low = raw::IotlbInvalidate::new()
            .with_granularity(granularity)
            .with_drain_reads(true)
            .with_drain_writes(true)
            .with_domain(domain.0);
        Self([low.into_bits(), address.into_bits()])
    }

    /// The whole interrupt entry cache.
    pub(super) fn all_interrupts() -> Self {
        Self([raw::InterruptEntryInvalidate::new().into_bits(), 0])
    }

    /// What is cached of one interrupt remapping entry.
    pub(super) fn interrupt(index: InterruptIndex) -> Self {
        let low = raw::InterruptEntryInvalidate::new()
            .with_selective(true)
            .with_index(index.0);
        Self([low.into_bits(), 0])
    }
}

/// The queue in memory. The driver waits for each descriptor, so that the queue is empty between
/// two.
#[derive(Debug)]
pub(super) struct Queue {
    base: PhysAddr,
    size: u8,
    /// Where the next descriptor goes, as an index.
    tail: u16,
    /// The word that wait descriptors write.
    status: PhysAddr,
    /// What the last one wrote there.
    sequence: u32,
}

impl Queue {
    /// The largest QS field.
    pub(super) const MAX_SIZE: u8 = 7;

    /// A queue of `1 << size` zeroed pages at `base`; `status` is a zeroed 64-bit word.
    pub(super) fn new(base: PhysAddr, size: u8, status: PhysAddr) -> Self {
        Self {
            base,
            size,
            tail: 0,
            status,
            sequence: 0,
        }
    }

    /// Makes it the unit's queue.
    pub(super) fn enable<B: RegisterBus, M: TableMemory>(
        &self,
        link: &mut Link<B, M>,
    ) -> Result<(), Error> {
        let address = QueueAddress::new()
            .with_address(self.base)
            .with_size(self.size);
        link.bus.write32(offset::IQT, 0);
        link.bus.write64(offset::IQA, address.into_bits());
        link.command(GlobalBits::QUEUED_INVALIDATION)
    }

    /// Queues a descriptor and waits until the unit has done what it says. A unit may work on
    /// several descriptors at once, so what depends on an invalidation waits for it.
    pub(super) fn submit<B: RegisterBus, M: TableMemory>(
        &mut self,
        link: &Link<B, M>,
        descriptor: Descriptor,
    ) -> Result<(), Error> {
        self.push(link, descriptor)?;
        self.sequence = self.sequence.wrapping_add(1);
        let wait = raw::Wait::new()
            .with_status_write(true)
            .with_status_data(self.sequence);
        self.push(link, Descriptor([wait.into_bits(), self.status.0]))?;
        let tail = QueuePointer::new().with_index(self.tail);
        // The queue is at most 2^19 bytes long.
        link.bus.write32(offset::IQT, tail.into_bits() as u32);
        self.wait(link)
    }

    /// 256 to 32768.
    fn entries(&self) -> u16 {
        256 << self.size
    }

    fn push<M: TableMemory, B>(
        &mut self,
        link: &Link<B, M>,
        Descriptor([low, high]): Descriptor,
    ) -> Result<(), Error> {
        let place = PhysAddr(self.base.0 + u64::from(self.tail) * DESCRIPTOR);
        link.memory.store(PhysAddr(place.0 + 8), high)?;
        link.memory.store(place, low)?;
        self.tail = (self.tail + 1) % self.entries();
        Ok(())
    }

    fn wait<B: RegisterBus, M: TableMemory>(&self, link: &Link<B, M>) -> Result<(), Error> {
        let mut left = link.budget.0;
        loop {
            let part = SpinBudget(left.min((link.budget.0 / PARTS).max(1)));
            left -= part.0;
            match self.look(link, part) {
                Ok(_) => return Ok(()),
                Err(WaitError::BadAddress(error)) => return Err(error.into()),
                Err(WaitError::TimedOut(mut source)) => {
                    let status = FaultStatus::from_bits(link.bus.read32(offset::FSTS));
                    if status.queue_error() {
                        return Err(self.skip_refused(link)?);
                    }
                    if left == 0 {
                        source.budget = link.budget;
                        let wait = Wait::Invalidations;
                        return Err(Error::Stuck { wait, source });
                    }
                }
            }
        }
    }

    fn look<B: RegisterBus, M: TableMemory>(
        &self,
        link: &Link<B, M>,
        budget: SpinBudget,
    ) -> Result<u64, WaitError> {
        let until = Until {
            mask: u64::from(u32::MAX),
            expected: u64::from(self.sequence),
        };
        link.bus
            .poll_memory(&link.memory, self.status, until, budget)
    }

    /// Puts a wait that does nothing in place of the descriptor at which the unit stopped, lets
    /// it go on, and yields why it had stopped.
    fn skip_refused<B: RegisterBus, M: TableMemory>(
        &self,
        link: &Link<B, M>,
    ) -> Result<Error, Error> {
        let record = QueueErrorRecord::from_bits(link.bus.read64(offset::IQERCD));
        let head = QueuePointer::from_bits(link.bus.read64(offset::IQH));
        let refused = Error::Queue {
            index: head.index(),
            error: record.error(),
        };
        if head.index() < self.entries() {
            let place = PhysAddr(self.base.0 + u64::from(head.offset()));
            link.memory.store(PhysAddr(place.0 + 8), 0)?;
            link.memory.store(place, raw::Wait::new().into_bits())?;
        }
        let clear = FaultStatus::new().with_queue_error(true);
        link.bus.write32(offset::FSTS, clear.into_bits());
        match self.look(link, link.budget) {
            Ok(_) => Ok(refused),
            Err(WaitError::BadAddress(error)) => Err(error.into()),
            Err(WaitError::TimedOut(_)) => Ok(refused),
        }
    }
}
