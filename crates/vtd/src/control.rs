//! The register-visible state of a unit, and what a write to a register sets in motion.
//!
//! One lock guards it, held for a moment only: never over a drain, a callback or a table walk.

use vm_iommu_spec::MsiMessage;
use vm_iommu_spec::vtd::registers::{
    ContextCommand, EventControl, FaultStatus, GlobalBits, Granularity, InterruptTableAddress,
    InvalidateAddress, InvalidationStatus, IotlbInvalidate, QueueAddress, RootTableAddress, offset,
};

use crate::VtdConfig;
use crate::config::IOTLB_OFFSET;
use crate::registers::{IgnoredAccess, RegisterFile, declare};

/// Where IOTLB_REG is.
pub(crate) const IOTLB: u16 = IOTLB_OFFSET + 8;

/// What a miss needs to know of the registers; published as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The enables as last commanded.
    pub(crate) enabled: GlobalBits,
    /// RTADDR_REG as latched by the last SRTP.
    pub(crate) root: RootTableAddress,
    /// IRTA_REG as latched by the last SIRTP.
    pub(crate) interrupts: InterruptTableAddress,
}

impl Snapshot {
    pub(crate) fn translates(&self) -> bool {
        self.enabled.contains(GlobalBits::TRANSLATION)
    }

    pub(crate) fn remaps_interrupts(&self) -> bool {
        self.enabled.contains(GlobalBits::INTERRUPT_REMAPPING)
    }
}

/// Commands that software gave and whose completion it has not been told.
///
/// Later ones merge into earlier ones, so that their number is bounded; software that waits for
/// each, as it must, sees no difference.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pending {
    /// What GSTS_REG is to show.
    pub(crate) status: Option<GlobalBits>,
    /// TE or the root table pointer changed.
    pub(crate) translation: bool,
    /// IRE, CFI or the interrupt table pointer changed.
    pub(crate) interrupts: bool,
    /// CCMD_REG.ICC was set.
    pub(crate) context: Option<ContextCommand>,
    /// IOTLB_REG.IVT was set.
    pub(crate) iotlb: Option<(IotlbInvalidate, InvalidateAddress)>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.status.is_none() && self.context.is_none() && self.iotlb.is_none()
    }
}

/// The invalidation queue as enabled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    /// IQA_REG when the queue was enabled.
    pub(crate) address: QueueAddress,
    /// Which enabling this is: work begun for an earlier one must not touch the head.
    pub(crate) generation: u64,
}

/// What is to be done once the lock is released.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Consequences {
    /// The queue or a command may have something to do.
    pub(crate) work: bool,
    /// The snapshot changed.
    pub(crate) publish: bool,
    /// The fault event, to be sent.
    pub(crate) fault_event: Option<MsiMessage>,
    /// The invalidation event, to be sent.
    pub(crate) invalidation_event: Option<MsiMessage>,
}

/// The register-visible state.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) file: RegisterFile,
    /// The commands and enables that the unit has.
    supported: GlobalBits,
    /// What misses see.
    pub(crate) snapshot: Snapshot,
    /// RTPS and IRTPS, once set.
    pub(crate) pointers: GlobalBits,
    pub(crate) pending: Pending,
    pub(crate) queue: Option<Queue>,
    pub(crate) queue_generation: u64,
    /// The offset of the first fault recording register, and how many there are.
    pub(crate) records: (u16, u16),
    /// The fault recording register that is filled next.
    pub(crate) next_record: u16,
}

impl Control {
    pub(crate) fn new(config: &VtdConfig) -> Self {
        let mut supported = GlobalBits::TRANSLATION
            | GlobalBits::ROOT_TABLE_POINTER
            | GlobalBits::WRITE_BUFFER_FLUSH;
        if config.queued_invalidation {
            supported |= GlobalBits::QUEUED_INVALIDATION;
        }
        if config.interrupt_remapping {
            supported |= GlobalBits::INTERRUPT_REMAPPING
                | GlobalBits::INTERRUPT_TABLE_POINTER
                | GlobalBits::COMPATIBILITY_FORMAT;
        }
        Self {
            file: RegisterFile::new(declare(config), config.register_window()),
            supported,
            snapshot: Snapshot::default(),
            pointers: GlobalBits::empty(),
            pending: Pending::default(),
            queue: None,
            queue_generation: 0,
            records: (config.fault_records_offset(), config.fault_records),
            next_record: 0,
        }
    }

