//! The story of an AMD-Vi unit.

use vm_iommu_driver::amdvi::{InterruptIndex, InterruptSetup, Setup, Unit};
use vm_iommu_driver::{PagePool, Pages, RegisterBus, SpinBudget, Until};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::registers::{Status, offset};
use vm_iommu_spec::amd::{Event, EventEntry, FaultReason};
use vm_iommu_spec::{Access, DmaRequest, DomainId, Interrupt, PhysAddr};

use super::{DESTINATION, PROGRAM, SOURCE, Script, Step, Story, StoryError, TABLES, UNMAPPED};
use super::{Placement, VECTOR, Width};
use crate::demo::function::Look;
use crate::demo::recorder::{Loaded, Recorder, RecordingBus};
use crate::layout;

/// How the unit is set up: a device table of one page, 256 commands and events, 256 interrupt
/// remapping entries a device.
pub const SETUP: Setup = Setup {
    last_device: 0x7f,
    command_length: 8,
    event_length: 8,
    interrupts: Some(InterruptSetup {
        length: 8,
        x2apic: false,
    }),
    ..Setup::new(SpinBudget(1))
};

/// The values that the guest loads and that tell the story.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    /// The Extended Feature Register.
    pub feature: Loaded,
    /// The second Extended Feature Register.
    pub feature2: Loaded,
    /// The control register once the unit is on.
    pub control: Loaded,
    /// The lower and upper half of the event.
    pub event: [Loaded; 2],
    /// Where the device table is.
    pub device_table: PhysAddr,
    /// The entry of the interrupt.
    pub interrupt: InterruptIndex,
}

/// Writes the program for a machine with an AMD-Vi unit.
pub(super) fn write(look: Look<'_>) -> Result<Story, StoryError> {
    let recorder = Recorder::new(Placement::new(PROGRAM));
    let mut script = Script::new(&recorder, look)?;
    let device = script.function.requester();
    let bus = RecordingBus::new(&recorder, layout::AMDVI, look);
    let read_of = |register| bus.read_of(register).ok_or(StoryError::NotRead(register));

    bus.read64(offset::EXTENDED_FEATURE);
    bus.read64(offset::EXTENDED_FEATURE_2);
    let feature = read_of(offset::EXTENDED_FEATURE)?;
    let feature2 = read_of(offset::EXTENDED_FEATURE_2)?;
    let identity = script.function.identify(&recorder);
    script.end(Step::Found);

    let pages = PagePool::new(&recorder, TABLES);
    let mut unit = Unit::start(&bus, &recorder, pages, &SETUP)?;
    bus.foresee(offset::CONTROL, unit.control().into_bits());
    bus.read64(offset::CONTROL);
    let control = read_of(offset::CONTROL)?;
    script.end(Step::Translating);

    let domain = unit.create_domain(4)?;
    let (iova, memory) = SOURCE;
    unit.map(domain, iova, memory, 4096, Access::READ)?;
    let (iova, memory) = DESTINATION;
    unit.map(domain, iova, memory, 4096, Access::WRITE)?;
    unit.attach(device, domain)?;
    script.move_data();

    let interrupt = unit.allocate_interrupt(device)?;
    let target = Interrupt {
        vector: VECTOR,
        ..Interrupt::default()
    };
    unit.set_interrupt(interrupt, target)?;
    script.take_interrupt(interrupt.message())?;

    let refused = DmaRequest::new(device, UNMAPPED, Access::READ);
    script.edu.read_memory(UNMAPPED, super::LENGTH);
    let event = take_event(&recorder, &bus, &mut unit, &refused, domain)?;
    let evidence = Evidence {
        feature,
        feature2,
        control,
        event,
        device_table: unit.device_table(),
        interrupt,
    };
    let evidence = super::Evidence::AmdVi(evidence);
    Ok(script.finish(identity, evidence, interrupt.message(), refused))
}

/// The guest waits for the event about `refused`, reads it, and makes its entry free.
fn take_event<M, P>(
    recorder: &Recorder,
    bus: &RecordingBus<'_>,
    unit: &mut Unit<&RecordingBus<'_>, M, P>,
    refused: &DmaRequest,
    domain: DomainId,
) -> Result<[Loaded; 2], StoryError>
where
    M: TableMemory,
    P: Pages,
{
    let logged = Status::EVENT_INTERRUPT.bits();
    recorder.wait(
        Width::Double,
        layout::AMDVI + u64::from(offset::STATUS),
        Until::set(logged),
    );
    let event = Event::Request {
        request: *refused,
        domain: Some(domain),
        reason: FaultReason::NotPresent,
    };
    let [low, high] = event.entry().words();
    let place = unit.event_log();
    let event = [
        recorder.find(place, low),
        recorder.find(PhysAddr(place.0 + 8), high),
    ];
    let running = Status::EVENT_RUN | Status::COMMAND_RUN;
    bus.foresee(offset::STATUS, logged | running.bits());
    bus.foresee(offset::EVENT_TAIL, EventEntry::SIZE);
    unit.take_events()?;
    bus.foresee(offset::STATUS, running.bits());
    unit.take_events()?;
    Ok(event)
}
