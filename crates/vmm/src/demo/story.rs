//! What the guest does, from finding the unit to reading a fault.

use thiserror::Error;
use vm_iommu_driver::vtd::{self, InterruptIndex, InterruptSetup, InterruptSource, Setup, Unit};
use vm_iommu_driver::{PagePool, Pages, RegisterBus, SpinBudget, Until};
use vm_iommu_pagetable::{Levels, TableMemory};
use vm_iommu_spec::vtd::registers::{FaultStatus, offset};
use vm_iommu_spec::vtd::{FaultReason, FaultRecord};
use vm_iommu_spec::{Access, DmaRequest, Interrupt, Iova, PhysAddr};

use super::edu::{self, Edu};
use super::engine::{Operation, Placement, State, Width};
use super::function::{self, Look};
use super::recorder::{Loaded, Recorder, RecordingBus};
use crate::layout;

/// Where the guest's program goes.
pub const PROGRAM: PhysAddr = PhysAddr(0x10_0000);
/// What the unit's tables and its queue are made of.
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

/// How the unit is set up: one page of queue, 256 interrupt remapping entries.
pub const SETUP: Setup = Setup {
    interrupts: Some(InterruptSetup {
        size: 7,
        extended: false,
    }),
    ..Setup::new(SpinBudget(1))
};

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

/// The values that the guest loads and that tell the story.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    /// VER.
    pub version: Loaded,
    /// CAP.
    pub capability: Loaded,
    /// ECAP.
    pub extended: Loaded,
    /// The device's identifiers.
    pub identity: Loaded,
    /// GSTS once translation is on.
    pub status: Loaded,
    /// The lower and upper half of the fault record.
    pub record: [Loaded; 2],
}

/// The guest's program, and what is known about it.
pub struct Story {
    /// Where it is.
    pub placement: Placement,
    /// The program.
    pub program: Vec<Operation>,
    /// The index of the first operation after each step.
    ends: Vec<(Step, usize)>,
    /// What it loads.
    pub evidence: Evidence,
    /// Where the root table is.
    pub root: PhysAddr,
    /// The entry of the interrupt.
    pub interrupt: InterruptIndex,
    /// The refused request.
    pub refused: DmaRequest,
}

/// Why the story cannot be told on a machine.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoryError {
    /// The driver cannot drive the machine's unit so.
    #[error("the unit cannot be set up")]
    Driver(#[from] vtd::Error),
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
    /// Writes the program for a machine, whose registers `look` reads as the guest will find them.
    ///
    /// # Errors
    /// [`StoryError`] if the machine lacks something.
    pub fn new(look: Look<'_>) -> Result<Self, StoryError> {
        let function = function::find(look, edu::ID).ok_or(StoryError::NoEdu)?;
        let device = function.requester();
        let recorder = Recorder::new(Placement::new(PROGRAM));
        let mut ends = Vec::new();
        let mut end = |step| ends.push((step, recorder.len()));
        let bus = RecordingBus::new(&recorder, layout::VTD, look);
        let read_of = |register| bus.read_of(register).ok_or(StoryError::NotRead(register));
        let edu = Edu::new(&recorder, EDU_BAR.into());

        bus.read32(offset::VER);
        bus.read64(offset::CAP);
        bus.read64(offset::ECAP);
        let version = read_of(offset::VER)?;
        let capability = read_of(offset::CAP)?;
        let extended = read_of(offset::ECAP)?;
        let identity = function.identify(&recorder);
        end(Step::Found);

        let pages = PagePool::new(&recorder, TABLES);
        let mut unit = Unit::start(&bus, &recorder, pages, &SETUP)?;
        unit.enable_translation()?;
        let status = read_of(offset::GSTS)?;
        end(Step::Translating);

        let domain = unit.create_domain(Levels::Four)?;
        let (iova, memory) = SOURCE;
        unit.map(domain, iova, memory, 4096, Access::READ)?;
        let (iova, memory) = DESTINATION;
        unit.map(domain, iova, memory, 4096, Access::WRITE)?;
        unit.attach(device, domain)?;
        function.enable(&recorder, EDU_BAR);
        write_pattern(&recorder);
        edu.read_memory(SOURCE.0, LENGTH);
        edu.write_memory(DESTINATION.0, LENGTH);
        compare(&recorder);
        end(Step::Moved);

        let interrupt = unit.allocate_interrupt()?;
        let target = Interrupt {
            vector: VECTOR,
            ..Interrupt::default()
        };
        let source = InterruptSource::Requester(device);
        unit.set_interrupt(interrupt, target, source)?;
        if !function.enable_msi(&recorder, interrupt.message()) {
            return Err(StoryError::NoMsi);
        }
        accept_interrupts(&recorder);
        edu.raise(1);
        recorder.push(Operation::Sleep {
            counter: recorder.placement().counter(VECTOR),
            times: 1,
        });
        edu.acknowledge(1);
        end(Step::Interrupted);

        let refused = DmaRequest::new(device, UNMAPPED, Access::READ);
        edu.read_memory(UNMAPPED, LENGTH);
        let record = take_fault(&recorder, &bus, &mut unit, &refused)?;
        // The device's buffer is as it was.
        edu.write_memory(DESTINATION.0, LENGTH);
        compare(&recorder);
        end(Step::Refused);
        recorder.push(Operation::Finish);

        let evidence = Evidence {
            version,
            capability,
            extended,
            identity,
            status,
            record,
        };
        Ok(Self {
            placement: *recorder.placement(),
            program: recorder.program(),
            root: unit.root_table(),
            ends,
            evidence,
            interrupt,
            refused,
        })
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

/// The guest waits for the record of `refused`, reads it, and makes its register free.
fn take_fault<M, P>(
    recorder: &Recorder,
    bus: &RecordingBus<'_>,
    unit: &mut Unit<&RecordingBus<'_>, M, P>,
    refused: &DmaRequest,
) -> Result<[Loaded; 2], StoryError>
where
    M: TableMemory,
    P: Pages,
{
    let pending = FaultStatus::new().with_pending(true).into_bits().into();
    recorder.wait(
        Width::Double,
        layout::VTD + u64::from(offset::FSTS),
        Until::set(pending),
    );
    let register = unit.capability().fault_recording_offset();
    let record = FaultRecord::of_request(refused, FaultReason::ReadDenied);
    let [low, high] = record.words();
    bus.foresee(offset::FSTS, pending);
    bus.foresee(register, low);
    bus.foresee(register + 8, high);
    unit.take_faults();
    bus.foresee(offset::FSTS, 0);
    unit.take_faults();
    let read_of = |register| bus.read_of(register).ok_or(StoryError::NotRead(register));
    Ok([read_of(register)?, read_of(register + 8)?])
}
