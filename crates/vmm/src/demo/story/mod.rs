//! What the guest does, from finding the unit to reading a fault.

pub mod amdvi;
pub mod vtd;

use thiserror::Error;
use vm_iommu_spec::{DmaRequest, Iova, MsiMessage, PhysAddr};

use super::edu::{self, Edu};
use super::engine::{Operation, Placement, State, Width};
use super::function::{self, Function, Look};
use super::recorder::{Loaded, Recorder};
use crate::config::IommuConfig;
use crate::layout;

/// Where the guest's program goes.
pub const PROGRAM: PhysAddr = PhysAddr(0x10_0000);
/// What the unit's tables and its queues are made of.
const TABLES: std::ops::Range<PhysAddr> = PhysAddr(0x40_0000)..PhysAddr(0x60_0000);
/// Where edu's registers go.
const EDU_BAR: u32 = *layout::PCI_WINDOW_32.start() as u32 + 0x100_0000;

/// The memory that the device reads, and the address it uses for it.
pub const SOURCE: (Iova, PhysAddr) = (Iova(0x1234_5678_9000), PhysAddr(0x80_0000));
/// The memory that the device writes, and the address it uses for it.
pub const DESTINATION: (Iova, PhysAddr) = (Iova(0x1234_5679_3000), PhysAddr(0x90_0000));
/// An address that is not mapped, though its neighbours are.
pub const UNMAPPED: Iova = Iova(0x1234_5678_b000);
/// How many bytes are moved.
pub const LENGTH: u64 = 256;
/// The vector of the interrupt.
pub const VECTOR: u8 = 0x41;
/// The least memory that the guest needs, in bytes.
pub const MEMORY: u64 = 16 << 20;

/// A step of the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The unit and the device are found.
    Found,
    /// The unit is set up and translates.
    Translating,
    /// Data has moved through the tables.
    Moved,
    /// A remapped interrupt was taken.
    Interrupted,
    /// A request was refused and its record read.
    Refused,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 5] = [
        Self::Found,
        Self::Translating,
        Self::Moved,
        Self::Interrupted,
        Self::Refused,
    ];

    /// A word for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Translating => "translating",
            Self::Moved => "moved",
            Self::Interrupted => "interrupted",
            Self::Refused => "refused",
        }
    }

    /// What the guest does in it, for a sentence like "when the guest …".
    pub fn activity(self) -> &'static str {
        match self {
            Self::Found => "looked for the unit and the device",
            Self::Translating => "set up the unit",
            Self::Moved => "moved data by DMA",
            Self::Interrupted => "waited for an interrupt",
            Self::Refused => "had a DMA refused",
        }
    }
}

/// The values that the guest loads and that tell the story, and what else it takes to tell it.
#[derive(Clone, Copy, Debug)]
pub enum Evidence {
    /// Of a VT-d unit.
    Vtd(vtd::Evidence),
    /// Of an AMD-Vi unit.
    AmdVi(amdvi::Evidence),
}

/// The guest's program, and what is known about it.
pub struct Story {
    /// Where it is.
    pub placement: Placement,
    /// The program.
    pub program: Vec<Operation>,
    /// The index of the first operation after each step.
    ends: Vec<(Step, usize)>,
    /// The device's identifiers, as the guest loads them.
    pub identity: Loaded,
    /// What else it loads.
    pub evidence: Evidence,
    /// The message that the device raises its interrupt with.
    pub message: MsiMessage,
    /// The refused request.
    pub refused: DmaRequest,
}

