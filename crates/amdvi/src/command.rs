//! The command processor (section 2.4).
//!
//! One thread at a time works; whoever finds another at work leaves it a note. What a vCPU's
//! register write sets in motion is done at once if it is little, else by whoever calls
//! [`AmdVi::step`]. No completion is reported before the accesses that could still use what was
//! invalidated have ended, and before the interrupt routes were resolved again.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;

use vm_iommu_dma::unit::{Progress, lock};
use vm_iommu_dma::{Awaited, Drain, Space};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::command::{Command, CompletionWait, raw};
use vm_iommu_spec::amd::registers::{Status, offset};
use vm_iommu_spec::amd::{Event, PprResponse};
use vm_iommu_spec::{DomainId, Iova, Pasid, PhysAddr, RequesterId};

use crate::control::{CommandBuffer, Control, Pending, Signals};
use crate::device_table::{DteLookup, Owner};
use crate::event::command_hardware;
use crate::translate::{Binding, Stage};
use crate::unit::AmdVi;

/// How many commands one register write, or one [`AmdVi::step`], processes.
const BATCH: usize = 64;
/// How many invalidations of device-TLBs may be without an answer before the processor waits.
pub(crate) const UNANSWERED: usize = 32;

/// What the thread at work keeps between turns.
#[derive(Debug, Default)]
pub(crate) struct Runner {
    /// Changes of registers that were carried out, until older accesses ended.
    applied: Option<Drain>,
    /// The wait at the head of the buffer, until older accesses ended.
    wait: Option<(CommandBuffer, CompletionWait, Drain)>,
    /// Translations or interrupt entries were invalidated since the last drain began.
    undrained: bool,
    /// Interrupt entries were invalidated since routes were last resolved.
    unrouted: bool,
    /// Device-TLBs that were told to invalidate and have not answered.
    unanswered: Vec<(TlbInvalidation, Awaited)>,
    /// Invalidations of device-TLBs that a restored unit has to ask for again.
    unsent: Vec<TlbInvalidation>,
}

/// What a device-TLB was told to drop.
#[derive(Clone, Debug)]
pub(crate) struct TlbInvalidation {
    pub(crate) device: u16,
    /// Where the command was.
    pub(crate) place: PhysAddr,
    pub(crate) pasid: Option<Pasid>,
    pub(crate) range: RangeInclusive<Iova>,
}

impl Runner {
    /// A unit that begins with device-TLBs that did not answer before it was saved.
    pub(crate) fn restored(unsent: Vec<TlbInvalidation>) -> Self {
        Self {
            unsent,
            ..Self::default()
        }
    }

    /// The device-TLBs that have yet to answer.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = &TlbInvalidation> {
        let asked = self.unanswered.iter();
        asked
            .filter(|(_, awaited)| !awaited.is_answered())
            .map(|(invalidation, _)| invalidation)
            .chain(&self.unsent)
    }
}

/// What became of the head of the buffer.
enum Advance {
    /// One command was processed.
    Done,
    /// A wait is held up by accesses in flight.
    Blocked,
    /// Nothing to process.
    Empty,
}

