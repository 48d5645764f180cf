//! Completion of commands, and the invalidation queue (chapter 6).
//!
//! One thread at a time works; whoever finds another at work leaves it a note. What a vCPU's
//! register write sets in motion is done at once if it is little, else by whoever calls
//! [`Vtd::step`]. Nothing is reported complete before the accesses that could still use what was
//! invalidated have ended, and before the interrupt routes were resolved again.

use std::sync::atomic::Ordering;

use vm_iommu_dma::unit::Progress;
use vm_iommu_dma::{Awaited, Drain};
use vm_iommu_pagetable::{BadAddress, TableMemory};
use vm_iommu_spec::vtd::descriptor::{Descriptor, IotlbScope, Wait};
use vm_iommu_spec::vtd::registers::{
    InvalidationStatus, QueueError, QueuePointer, TableMode, offset,
};
use vm_iommu_spec::{MsiMessage, RequesterId};

use crate::context::is_doomed;
use crate::control::{Control, Pending, Queue};
use crate::unit::Vtd;

/// How many descriptors one register write, or one [`Vtd::step`], processes.
const BATCH: usize = 64;
/// How many invalidations of device-TLBs may be without an answer before the queue waits.
const UNANSWERED: usize = 32;

/// What the thread at work keeps between turns.
#[derive(Debug, Default)]
pub(crate) struct Runner {
    /// Commands that were carried out, until older accesses ended.
    pub(crate) command: Option<(Pending, Drain)>,
    /// The wait at the head of the queue, until older accesses ended.
    wait: Option<(Queue, Wait, Drain)>,
    /// Translations or interrupt entries were invalidated since the last drain began.
    undrained: bool,
    /// Interrupt entries were invalidated since routes were last resolved.
    unrouted: bool,
    /// A device-TLB that did not answer; reported at the next wait.
    pub(crate) silent: Option<u16>,
    /// Device-TLBs that were told to invalidate and have not answered, by source id.
    unanswered: Vec<(u16, Awaited)>,
}

/// What became of the head of the queue.
enum Advance {
    /// One descriptor was processed.
    Done,
    /// A wait is held up by accesses in flight.
    Blocked,
    /// Nothing to process.
    Empty,
}

impl Vtd {
    /// Continues what register writes left over: commands and waits that were held up by accesses
    /// in flight, and the rest of a long invalidation queue. Does a bounded amount of work and
    /// does not block.
    pub fn step(&self) -> Progress {
        self.work()
    }

    /// Works until nothing is left, the batch is used up, or something is held up.
    pub(crate) fn work(&self) -> Progress {
        let mut budget = BATCH;
        self.worker
            .work(BATCH, |runner| self.turn(runner, &mut budget))
    }

    /// Says that the time is over for the device-TLBs that have not yet answered: the unit gives
    /// up waiting, and the guest sees an invalidation time-out error (ITE of FSTS_REG). How long
    /// to wait is the embedder's affair; PCI Express gives a device a minute.
    pub fn expire_device_tlbs(&self) -> Progress {
        self.device_tlbs_expired.store(true, Ordering::SeqCst);
        let progress = self.work();
        if progress == Progress::Pending {
            self.worker.wake();
        }
        progress
    }

    /// Forgets device-TLBs that answered, and gives up the others if their time is over.
    fn look_at_device_tlbs(&self, runner: &mut Runner) {
        let expired = self.device_tlbs_expired.swap(false, Ordering::SeqCst);
        for (source, awaited) in std::mem::take(&mut runner.unanswered) {
            if awaited.is_answered() {
                continue;
            }
            if expired {
                awaited.abandon();
                runner.silent = Some(source);
            } else {
                runner.unanswered.push((source, awaited));
            }
        }
    }

    fn turn(&self, runner: &mut Runner, budget: &mut usize) -> Progress {
        self.look_at_device_tlbs(runner);
        loop {
            if let Some((_, drain)) = &mut runner.command {
                if !drain.is_complete_soon() {
                    return Progress::Pending;
                }
                if let Some((pending, _)) = runner.command.take() {
                    self.complete(&pending);
                }
                continue;
            }
            if *budget == 0 {
                return Progress::Pending;
            }
            let pending = std::mem::take(&mut self.control().pending);
            if !pending.is_empty() {
                *budget -= 1;
                self.apply(&pending);
                runner.command = Some((pending, self.epochs.drain()));
                continue;
            }
            match self.advance(runner, budget) {
                Advance::Done => {}
                Advance::Blocked => return Progress::Pending,
                Advance::Empty => return Progress::Idle,
            }
        }
    }