/// Why the story cannot be told on a machine.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoryError {
    /// The driver cannot drive the machine's VT-d unit so.
    #[error("the unit cannot be set up")]
    Vtd(#[from] vm_iommu_driver::vtd::Error),
    /// The driver cannot drive the machine's AMD-Vi unit so.
    #[error("the unit cannot be set up")]
    AmdVi(#[from] vm_iommu_driver::amdvi::Error),
    /// There is no unit.
    #[error("the machine has no unit")]
    NoUnit,
    /// There is no edu device.
    #[error("the machine has no edu device")]
    NoEdu,
    /// The edu device has no MSI.
    #[error("the edu device has no MSI capability")]
    NoMsi,
    /// The driver did not read a register that it has to.
    #[error("the driver did not read register {0:#x}")]
    NotRead(u16),
}

impl Story {
    /// Writes the program for a machine with this unit, whose registers `look` reads as the guest
    /// will find them.
    ///
    /// # Errors
    /// [`StoryError`] if the machine lacks something.
    pub fn new(unit: &IommuConfig, look: Look<'_>) -> Result<Self, StoryError> {
        match unit {
            IommuConfig::Vtd(_) => vtd::write(look),
            IommuConfig::AmdVi(_) => amdvi::write(look),
            IommuConfig::None => Err(StoryError::NoUnit),
        }
    }

    /// Whether a guest in `state` has done all of `step`.
    pub fn is_past(&self, step: Step, state: State) -> bool {
        let index = match state {
            State::Starting => 0,
            State::Finished => u64::MAX,
            State::Running(index)
            | State::Failed { index, .. }
            | State::Exception { index, .. } => index,
        };
        let mut ends = self.ends.iter();
        ends.any(|(other, end)| *other == step && index >= *end as u64)
    }

    /// The step that the operation with this index belongs to; `None` after the last.
    pub fn step_of(&self, index: u64) -> Option<Step> {
        let end = self.ends.iter().find(|(_, end)| index < *end as u64);
        end.map(|(step, _)| *step)
    }
}

/// A story in the making: what it has in common whatever the unit.
struct Script<'a> {
    recorder: &'a Recorder,
    function: Function<'a>,
    edu: Edu<'a>,
    ends: Vec<(Step, usize)>,
}

impl<'a> Script<'a> {
    fn new(recorder: &'a Recorder, look: Look<'a>) -> Result<Self, StoryError> {
        Ok(Self {
            recorder,
            function: function::find(look, edu::ID).ok_or(StoryError::NoEdu)?,
            edu: Edu::new(recorder, EDU_BAR.into()),
            ends: Vec::new(),
        })
    }

    /// All operations so far belong to `step` or to those before.
    fn end(&mut self, step: Step) {
        self.ends.push((step, self.recorder.len()));
    }

    /// The device reads what is mapped at [`SOURCE`] and writes it to what is mapped at
    /// [`DESTINATION`].
    fn move_data(&mut self) {
        self.function.enable(self.recorder, EDU_BAR);
        write_pattern(self.recorder);
        self.edu.read_memory(SOURCE.0, LENGTH);
        self.edu.write_memory(DESTINATION.0, LENGTH);
        compare(self.recorder);
        self.end(Step::Moved);
    }

    /// The device raises its interrupt with `message`, and the guest takes it as [`VECTOR`].
    fn take_interrupt(&mut self, message: MsiMessage) -> Result<(), StoryError> {
        if !self.function.enable_msi(self.recorder, message) {
            return Err(StoryError::NoMsi);
        }
        accept_interrupts(self.recorder);
        self.edu.raise(1);
        self.recorder.push(Operation::Sleep {
            counter: self.recorder.placement().counter(VECTOR),
            times: 1,
        });
        self.edu.acknowledge(1);
        self.end(Step::Interrupted);
        Ok(())
    }

    /// The end of the story, after the device was refused a read: its buffer is as it was.
    fn finish(
        mut self,
        identity: Loaded,
        evidence: Evidence,
        message: MsiMessage,
        refused: DmaRequest,
    ) -> Story {
        self.edu.write_memory(DESTINATION.0, LENGTH);
        compare(self.recorder);
        self.end(Step::Refused);
        self.recorder.push(Operation::Finish);
        Story {
            placement: *self.recorder.placement(),
            program: self.recorder.program(),
            ends: self.ends,
            identity,
            evidence,
            message,
            refused,
        }
    }
}

/// The guest fills the source with bytes that differ, and clears the destination.
fn write_pattern(recorder: &Recorder) {
    for offset in (0..LENGTH).step_by(8) {
        let pattern = u64::from_le_bytes(std::array::from_fn(|byte| {
            (offset as u8).wrapping_add(byte as u8) ^ 0xa5
        }));
        recorder.write(Width::Quad, SOURCE.1.0 + offset, pattern);
        recorder.write(Width::Quad, DESTINATION.1.0 + offset, 0);
    }
}

fn compare(recorder: &Recorder) {
    recorder.push(Operation::Compare {
        address: DESTINATION.1.0,
        with: SOURCE.1.0,
        words: LENGTH / 8,
    });
}

/// The guest enables its local APIC, by the spurious interrupt vector register.
fn accept_interrupts(recorder: &Recorder) {
    recorder.write(Width::Double, layout::LAPIC + 0xf0, 0x1ff);
}