impl AmdVi {
    /// Continues what register writes left over: waits that were held up by accesses in flight,
    /// and the rest of a long command buffer. Does a bounded amount of work and does not block.
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
    /// up waiting, and logs IOTLB_INV_TIMEOUT. How long the guest wants to wait is InvTimeOut of
    /// the control register; the clock is the embedder's.
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
        for (invalidation, awaited) in std::mem::take(&mut runner.unanswered) {
            if awaited.is_answered() {
                continue;
            }
            if expired {
                awaited.abandon();
                self.log_event(&invalidation.timeout());
            } else {
                runner.unanswered.push((invalidation, awaited));
            }
        }
    }

    fn turn(&self, runner: &mut Runner, budget: &mut usize) -> Progress {
        for invalidation in std::mem::take(&mut runner.unsent) {
            self.invalidate_device_tlb(runner, invalidation);
        }
        self.look_at_device_tlbs(runner);
        loop {
            if let Some(drain) = &mut runner.applied {
                if !drain.is_complete_soon() {
                    return Progress::Pending;
                }
                runner.applied = None;
                continue;
            }
            if *budget == 0 {
                return Progress::Pending;
            }
            let pending = std::mem::take(&mut self.control().pending);
            if !pending.is_empty() {
                *budget -= 1;
                self.apply(pending);
                runner.applied = Some(self.epochs.drain());
                continue;
            }
            match self.advance(runner, budget) {
                Advance::Done => {}
                Advance::Blocked => return Progress::Pending,
                Advance::Empty => return Progress::Idle,
            }
        }
    }

    /// Drops what rests on registers that changed.
    fn apply(&self, pending: Pending) {
        if pending.translation {
            self.drop_translations();
        }
        if pending.interrupts {
            self.drop_interrupts();
            self.routes.refresh();
        }
    }

    /// Processes the command at the head of the buffer.
    fn advance(&self, runner: &mut Runner, budget: &mut usize) -> Advance {
        if let Some((_, _, drain)) = &mut runner.wait {
            if !drain.is_complete_soon() {
                return Advance::Blocked;
            }
            if let Some((commands, wait, _)) = runner.wait.take() {
                self.complete_wait(commands, wait);
            }
            return Advance::Done;
        }
        let Some((commands, place)) = self.next_command() else {
            // Nobody asked to be told, but nothing stale is used for long either.
            if std::mem::take(&mut runner.unrouted) {
                self.routes.refresh();
            }
            if runner.undrained {
                self.epochs.renew();
            }
            return Advance::Empty;
        };
        if runner.unanswered.len() >= UNANSWERED {
            self.look_at_device_tlbs(runner);
        }
        if *budget == 0 || runner.unanswered.len() >= UNANSWERED {
            return Advance::Blocked;
        }
        *budget -= 1;
        let words = place
            .checked_add(8)
            .and_then(|upper| self.ram.load(place).ok().zip(self.ram.load(upper).ok()));
        let Some((low, high)) = words else {
            self.stop(commands, &command_hardware(place));
            return Advance::Done;
        };
        match Command::decode(low, high, &self.command_rules) {
            Err(error) => {
                if self.command_log.allows() {
                    log::warn!("AMD-Vi: commands stopped at {place}: {error}");
                }
                self.stop(commands, &Event::IllegalCommand { address: place });
            }
            Ok(Command::CompletionWait(wait)) => return self.begin_wait(runner, commands, wait),
            Ok(command) => {
                self.invalidate(runner, &command, place);
                self.on_buffer(commands, |control| control.advance_head(commands));
            }
        }
        Advance::Done
    }

    /// Where the next command is, if the processor runs and has one. A head or tail beyond the
    /// buffer, or a reserved length of it, is an illegal command where the head points.
    fn next_command(&self) -> Option<(CommandBuffer, PhysAddr)> {
        let mut control = self.control();
        let commands = control.commands?;
        let head = control.file.get(offset::COMMAND_HEAD);
        let tail = control.file.get(offset::COMMAND_TAIL);
        if head == tail {
            return None;
        }
        let bytes = commands
            .base
            .entries()
            .map(|entries| u64::from(entries) * raw::SIZE);
        let place = commands.base.address().checked_add(head);
        let valid = bytes.is_some_and(|bytes| head < bytes && tail < bytes);
        if let (true, Some(place)) = (valid, place) {
            return Some((commands, place));
        }
        let address = place.unwrap_or_default();
        let signals = control.stop_commands(&self.ram, &Event::IllegalCommand { address });
        drop(control);
        if self.command_log.allows() {
            log::warn!("AMD-Vi: commands stopped: head {head:#x} or tail {tail:#x} out of bounds");
        }
        self.send(signals);
        None
    }

    fn invalidate(&self, runner: &mut Runner, command: &Command, place: PhysAddr) {
        match command {
            Command::InvalidateDeviceTableEntry { device } => {
                self.devices
                    .invalidate(|owner, _| matches!(owner, Owner::Device(id, _) if id == *device));
                self.sources.invalidate(|id| id == *device);
                // What was read in the table that the entry named is none of another table's.
                self.irtes.invalidate(|key| key.device == *device);
                lock(&self.suppressed).remove(device);
                runner.unrouted = true;
                runner.undrained = true;
            }
            Command::InvalidatePages {
                domain,
                pasid,
                range,
                directories,
            } => {
                self.invalidate_pages(
                    *domain,
                    *pasid,
                    (*range.start(), *range.end()),
                    *directories,
                );
                runner.undrained = true;
            }
            Command::InvalidateDeviceTlb {
                device,
                pasid,
                range,
                ..
            } => {
                let invalidation = TlbInvalidation {
                    device: *device,
                    place,
                    pasid: *pasid,
                    range: range.clone(),
                };
                self.invalidate_device_tlb(runner, invalidation);
            }
            Command::InvalidateInterruptTable { device } => {
                self.irtes.invalidate(|key| key.device == *device);
                runner.unrouted = true;
                // An interrupt that a device raises within an epoch is an access in flight too.
                runner.undrained = true;
            }
            Command::InvalidateAll => {
                self.drop_translations();
                self.drop_interrupts();
                runner.unrouted = true;
                runner.undrained = true;
            }
            Command::Prefetch {
                device,
                pasid,
                range,
                invalidate: true,
            } => {
                if let Some(domain) = self.domain_of(*device) {
                    let range = (*range.start(), *range.end());
                    self.invalidate_pages(domain, *pasid, range, true);
                    runner.undrained = true;
                }
            }
            Command::CompletePpr { device, pasid, tag } => self.complete_ppr(PprResponse {
                requester: RequesterId::from_source_id(self.config.segment, *device),
                pasid: *pasid,
                group: tag & 0x1ff,
                code: (tag >> 12) as u8,
            }),
            Command::Prefetch { .. } | Command::CompletionWait(_) => {}
        }
    }

    /// INVALIDATE_IOTLB_PAGES (section 2.4.4).
    fn invalidate_device_tlb(&self, runner: &mut Runner, invalidation: TlbInvalidation) {
        let device = invalidation.device;
        match self.device_tlb(device) {
            Some(tlb) => {
                let requester = RequesterId::from_source_id(self.config.segment, device);
                let (done, awaited) = self.epochs.acknowledgement();
                let range = invalidation.range.clone();
                tlb.invalidate(requester, invalidation.pasid, range, done);
                if !awaited.is_answered() {
                    runner.unanswered.push((invalidation, awaited));
                }
            }
            None => self.log_event(&invalidation.timeout()),
        }
        runner.undrained = true;
    }

    /// INVALIDATE_IOMMU_PAGES (section 2.4.3). Tables are dropped before pages, so that a walk
    /// that began at one is not cached.
    fn invalidate_pages(
        &self,
        domain: DomainId,
        pasid: Option<Pasid>,
        (first, last): (Iova, Iova),
        directories: bool,
    ) {
        let everything = first.0 == 0 && last.0 == u64::MAX;
        for (kind, tag) in self.devices.tags_of(domain) {
            let whole = match pasid {
                Some(pasid) if kind.pasid() != Some(pasid) => continue,
                Some(_) => everything,
                // What host tables translate, all nested translations may rest on.
                None if kind.is_nested() => true,
                None if kind.pasid().is_some_and(|pasid| pasid.raw() != 0) => continue,
                // Guest tables of PASID 0 translate requests without PASID, whose addresses these
                // are: Linux 6.1 names no PASID when it changes such tables.
                None => everything,
            };
            if whole {
                self.iotlb.invalidate_tag(&tag);
                continue;
            }
            if directories {
                self.walk_cache.invalidate_range(&tag, first, last);
            }
            self.iotlb.invalidate_range(&tag, first, last);
        }
        // Spaces hold what guest CR3 tables say, which may have changed with all that is below,
        // and where host tables had them.
        if everything && pasid.is_some() || pasid.is_none() {
            self.devices
                .invalidate(|_, space| space.domain() == domain && is_doomed(space, pasid));
        }
    }

    /// The domain that the device table gives `device`, if it is valid.
    fn domain_of(&self, device: u16) -> Option<DomainId> {
        let snapshot = self.snapshot();
        let lookup = DteLookup::new(&self.ram, &self.config, &snapshot, device);
        let entry = lookup.entry.ok()?;
        let device = entry.check_dma(&self.dte_rules(&snapshot)).ok()??;
        Some(device.domain)
    }

    fn begin_wait(
        &self,
        runner: &mut Runner,
        commands: CommandBuffer,
        wait: CompletionWait,
    ) -> Advance {
        if std::mem::take(&mut runner.unrouted) {
            self.routes.refresh();
        }
        let undrained = std::mem::take(&mut runner.undrained);
        if undrained && self.config.drain {
            runner.wait = Some((commands, wait, self.epochs.drain()));
            return Advance::Done;
        }
        if undrained {
            self.epochs.renew();
        }
        self.complete_wait(commands, wait);
        Advance::Done
    }

    /// Stores the data, then moves the head and raises the interrupt (section 2.4.1).
    fn complete_wait(&self, commands: CommandBuffer, wait: CompletionWait) {
        // A buffer that was disabled meanwhile completes nothing.
        if !self.is_running(commands) {
            return;
        }
        if let Some((place, data)) = wait.store
            && self.ram.store(place, data).is_err()
        {
            if self.command_log.allows() {
                log::warn!("AMD-Vi: no memory at {place} to store the data of a wait to");
            }
            return self.stop(commands, &command_hardware(place));
        }
        let signals = self.on_buffer(commands, |control| {
            control.advance_head(commands);
            if wait.interrupt {
                control.set_status(control.status() | Status::COMPLETION_WAIT_INTERRUPT);
            }
            control.signals()
        });
        self.send(signals.unwrap_or_default());
    }

    /// Stops the processor at an error, if `commands` is still the buffer that is enabled.
    fn stop(&self, commands: CommandBuffer, event: &Event) {
        let signals: Option<Signals> =
            self.on_buffer(commands, |control| control.stop_commands(&self.ram, event));
        self.send(signals.unwrap_or_default());
    }

    fn is_running(&self, commands: CommandBuffer) -> bool {
        self.control().commands == Some(commands)
    }

    /// Runs `then` on the registers, if `commands` is still the buffer that is enabled.
    fn on_buffer<T>(
        &self,
        commands: CommandBuffer,
        then: impl FnOnce(&mut Control) -> T,
    ) -> Option<T> {
        let mut control = self.control();
        (control.commands == Some(commands)).then(|| then(&mut control))
    }
}

impl TlbInvalidation {
    fn timeout(&self) -> Event {
        Event::InvalidationTimeout {
            device: self.device,
            address: self.place,
        }
    }
}

/// Whether a space rests on what was invalidated: the guest CR3 table's entry of `pasid`, or
/// without, the host tables under guest CR3 tables.
fn is_doomed(space: &Space, pasid: Option<Pasid>) -> bool {
    let Some(Binding::Device(bound)) = space.context::<Binding>() else {
        return false;
    };
    match (&bound.stage, pasid) {
        (Stage::Nested { .. }, None) => true,
        (Stage::Guest(..) | Stage::Nested { .. }, Some(_)) => bound.pasid == pasid,
        _ => false,
    }
}

impl Control {
    /// Moves the head past one command, around the end of the buffer.
    fn advance_head(&mut self, commands: CommandBuffer) {
        let bytes = u64::from(commands.base.entries().unwrap_or(1)) * raw::SIZE;
        let head = self.file.get(offset::COMMAND_HEAD) + raw::SIZE;
        self.file.set(offset::COMMAND_HEAD, head % bytes);
    }
}
