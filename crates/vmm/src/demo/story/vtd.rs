//! The story of a VT-d unit.

use vm_iommu_driver::vtd::{InterruptIndex, InterruptSetup, InterruptSource, Setup, Unit};
use vm_iommu_driver::{PagePool, Pages, RegisterBus, SpinBudget, Until};
use vm_iommu_pagetable::{Levels, TableMemory};
use vm_iommu_spec::vtd::registers::{FaultStatus, offset};
use vm_iommu_spec::vtd::{FaultReason, FaultRecord};
use vm_iommu_spec::{Access, DmaRequest, Interrupt, PhysAddr};

use super::{DESTINATION, PROGRAM, SOURCE, Script, Step, Story, StoryError, TABLES, UNMAPPED};
use super::{Placement, VECTOR, Width};
use crate::demo::function::Look;
use crate::demo::recorder::{Loaded, Recorder, RecordingBus};
use crate::layout;

/// How the unit is set up: one page of queue, 256 interrupt remapping entries.
pub const SETUP: Setup = Setup {
    interrupts: Some(InterruptSetup {
        size: 7,
        extended: false,
    }),
    ..Setup::new(SpinBudget(1))
};

/// The values that the guest loads and that tell the story.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    /// VER.
    pub version: Loaded,
    /// CAP.
    pub capability: Loaded,
    /// ECAP.
    pub extended: Loaded,
    /// GSTS once translation is on.
    pub status: Loaded,
    /// The lower and upper half of the fault record.
    pub record: [Loaded; 2],
    /// Where the root table is.
    pub root: PhysAddr,
    /// The entry of the interrupt.
    pub interrupt: InterruptIndex,
}

/// Writes the program for a machine with a VT-d unit.
pub(super) fn write(look: Look<'_>) -> Result<Story, StoryError> {
    let recorder = Recorder::new(Placement::new(PROGRAM));
    let mut script = Script::new(&recorder, look)?;
    let device = script.function.requester();
    let bus = RecordingBus::new(&recorder, layout::VTD, look);
    let read_of = |register| bus.read_of(register).ok_or(StoryError::NotRead(register));

    bus.read32(offset::VER);
    bus.read64(offset::CAP);
    bus.read64(offset::ECAP);
    let version = read_of(offset::VER)?;
    let capability = read_of(offset::CAP)?;
    let extended = read_of(offset::ECAP)?;
    let identity = script.function.identify(&recorder);
    script.end(Step::Found);

    let pages = PagePool::new(&recorder, TABLES);
    let mut unit = Unit::start(&bus, &recorder, pages, &SETUP)?;
    unit.enable_translation()?;
    let status = read_of(offset::GSTS)?;
    script.end(Step::Translating);

    let domain = unit.create_domain(Levels::Four)?;
    let (iova, memory) = SOURCE;
    unit.map(domain, iova, memory, 4096, Access::READ)?;
    let (iova, memory) = DESTINATION;
    unit.map(domain, iova, memory, 4096, Access::WRITE)?;
    unit.attach(device, domain)?;
    script.move_data();

    let interrupt = unit.allocate_interrupt()?;
    let target = Interrupt {
        vector: VECTOR,
        ..Interrupt::default()
    };
    let source = InterruptSource::Requester(device);
    unit.set_interrupt(interrupt, target, source)?;
    script.take_interrupt(interrupt.message())?;

    let refused = DmaRequest::new(device, UNMAPPED, Access::READ);
    script.edu.read_memory(UNMAPPED, super::LENGTH);
    let record = take_fault(&recorder, &bus, &mut unit, &refused)?;
    let evidence = Evidence {
        version,
        capability,
        extended,
        status,
        record,
        root: unit.root_table(),
        interrupt,
    };
    let evidence = super::Evidence::Vtd(evidence);
    Ok(script.finish(identity, evidence, interrupt.message(), refused))
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