    /// Software's write of `data` at `offset`.
    pub(crate) fn write(
        &mut self,
        offset: u64,
        data: &[u8],
    ) -> Result<Consequences, IgnoredAccess> {
        let write = self.file.write(offset, data)?;
        let upper_half = write.touched >> 32 != 0;
        let mut consequences = Consequences::default();
        match write.register {
            offset::GCMD => {
                self.command(GlobalBits::from_bits_truncate(write.command as u32));
                consequences.work = true;
                consequences.publish = true;
            }
            offset::CCMD if upper_half => {
                let command = ContextCommand::from_bits(self.file.get(offset::CCMD));
                if command.invalidate() && self.queue.is_some() {
                    // Refused while the queue is enabled: nothing was invalidated.
                    let answer = command
                        .with_invalidate(false)
                        .with_actual(Granularity::Reserved);
                    self.file.set(offset::CCMD, answer.into_bits());
                } else if command.invalidate() {
                    self.pending.context = Some(command);
                    consequences.work = true;
                }
            }
            IOTLB if upper_half => {
                let command = IotlbInvalidate::from_bits(self.file.get(IOTLB));
                if command.invalidate() && self.queue.is_some() {
                    let answer = command
                        .with_invalidate(false)
                        .with_actual(Granularity::Reserved);
                    self.file.set(IOTLB, answer.into_bits());
                } else if command.invalidate() {
                    let address = InvalidateAddress::from_bits(self.file.get(IOTLB_OFFSET));
                    self.pending.iotlb = Some((command, address));
                    consequences.work = true;
                }
            }
            offset::FSTS => {
                self.fault_status_changed();
                consequences.work = true;
            }
            offset::FECTL => {
                consequences.fault_event = self.event_unmasked(offset::FECTL);
            }
            offset::ICS => {
                let status = InvalidationStatus::from_bits(self.file.get(offset::ICS) as u32);
                if !status.wait_complete() {
                    self.set_event_pending(offset::IECTL, false);
                }
            }
            offset::IECTL => {
                consequences.invalidation_event = self.event_unmasked(offset::IECTL);
            }
            offset::IQT => consequences.work = true,
            register if register >= self.records.0 => self.fault_status_changed(),
            _ => {}
        }
        Ok(consequences)
    }

    /// GCMD_REG (section 11.4.4.1): enables are levels, the others one-shot.
    fn command(&mut self, command: GlobalBits) {
        let command = command & self.supported;
        let enabled = command & GlobalBits::ENABLES;
        let changed = enabled ^ self.snapshot.enabled;
        let mut status = self.status();
        if command.contains(GlobalBits::ROOT_TABLE_POINTER) {
            self.snapshot.root = RootTableAddress::from_bits(self.file.get(offset::RTADDR));
            self.pointers |= GlobalBits::ROOT_TABLE_POINTER;
            status.remove(GlobalBits::ROOT_TABLE_POINTER);
            self.pending.translation = true;
        }
        if command.contains(GlobalBits::INTERRUPT_TABLE_POINTER) {
            self.snapshot.interrupts =
                InterruptTableAddress::from_bits(self.file.get(offset::IRTA));
            self.pointers |= GlobalBits::INTERRUPT_TABLE_POINTER;
            status.remove(GlobalBits::INTERRUPT_TABLE_POINTER);
            self.pending.interrupts = true;
        }
        if changed.contains(GlobalBits::TRANSLATION) {
            self.pending.translation = true;
        }
        if changed.intersects(GlobalBits::INTERRUPT_REMAPPING | GlobalBits::COMPATIBILITY_FORMAT) {
            self.pending.interrupts = true;
        }
        if changed.contains(GlobalBits::QUEUED_INVALIDATION) {
            self.enable_queue(enabled.contains(GlobalBits::QUEUED_INVALIDATION));
        }
        self.snapshot.enabled = enabled;
        self.pending.status = Some(enabled | self.pointers);
        self.set_status(status);
    }

    /// The head is 0 whenever the queue is disabled (section 11.4.9.1).
    fn enable_queue(&mut self, enable: bool) {
        self.file.set(offset::IQH, 0);
        self.queue_generation = self.queue_generation.wrapping_add(1);
        self.queue = enable.then(|| Queue {
            address: QueueAddress::from_bits(self.file.get(offset::IQA)),
            generation: self.queue_generation,
        });
    }

    /// GSTS_REG.
    pub(crate) fn status(&self) -> GlobalBits {
        GlobalBits::from_bits_truncate(self.file.get(offset::GSTS) as u32)
    }

    pub(crate) fn set_status(&mut self, status: GlobalBits) {
        self.file.set(offset::GSTS, u64::from(status.bits()));
    }

    /// FSTS_REG.
    pub(crate) fn fault_status(&self) -> FaultStatus {
        FaultStatus::from_bits(self.file.get(offset::FSTS) as u32)
    }

    /// Sends the event whose control register is at `control`, or keeps it pending while masked.
    pub(crate) fn raise_event(&mut self, control: u16) -> Option<MsiMessage> {
        let masked = EventControl::from_bits(self.file.get(control) as u32).masked();
        self.set_event_pending(control, masked);
        (!masked).then(|| self.event_message(control))
    }

    /// IM was written: a pending event goes out once it is not masked.
    fn event_unmasked(&mut self, control: u16) -> Option<MsiMessage> {
        let pending = EventControl::from_bits(self.file.get(control) as u32).pending();
        pending.then(|| self.raise_event(control)).flatten()
    }

    pub(crate) fn set_event_pending(&mut self, control: u16, pending: bool) {
        let value = EventControl::from_bits(self.file.get(control) as u32).with_pending(pending);
        self.file.set(control, u64::from(value.into_bits()));
    }

    fn event_message(&self, control: u16) -> MsiMessage {
        MsiMessage {
            address: self.file.get(control + 8) | self.file.get(control + 12) << 32,
            data: self.file.get(control + 4) as u32,
        }
    }
}
