//! Interrupt remapping (section 2.2.5).

use std::sync::Weak;

use vm_iommu_dma::unit::{EntryCache, EntryToken};
use vm_iommu_dma::{InterruptRemapper, RouteSink};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::registers::{Control as ControlRegister, offset};
use vm_iommu_spec::amd::{
    Event, EventCode, FaultReason as Reason, GuestInterrupt, InterruptControl, InterruptSource,
    Irte32, Irte128, Remapped, index_of,
};
use vm_iommu_spec::{
    Access, DeliveryMode, DomainId, Fault, FaultReason, Interrupt, Iova, MSI_WINDOW, MsiMessage,
    PhysAddr, RequesterId,
};

use crate::control::Snapshot;
use crate::device_table::{DteLookup, load_half};
use crate::explain::WalkStep;
use crate::unit::AmdVi;

/// A device and an index into its interrupt remapping table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IrteKey {
    pub(crate) device: u16,
    index: u16,
}

impl From<IrteKey> for u64 {
    /// Devices with few interrupts each do not meet in one line.
    fn from(key: IrteKey) -> Self {
        u64::from(key.index).wrapping_add(u64::from(key.device).wrapping_mul(37))
    }
}

/// The interrupt remapping table cache.
pub(crate) type IrteCache = EntryCache<IrteKey, Remapped>;

/// A wired local interrupt of the legacy interrupt controller, as a device table entry passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalInterrupt {
    /// LINT0, the legacy controller's external interrupt.
    Lint0,
    /// LINT1, its non-maskable interrupt.
    Lint1,
}

/// A refused interrupt request.
#[derive(Debug)]
pub(crate) struct IrRefusal {
    pub(crate) reason: Reason,
    domain: Option<DomainId>,
    /// The entry that could not be read.
    place: Option<PhysAddr>,
    /// Whether the tables ask that the event is not logged.
    suppressed: bool,
    pub(crate) steps: Vec<WalkStep>,
}

impl IrRefusal {
    /// With what the device table entry says about faults of interrupts.
    fn of(self, source: &InterruptSource) -> Self {
        Self {
            domain: source.domain,
            suppressed: self.suppressed || source.ignore_unmapped,
            ..self
        }
    }
}

impl From<Reason> for IrRefusal {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            domain: None,
            place: None,
            suppressed: false,
            steps: Vec::new(),
        }
    }
}

impl InterruptRemapper for AmdVi {
    fn remap(&self, requester: RequesterId, message: MsiMessage) -> Result<Interrupt, Fault> {
        if !MSI_WINDOW.contains(&Iova(message.address)) {
            return Err(fault_of(requester, message, FaultReason::NotMemory));
        }
        match self.route(requester, message) {
            Ok(Remapped::Interrupt(interrupt)) => Ok(interrupt),
            Ok(Remapped::Guest(guest)) => {
                self.post(requester, &guest);
                Err(fault_of(requester, message, FaultReason::DeliveredToGuest))
            }
            Err(refusal) => Err(self.refuse_interrupt(requester, message, refusal)),
        }
    }

    fn resolve(&self, requester: RequesterId, message: MsiMessage) -> Result<Interrupt, Fault> {
        let reason = if MSI_WINDOW.contains(&Iova(message.address)) {
            match self.route(requester, message) {
                Ok(Remapped::Interrupt(interrupt)) => return Ok(interrupt),
                Ok(Remapped::Guest(_)) => FaultReason::DeliveredToGuest,
                Err(refusal) => FaultReason::Amd(refusal.reason),
            }
        } else {
            FaultReason::NotMemory
        };
        Err(fault_of(requester, message, reason))
    }

    fn watch(&self, sink: Weak<dyn RouteSink>) {
        self.routes.add(sink);
    }
}

/// The delivery mode of a message, by which its device table entry decides. An index of more than
/// nine bits takes the place of the mode, so that with a table of more than 512 entries all
/// messages are fixed interrupts.
fn delivery_mode(source: &InterruptSource, message: MsiMessage) -> DeliveryMode {
    if source.control == InterruptControl::Remap && source.entries > 512 {
        DeliveryMode::Fixed
    } else {
        DeliveryMode::from_bits((message.data >> 8) as u8)
    }
}

