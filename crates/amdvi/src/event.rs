//! Recording of events (section 2.5).

use vm_iommu_dma::unit::lock;
use vm_iommu_pagetable::{NestedFault, Reason as Walked, TableMemory, WalkFault};
use vm_iommu_spec::amd::registers::{HardwareEventStatus, offset};
use vm_iommu_spec::amd::{
    Device, DomainWord, Event, EventCode, EventEntry, FaultReason as Reason, HardwareError,
};
use vm_iommu_spec::{AddressType, DmaRequest, DomainId, Fault, FaultReason, Iova, PhysAddr};

use crate::control::{Control, Signals};
use crate::explain::WalkStep;
use crate::ring::{EVENT_LOG, Room};
use crate::unit::AmdVi;

/// Why a memory request was refused.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusal {
    /// The reason to log; none for contention, which is no fault of the tables.
    pub(crate) reason: Option<Reason>,
    pub(crate) domain: Option<DomainId>,
    /// The entry that could not be read.
    pub(crate) place: Option<PhysAddr>,
    /// The guest physical address that host tables refused on the way.
    pub(crate) guest_physical: Option<Iova>,
    pub(crate) steps: Vec<WalkStep>,
    suppress_all: bool,
    suppress_repeated: bool,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            reason: Some(reason),
            ..Self::default()
        }
    }
}

impl Refusal {
    /// What a walk of one kind of tables refused.
    pub(crate) fn of_walk(fault: &WalkFault, guest: bool) -> Self {
        Self {
            reason: reason_of(fault.reason),
            place: fault.entry_address(),
            steps: WalkStep::of_walk(&fault.visited, guest),
            ..Self::default()
        }
    }

    /// What a walk of guest over host tables refused.
    pub(crate) fn of_nested(fault: NestedFault) -> Self {
        match fault {
            NestedFault::Second { fault, address, .. } => {
                Self::of_walk(&fault, false).for_guest_physical(address)
            }
            NestedFault::First(fault) => Self::of_walk(&fault, true),
            _ => Self::default(),
        }
    }

    pub(crate) fn at(self, place: Option<PhysAddr>) -> Self {
        Self { place, ..self }
    }

    pub(crate) fn for_guest_physical(self, address: Iova) -> Self {
        Self {
            guest_physical: Some(address),
            ..self
        }
    }

    /// With `before`, the entries read earlier.
    pub(crate) fn with_steps(mut self, before: &[WalkStep]) -> Self {
        self.steps.splice(0..0, before.iter().copied());
        self
    }

    /// With what a device table entry, of which `word` says whose faults are logged, says about
    /// them even if it proved illegal.
    pub(crate) fn of_entry(self, word: DomainWord) -> Self {
        Self {
            domain: Some(DomainId(word.domain())),
            suppress_all: word.suppress_all(),
            suppress_repeated: word.suppress_repeated(),
            ..self
        }
    }

    /// With what a valid device table entry says about faults.
    pub(crate) fn of(self, device: &Device) -> Self {
        Self {
            domain: Some(device.domain),
            suppress_all: device.suppress_all,
            suppress_repeated: device.suppress_repeated,
            ..self
        }
    }
}

/// The reason of a walk's refusal; none for contention.
fn reason_of(reason: Walked) -> Option<Reason> {
    Some(match reason {
        Walked::BeyondWidth | Walked::NotCanonical => Reason::AddressBeyondTables,
        Walked::NotPresent => Reason::NotPresent,
        Walked::Reserved { .. } => Reason::Reserved,
        Walked::NextLevel { .. } => Reason::NextLevel,
        Walked::PageSize { .. } => Reason::PageSize,
        Walked::SkippedBits => Reason::SkippedBits,
        Walked::TableAccess => Reason::TableAccess,
        Walked::ReadDenied => Reason::ReadDenied,
        Walked::WriteDenied => Reason::WriteDenied,
        Walked::ExecuteDenied => Reason::ExecuteDenied,
        Walked::PrivilegeDenied | Walked::SupervisorDisabled => Reason::PrivilegeDenied,
        _ => return None,
    })
}

impl AmdVi {
    /// How many requests were refused since the unit was made, logged or not.
    pub fn refused(&self) -> u64 {
        self.faults.total()
    }

