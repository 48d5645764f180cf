//! The register-visible state of a unit, and what a write to a register sets in motion.
//!
//! One lock guards it, held for a moment only: never over a drain, a callback or a table walk.

use vm_iommu_dma::unit::{IgnoredAccess, RegisterFile};
use vm_iommu_spec::amd::registers::{
    Control as ControlRegister, DeviceTableBase, ExclusionBase, PprOverflowEarly, RingBase, Status,
    XtInterruptControl, offset,
};
use vm_iommu_spec::{Interrupt, Iova, MSI_WINDOW, MsiMessage};

use crate::AmdViConfig;
use crate::registers::{MSI_ENABLE, declare, status_bits};

/// Processors take no interrupt of a lower vector.
const LOWEST_VECTOR: u8 = 16;

/// What a miss needs to know of the registers; published as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) control: ControlRegister,
    /// Segment 0 first.
    pub(crate) device_tables: [DeviceTableBase; 8],
    pub(crate) exclusion: ExclusionBase,
    pub(crate) exclusion_limit: u64,
}

/// Changes whose consequences the worker is to carry out before it goes on with commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// What requests are translated by changed.
    pub(crate) translation: bool,
    /// What interrupts are remapped by changed.
    pub(crate) interrupts: bool,
}

impl Pending {
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// The command buffer as enabled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandBuffer {
    pub(crate) base: RingBase,
    /// Which enabling this is: work begun for an earlier one must not touch the head.
    pub(crate) generation: u64,
}

/// The unit's own interrupts to be sent: general, PPR log, GA log.
pub(crate) type Signals = [Option<Interrupt>; 3];

/// What is to be done once the lock is released.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Consequences {
    /// The worker may have something to do.
    pub(crate) work: bool,
    /// The snapshot changed.
    pub(crate) publish: bool,
    pub(crate) signals: Signals,
}

/// The register-visible state.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) file: RegisterFile,
    config: AmdViConfig,
    /// What misses see.
    pub(crate) snapshot: Snapshot,
    pub(crate) pending: Pending,
    pub(crate) commands: Option<CommandBuffer>,
    pub(crate) generation: u64,
    /// The status bits whose interrupts were sent.
    sent: Status,
}

impl Control {
    pub(crate) fn new(config: &AmdViConfig) -> Self {
        Self {
            file: RegisterFile::new(declare(config), config.register_window()),
            config: *config,
            snapshot: Snapshot::default(),
            pending: Pending::default(),
            commands: None,
            generation: 0,
            sent: Status::empty(),
        }
    }

    /// The control register.
    pub(crate) fn control(&self) -> ControlRegister {
        ControlRegister::from_bits(self.file.get(offset::CONTROL))
    }

    /// The status register.
    pub(crate) fn status(&self) -> Status {
        Status::from_bits_truncate(self.file.get(offset::STATUS))
    }

    pub(crate) fn set_status(&mut self, status: Status) {
        self.file.set(offset::STATUS, status.bits());
    }

    /// Software's write of `data` at `place`.
    pub(crate) fn write(&mut self, place: u64, data: &[u8]) -> Result<Consequences, IgnoredAccess> {
        self.refuse_hidden(place)?;
        let before = self.control();
        let mut locked = None;
        if let Ok(place) = u16::try_from(place & !7)
            && self.is_locked_filter(place)
        {
            locked = Some((place, self.file.get(place)));
        }
        let write = self.file.write(place, data)?;
        if let Some((place, value)) = locked {
            self.file.set(place, value);
        }
        let mut consequences = Consequences::default();
        match write.register {
            offset::CONTROL => {
                self.control_written(before);
                consequences.work = true;
            }
            offset::DEVICE_TABLE | offset::EXCLUSION_BASE | offset::EXCLUSION_LIMIT => {
                self.pending.translation = true;
                self.pending.interrupts |= write.register == offset::DEVICE_TABLE;
                consequences.work = true;
            }
            register if is_segment(register) => {
                self.pending = Pending {
                    translation: true,
                    interrupts: true,
                };
                consequences.work = true;
            }
            register if is_filter(register) => {
                self.pending.interrupts = true;
                consequences.work = true;
            }
            offset::COMMAND_BUFFER => {
                self.rewind(offset::COMMAND_HEAD, offset::COMMAND_TAIL);
                self.commands = self.commands.map(|commands| CommandBuffer {
                    base: RingBase::from_bits(self.file.get(offset::COMMAND_BUFFER)),
                    ..commands
                });
            }
            offset::EVENT_LOG => self.rewind(offset::EVENT_HEAD, offset::EVENT_TAIL),
            offset::PPR_LOG => self.rewind(offset::PPR_HEAD, offset::PPR_TAIL),
            offset::GA_LOG => self.rewind(offset::GA_HEAD, offset::GA_TAIL),
            offset::COMMAND_HEAD | offset::COMMAND_TAIL => consequences.work = true,
            _ => {}
        }
        let snapshot = self.published();
        consequences.publish = snapshot != self.snapshot;
        self.snapshot = snapshot;
        consequences.signals = self.signals();
        Ok(consequences)
    }