    /// Drops cached translations, and the tables on the way to them: these first, so that a walk
    /// that began at one is not cached.
    pub(crate) fn invalidate_iotlb(&self, scope: &IotlbScope) {
        match scope {
            IotlbScope::Global => {
                self.walk_cache.invalidate_all();
                self.iotlb.invalidate_all();
            }
            IotlbScope::Domain(domain) => {
                for (_, tag) in self.contexts.tags_of(*domain) {
                    self.iotlb.invalidate_tag(&tag);
                }
            }
            IotlbScope::Pages {
                domain,
                range,
                leaves_only,
            } => {
                let (first, last) = (*range.start(), *range.end());
                for (_, tag) in self.contexts.tags_of(*domain) {
                    if !leaves_only {
                        self.walk_cache.invalidate_range(&tag, first, last);
                    }
                    self.iotlb.invalidate_range(&tag, first, last);
                }
            }
        }
    }

    /// Processes the descriptor at the head of the queue (section 6.5.2).
    fn advance(&self, runner: &mut Runner, budget: &mut usize) -> Advance {
        if let Some((_, _, drain)) = &mut runner.wait {
            if !drain.is_complete_soon() {
                return Advance::Blocked;
            }
            if let Some((queue, wait, _)) = runner.wait.take() {
                match runner.silent.take() {
                    Some(source) => self.abort_wait(queue, source),
                    None => self.complete_wait(queue, wait),
                }
            }
            return Advance::Done;
        }
        let Some((queue, head)) = self.next_descriptor(runner) else {
            return Advance::Empty;
        };
        if runner.unanswered.len() >= UNANSWERED {
            self.look_at_device_tlbs(runner);
        }
        if *budget == 0 || runner.unanswered.len() >= UNANSWERED {
            return Advance::Blocked;
        }
        *budget -= 1;
        match self.fetch(queue, head) {
            Err(error) => {
                let event = self.on_queue(queue, |control| control.queue_error(error));
                if self.queue_log.allows() {
                    log::warn!("VT-d: invalidation queue stopped at {head:#x}: {error}");
                }
                self.send(event.flatten());
            }
            Ok(Descriptor::Wait(wait)) => return self.begin_wait(runner, queue, wait),
            Ok(descriptor) => {
                self.invalidate(runner, &descriptor);
                self.on_queue(queue, |control| control.advance_head(queue));
            }
        }
        Advance::Done
    }

    /// Where the next descriptor is, if the queue is running and has one.
    fn next_descriptor(&self, runner: &mut Runner) -> Option<(Queue, u32)> {
        let mut control = self.control();
        let queue = control.queue?;
        let status = control.fault_status();
        if status.queue_error() || status.timeout_error() {
            return None;
        }
        let head = control.queue_pointer(offset::IQH);
        let tail = control.queue_pointer(offset::IQT);
        if head == tail {
            if runner.undrained {
                // Nobody asked to be told, but nothing stale is used for long either.
                self.epochs.renew();
            }
            // No wait follows that would report it.
            let silent = runner.silent.take()?;
            let event = control.timeout_error(silent);
            drop(control);
            self.send(event);
            return None;
        }
        let error = if queue.address.wide() {
            QueueError::InvalidWidth
        } else if tail >= queue.address.bytes() {
            QueueError::InvalidTail
        } else if control.snapshot.root.mode() == TableMode::Reserved {
            QueueError::InvalidMode
        } else {
            return Some((queue, head));
        };
        let event = control.queue_error(error);
        drop(control);
        if self.queue_log.allows() {
            log::warn!("VT-d: invalidation queue stopped: {error}");
        }
        self.send(event);
        None
    }

    fn fetch(&self, queue: Queue, head: u32) -> Result<Descriptor, QueueError> {
        let place = queue
            .address
            .address()
            .checked_add(u64::from(head))
            .ok_or(QueueError::Fetch)?;
        let upper = place.checked_add(8).ok_or(QueueError::Fetch)?;
        let words = self
            .ram
            .tables(|tables| Ok((tables.load(place)?, tables.load(upper)?)));
        let (low, high) = words.map_err(|_: BadAddress| QueueError::Fetch)?;
        Descriptor::decode(low, high, &self.descriptor_rules)
    }