    /// Refuses a memory request: logs the event unless the request is a probe or the device table
    /// entry suppresses it, and yields the fault.
    pub(crate) fn refuse(&self, request: &DmaRequest, refusal: Refusal) -> Fault {
        let Some(reason) = refusal.reason else {
            return request.fault(FaultReason::Contended);
        };
        let fault = request.fault(FaultReason::Amd(reason));
        if request.probe {
            return fault;
        }
        let suppressed = self.suppresses(request, reason, &refusal);
        // A fault of host tables on the way is one of the guest physical address.
        let mut told = *request;
        if let Some(address) = refusal.guest_physical {
            told.address = address;
            told.pasid = None;
        }
        let domain = refusal.domain;
        let event = match (reason, refusal.place) {
            (Reason::DeviceTableAccess | Reason::TableAccess, place) => Event::Table {
                request: told,
                domain,
                reason,
                address: place.unwrap_or_default(),
            },
            _ => Event::Request {
                request: told,
                domain,
                reason,
            },
        };
        self.report(fault, &event, suppressed, refusal.steps);
        fault
    }

    /// Whether a page fault is not to be logged (SA, SE, and answers to translation requests that
    /// only say that there is no translation).
    fn suppresses(&self, request: &DmaRequest, reason: Reason, refusal: &Refusal) -> bool {
        if reason.code() != EventCode::IoPageFault {
            return false;
        }
        let asks = request.address_type == AddressType::TranslationRequest;
        if refusal.suppress_all || asks && (reason == Reason::NotPresent || reason.is_permission())
        {
            return true;
        }
        let device = request.requester.source_id();
        refusal.suppress_repeated && !lock(&self.suppressed).insert(device)
    }

    /// Logs `event` for `fault`.
    pub(crate) fn report(
        &self,
        fault: Fault,
        event: &Event,
        suppressed: bool,
        steps: Vec<WalkStep>,
    ) {
        if self.fault_log.allows() {
            log::warn!("AMD-Vi: {fault}");
        }
        self.faults.push(fault, steps, suppressed);
        if !suppressed {
            self.log_event(event);
        }
    }

    /// Appends `event` to the event log and sends the interrupt that tells of it.
    pub(crate) fn log_event(&self, event: &Event) {
        let signals = self.control().log(&self.ram, event);
        self.send(signals);
    }

    /// Delivers the unit's own interrupts, past interrupt remapping.
    pub(crate) fn send(&self, signals: Signals) {
        for interrupt in signals.into_iter().flatten() {
            self.interrupts.deliver(interrupt);
        }
    }
}

impl Control {
    /// Appends `event` to the event log (section 2.5.1).
    pub(crate) fn log(&mut self, ram: &impl TableMemory, event: &Event) -> Signals {
        self.note_hardware(event);
        let entry = event.entry();
        if let Room::At(place) = self.room(&EVENT_LOG)
            && store(ram, place, entry.words())
        {
            self.appended(&EVENT_LOG);
        }
        self.signals()
    }

    /// Hardware errors are in the hardware event registers too, until software took note.
    fn note_hardware(&mut self, event: &Event) {
        let hardware = matches!(
            event.code(),
            EventCode::DeviceTableHardwareError
                | EventCode::PageTableHardwareError
                | EventCode::CommandHardwareError
        );
        if !hardware {
            return;
        }
        let status = HardwareEventStatus::from_bits(self.file.get(offset::HARDWARE_EVENT_STATUS));
        let status = if status.valid() {
            status.with_overflow(true)
        } else {
            let [low, high] = event.entry().words();
            self.file.set(offset::HARDWARE_EVENT_UPPER, low);
            self.file.set(offset::HARDWARE_EVENT_LOWER, high);
            status.with_valid(true)
        };
        self.file
            .set(offset::HARDWARE_EVENT_STATUS, status.into_bits());
    }

    /// Stops the command processor and logs why.
    pub(crate) fn stop_commands(&mut self, ram: &impl TableMemory, event: &Event) -> Signals {
        self.halt_commands();
        self.log(ram, event)
    }
}

/// Stores an entry of 128 bits: the half with its code last.
pub(crate) fn store(ram: &impl TableMemory, place: PhysAddr, [low, high]: [u64; 2]) -> bool {
    let upper = place.checked_add(EventEntry::SIZE / 2);
    upper.is_some_and(|upper| ram.store(upper, high).is_ok()) && ram.store(place, low).is_ok()
}

/// The event of an access to the command buffer, or of a completion's store, that hit no memory.
pub(crate) fn command_hardware(address: PhysAddr) -> Event {
    Event::CommandHardware {
        address,
        error: HardwareError::MasterAbort,
    }
}