    /// Software's read.
    pub(crate) fn read(&self, place: u64, data: &mut [u8]) -> Result<(), IgnoredAccess> {
        self.refuse_hidden(place)?;
        self.file.read(place, data)
    }

    /// The MSI registers are in the window only where the unit says so.
    fn refuse_hidden(&self, place: u64) -> Result<(), IgnoredAccess> {
        let msi = u64::from(offset::MSI_VECTOR_0)..u64::from(offset::XT_GENERAL_INTERRUPT);
        if !self.config.msi_registers && msi.contains(&place) {
            return Err(IgnoredAccess::NoRegister { offset: place });
        }
        Ok(())
    }

    /// SmiFLock keeps a filter as it is until the next reset.
    fn is_locked_filter(&self, place: u16) -> bool {
        is_filter(place) && self.file.get(place) >> 17 & 1 != 0
    }

    fn rewind(&mut self, head: u16, tail: u16) {
        self.file.set(head, 0);
        self.file.set(tail, 0);
    }

    /// What misses are to see.
    pub(crate) fn published(&self) -> Snapshot {
        let mut device_tables = [DeviceTableBase::default(); 8];
        for (segment, table) in device_tables.iter_mut().enumerate() {
            let place = match segment as u16 {
                0 => offset::DEVICE_TABLE,
                segment => offset::DEVICE_TABLE_SEGMENT + (segment - 1) * 8,
            };
            *table = DeviceTableBase::from_bits(self.file.get(place));
        }
        Snapshot {
            control: self.control(),
            device_tables,
            exclusion: ExclusionBase::from_bits(self.file.get(offset::EXCLUSION_BASE)),
            exclusion_limit: self.file.get(offset::EXCLUSION_LIMIT),
        }
    }

    fn control_written(&mut self, before: ControlRegister) {
        let after = self.control();
        let changed = |field: fn(&ControlRegister) -> u64| field(&before) != field(&after);
        if changed(|control| control.enable().into())
            || changed(|control| control.guest_translation().into())
            || changed(|control| control.guest_cr3_is_guest_physical().into())
            || changed(|control| control.device_table_segments().into())
        {
            self.pending.translation = true;
        }
        if changed(|control| control.enable().into())
            || changed(|control| control.guest_apic().into())
            || changed(|control| control.guest_apic_mode().into())
            || changed(|control| control.x2apic().into())
            || changed(|control| control.interrupt_table_mode().into())
            || changed(|control| control.smi_filter().into())
            || changed(|control| control.device_table_segments().into())
        {
            self.pending.interrupts = true;
        }
        // A log or the command processor that stopped runs again once it was disabled.
        let mut status = self.status();
        let runs = |enabled: fn(&ControlRegister) -> bool| {
            let was = before.enable() && enabled(&before);
            let is = after.enable() && enabled(&after);
            (was != is).then_some(is)
        };
        if let Some(run) = runs(ControlRegister::command_buffer) {
            status.set(Status::COMMAND_RUN, run);
            self.generation = self.generation.wrapping_add(1);
            self.commands = run.then(|| CommandBuffer {
                base: RingBase::from_bits(self.file.get(offset::COMMAND_BUFFER)),
                generation: self.generation,
            });
        }
        for (run, flag) in [
            (runs(ControlRegister::event_log), Status::EVENT_RUN),
            (runs(ControlRegister::ppr_log), Status::PPR_RUN),
            (runs(ControlRegister::ga_log), Status::GA_RUN),
        ] {
            if let Some(run) = run {
                status.set(flag, run);
            }
        }
        self.set_status(status);
    }