fn fault_of(requester: RequesterId, message: MsiMessage, reason: FaultReason) -> Fault {
    Fault {
        requester,
        pasid: None,
        address: Iova(message.address),
        access: Access::WRITE,
        reason,
    }
}

impl AmdVi {
    fn refuse_interrupt(
        &self,
        requester: RequesterId,
        message: MsiMessage,
        refusal: IrRefusal,
    ) -> Fault {
        let fault = fault_of(requester, message, FaultReason::Amd(refusal.reason));
        let event = Event::Interrupt {
            requester,
            pasid: None,
            domain: refusal.domain,
            address: refusal.place.map_or(message.address, |place| place.0),
            reason: refusal.reason,
        };
        let page_fault = refusal.reason.code() == EventCode::IoPageFault;
        self.report(
            fault,
            &event,
            refusal.suppressed && page_fault,
            refusal.steps,
        );
        fault
    }

    /// What becomes of `message`, without any effect.
    pub(crate) fn route(
        &self,
        requester: RequesterId,
        message: MsiMessage,
    ) -> Result<Remapped, IrRefusal> {
        // Before the snapshot is read: a change after that voids the tokens.
        let (token, source_token) = (self.irtes.token(), self.sources.token());
        let snapshot = self.snapshot();
        let unmapped = Ok(Remapped::Interrupt(Interrupt::from_compatibility(message)));
        if !snapshot.control.enable() {
            return unmapped;
        }
        let device = requester.source_id();
        let mut steps = Vec::new();
        let Some(source) = self.interrupt_source(source_token, &snapshot, device, &mut steps)?
        else {
            return unmapped;
        };
        let refused = |reason: Reason, suppressed, steps: Vec<WalkStep>| {
            let refusal = IrRefusal {
                suppressed,
                steps,
                ..reason.into()
            };
            Err(refusal.of(&source))
        };
        let passes = match delivery_mode(&source, message) {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => match source.control {
                InterruptControl::Abort => false,
                InterruptControl::Forward => true,
                InterruptControl::Remap => {
                    let key = IrteKey {
                        device,
                        index: index_of(message.data),
                    };
                    if let Some(remapped) = self.irtes.find(key) {
                        return Ok(remapped);
                    }
                    let remapped = self
                        .entry(&snapshot.control, &source, key, &mut steps)
                        .map_err(|refusal| refusal.of(&source))?;
                    self.irtes.insert(token, key, remapped);
                    return Ok(remapped);
                }
            },
            DeliveryMode::Smi => {
                if !self.filter(&snapshot, device) {
                    let suppressed = !snapshot.control.smi_filter_log();
                    return refused(Reason::SmiFiltered, suppressed, steps);
                }
                true
            }
            DeliveryMode::Nmi => source.nmi_pass,
            DeliveryMode::Init => source.init_pass,
            DeliveryMode::ExtInt => source.ext_int_pass,
            DeliveryMode::Reserved3 | DeliveryMode::Reserved6 => false,
        };
        if passes {
            unmapped
        } else {
            refused(Reason::InterruptBlocked, false, steps)
        }
    }

    /// What the device table says about the interrupts of `device`; none if it says nothing.
    /// `token` was taken before the snapshot: a change of the registers after that voids it.
    fn interrupt_source(
        &self,
        token: EntryToken,
        snapshot: &Snapshot,
        device: u16,
        steps: &mut Vec<WalkStep>,
    ) -> Result<Option<InterruptSource>, IrRefusal> {
        if let Some(source) = self.sources.find(device) {
            return Ok(source);
        }
        let lookup = DteLookup::new(&self.ram, &self.config, snapshot, device);
        let entry = lookup.entry.map_err(|reason| IrRefusal {
            place: lookup.place,
            ..reason.into()
        })?;
        if let Some(place) = lookup.place {
            steps.push(WalkStep::of_device(place, entry));
        }
        match entry.check_interrupts(&self.dte_rules(snapshot)) {
            Ok(source) => {
                self.sources.insert(token, device, source);
                Ok(source)
            }
            Err(reason) => Err(IrRefusal {
                steps: steps.clone(),
                ..reason.into()
            }),
        }
    }