    fn invalidate(&self, runner: &mut Runner, descriptor: &Descriptor) {
        match descriptor {
            Descriptor::Context(scope) => {
                self.contexts
                    .invalidate(|owner, space| is_doomed(*scope, owner, space));
                runner.undrained = true;
            }
            Descriptor::Iotlb(scope) => {
                self.invalidate_iotlb(scope);
                runner.undrained = true;
            }
            Descriptor::InterruptEntry(range) => {
                self.irtes
                    .invalidate(|index| range.is_none_or(|range| range.contains(index)));
                runner.unrouted = true;
                // An interrupt that a device raises within an epoch is an access in flight too.
                runner.undrained = true;
            }
            Descriptor::DeviceTlb { source, range } => {
                match self.device_tlb(*source) {
                    Some(device) => {
                        let requester = RequesterId::from_source_id(self.config.segment, *source);
                        let (done, awaited) = self.epochs.acknowledgement();
                        device.invalidate(requester, None, range.clone(), done);
                        if !awaited.is_answered() {
                            runner.unanswered.push((*source, awaited));
                        }
                    }
                    None => runner.silent = Some(*source),
                }
                runner.undrained = true;
            }
            Descriptor::Wait(_) => {}
        }
    }

    fn begin_wait(&self, runner: &mut Runner, queue: Queue, wait: Wait) -> Advance {
        if let Some(source) = runner.silent.take() {
            self.abort_wait(queue, source);
            return Advance::Done;
        }
        if std::mem::take(&mut runner.unrouted) {
            self.routes.refresh();
        }
        let undrained = std::mem::take(&mut runner.undrained);
        if undrained && self.config.drain {
            runner.wait = Some((queue, wait, self.epochs.drain()));
            return Advance::Done;
        }
        if undrained {
            self.epochs.renew();
        }
        self.complete_wait(queue, wait);
        Advance::Done
    }

    /// Discards a wait: nothing tells its software but the error.
    fn abort_wait(&self, queue: Queue, source: u16) {
        let event = self.on_queue(queue, |control| {
            control.advance_head(queue);
            control.timeout_error(source)
        });
        if self.queue_log.allows() {
            log::warn!("VT-d: device-TLB of source id {source:#06x} did not answer");
        }
        self.send(event.flatten());
    }

    /// Writes the status, then raises the event, then moves the head (section 6.5.2.8).
    fn complete_wait(&self, queue: Queue, wait: Wait) {
        // A queue that was disabled meanwhile completes nothing.
        if self.control().queue != Some(queue) {
            return;
        }
        if let Some((place, data)) = wait.status
            && self.ram.store_u32(place, data).is_err()
        {
            let event = self.on_queue(queue, |control| {
                control.queue_error(QueueError::Unspecified)
            });
            if self.queue_log.allows() {
                log::warn!("VT-d: no memory at {place} to write the status of a wait to");
            }
            self.send(event.flatten());
            return;
        }
        let event = self.on_queue(queue, |control| {
            control.advance_head(queue);
            wait.interrupt.then(|| control.wait_complete()).flatten()
        });
        self.send(event.flatten());
    }

    /// Runs `then` on the registers, if `queue` is still the one that is enabled.
    fn on_queue<T>(&self, queue: Queue, then: impl FnOnce(&mut Control) -> T) -> Option<T> {
        let mut control = self.control();
        (control.queue == Some(queue)).then(|| then(&mut control))
    }
}

impl Control {
    /// The offset in bytes that IQH_REG or IQT_REG holds.
    fn queue_pointer(&self, register: u16) -> u32 {
        QueuePointer::from_bits(self.file.get(register)).offset()
    }

    /// Moves the head past one descriptor, around the end of the queue.
    fn advance_head(&mut self, queue: Queue) {
        let head = (self.queue_pointer(offset::IQH) + 16) % queue.address.bytes();
        self.file.set(offset::IQH, u64::from(head));
    }

    /// ICS_REG and the invalidation event (section 6.5.2.8): no further event while IWC is set.
    fn wait_complete(&mut self) -> Option<MsiMessage> {
        let status = InvalidationStatus::from_bits(self.file.get(offset::ICS) as u32);
        if status.wait_complete() {
            return None;
        }
        let status = status.with_wait_complete(true);
        self.file.set(offset::ICS, u64::from(status.into_bits()));
        self.raise_event(offset::IECTL)
    }
}