    /// Stops the command processor at an error.
    pub(crate) fn halt_commands(&mut self) {
        self.commands = None;
        self.set_status(self.status() - Status::COMMAND_RUN);
    }

    /// The interrupts that became due since this was last asked: one for each source whose status
    /// and enable bits are both set and were not before, once registers say where to send it.
    pub(crate) fn signals(&mut self) -> Signals {
        let control = self.control();
        let mut due = Status::empty();
        if control.event_interrupt() {
            due |= Status::EVENT_INTERRUPT | Status::EVENT_OVERFLOW;
        }
        if control.completion_wait_interrupt() {
            due |= Status::COMPLETION_WAIT_INTERRUPT;
        }
        if control.ppr_interrupt() {
            due |= Status::PPR_INTERRUPT | Status::PPR_OVERFLOW;
        }
        let early = PprOverflowEarly::from_bits(self.file.get(offset::PPR_OVERFLOW_EARLY));
        if early.interrupt() {
            due |= Status::PPR_OVERFLOW_EARLY;
        }
        if control.ga_interrupt() {
            due |= Status::GA_INTERRUPT | Status::GA_OVERFLOW;
        }
        due &= self.status() & status_bits(&self.config);
        self.sent &= due;
        const PPR: Status = Status::PPR_INTERRUPT
            .union(Status::PPR_OVERFLOW)
            .union(Status::PPR_OVERFLOW_EARLY);
        const GA: Status = Status::GA_INTERRUPT.union(Status::GA_OVERFLOW);
        // What cannot be sent yet stays due until a register says how.
        let mut signal = |sources: Status, xt| {
            let fresh = (due - self.sent) & sources;
            let interrupt = (!fresh.is_empty())
                .then(|| self.message(&control, xt))
                .flatten()?;
            self.sent |= fresh;
            Some(interrupt)
        };
        [
            signal(Status::all() - PPR - GA, offset::XT_GENERAL_INTERRUPT),
            signal(PPR, offset::XT_PPR_INTERRUPT),
            signal(GA, offset::XT_GA_INTERRUPT),
        ]
    }

    /// The unit's own interrupt: by its XT register, or by the MSI capability of its function.
    fn message(&self, control: &ControlRegister, xt: u16) -> Option<Interrupt> {
        if control.x2apic_interrupts() {
            let interrupt = XtInterruptControl::from_bits(self.file.get(xt)).interrupt();
            return (interrupt.vector >= LOWEST_VECTOR).then_some(interrupt);
        }
        if self.file.get(offset::MSI_CAPABILITY) & MSI_ENABLE == 0 {
            return None;
        }
        let message = MsiMessage {
            address: self.file.get(offset::MSI_ADDRESS_LOW)
                | self.file.get(offset::MSI_ADDRESS_HIGH) << 32,
            data: self.file.get(offset::MSI_DATA) as u32,
        };
        let in_window = MSI_WINDOW.contains(&Iova(message.address & 0xffff_ffff));
        in_window.then(|| Interrupt::from_compatibility(message))
    }

    /// The status bits whose interrupts were sent, to be saved.
    pub(crate) fn sent(&self) -> Status {
        self.sent
    }

    /// The inverse of [`sent`](Self::sent).
    pub(crate) fn set_sent(&mut self, sent: Status) {
        self.sent = sent;
    }
}

pub(crate) fn is_filter(register: u16) -> bool {
    (offset::SMI_FILTER..offset::SMI_FILTER + 16 * 8).contains(&register)
}

fn is_segment(register: u16) -> bool {
    (offset::DEVICE_TABLE_SEGMENT..offset::DEVICE_TABLE_SEGMENT + 7 * 8).contains(&register)
}