    /// Looks an interrupt up in the table of its device.
    fn entry(
        &self,
        control: &ControlRegister,
        source: &InterruptSource,
        key: IrteKey,
        steps: &mut Vec<WalkStep>,
    ) -> Result<Remapped, IrRefusal> {
        let IrteKey { index, .. } = key;
        if u32::from(index) >= source.entries {
            return Err(IrRefusal {
                steps: std::mem::take(steps),
                ..Reason::InterruptBeyondTable.into()
            });
        }
        let size: u64 = if control.guest_apic() { 16 } else { 4 };
        let place = source.table.checked_add(u64::from(index) * size);
        let words = place.and_then(|place| match size {
            16 => load_half(&self.ram, place),
            _ => {
                let word = self.ram.load(place.align_down(8)).ok()?;
                Some([word >> (place.offset_in(8) * 8) & 0xffff_ffff, 0])
            }
        });
        let (Some(place), Some([low, high])) = (place, words) else {
            return Err(IrRefusal {
                place,
                steps: std::mem::take(steps),
                ..Reason::InterruptTableAccess.into()
            });
        };
        steps.push(WalkStep::of_irte(
            index,
            place,
            low,
            (size == 16).then_some(high),
        ));
        let (outcome, suppressed) = if size == 16 {
            let entry = Irte128::from_words(low, high);
            let guest_mode = control.guest_apic_mode() == 1;
            (
                entry.check(control.x2apic(), guest_mode),
                entry.suppress_faults(),
            )
        } else {
            let entry = Irte32::from_bits(low as u32);
            (
                entry.check().map(Remapped::Interrupt),
                entry.suppress_faults(),
            )
        };
        outcome.map_err(|reason| IrRefusal {
            suppressed,
            steps: std::mem::take(steps),
            ..reason.into()
        })
    }

    /// Whether the SMI filters admit `device`.
    fn filter(&self, snapshot: &Snapshot, device: u16) -> bool {
        if !snapshot.control.smi_filter() {
            return true;
        }
        let control = self.control();
        (0..u16::from(self.config.smi_filters)).any(|index| {
            let filter = control.file.get(offset::SMI_FILTER + index * 8);
            filter >> 16 & 1 != 0 && filter as u16 == device
        })
    }

    /// Whether the wired interrupt of a legacy interrupt controller passes, whose requester is
    /// `requester` (Lint0Pass and Lint1Pass). No message carries these: whoever models the wires
    /// asks.
    pub fn passes_local_interrupt(&self, requester: RequesterId, pin: LocalInterrupt) -> bool {
        let token = self.sources.token();
        let snapshot = self.snapshot();
        if !snapshot.control.enable() {
            return true;
        }
        let device = requester.source_id();
        match self.interrupt_source(token, &snapshot, device, &mut Vec::new()) {
            Ok(None) => true,
            Ok(Some(source)) => match pin {
                LocalInterrupt::Lint0 => source.lint0_pass,
                LocalInterrupt::Lint1 => source.lint1_pass,
            },
            Err(_) => false,
        }
    }

    /// Raises an interrupt of a guest (section 2.2.5.3): in its virtual APIC, then by the doorbell
    /// of the processor that runs the guest, or by the GA log.
    fn post(&self, requester: RequesterId, guest: &GuestInterrupt) {
        // IRR of the virtual APIC: 32 vectors every 16 bytes, from 200h on.
        let (register, bit) = (guest.vector / 32, guest.vector % 32);
        let offset = 0x200 + u64::from(register) * 16;
        let place = guest.backing_page.0 | offset;
        if !self.set_bit(PhysAddr(place), bit) {
            if self.access_log.allows() {
                log::warn!("AMD-Vi: no virtual APIC at {}", guest.backing_page);
            }
            return;
        }
        if let Some(processor) = guest.doorbell {
            self.interrupts.doorbell(processor);
        } else if let Some(tag) = guest.tag {
            self.log_guest(requester, tag);
        }
    }

    /// Sets a bit of the 64-bit word at `place`, whoever else changes it meanwhile.
    fn set_bit(&self, place: PhysAddr, bit: u8) -> bool {
        const ATTEMPTS: usize = 64;
        let Ok(mut word) = self.ram.load(place) else {
            return false;
        };
        for _ in 0..ATTEMPTS {
            match self.ram.compare_exchange(place, word, word | 1 << bit) {
                Ok(Ok(_)) => return true,
                Ok(Err(found)) => word = found,
                Err(_) => return false,
            }
        }
        false
    }
}
