//! A unit's state, to be saved and restored.
//!
//! Caches are not part of it: they fill again. A wait that is held up by accesses in flight is
//! saved as not begun, and carried out anew after the restore. Device-TLBs that have not answered
//! are told again to invalidate: attach them before the unit goes on.

use serde::{Deserialize, Serialize};
use vm_iommu_dma::unit::{StateError, lock};
use vm_iommu_spec::amd::registers::{RingBase, Status, offset};
use vm_iommu_spec::{Iova, Pasid, PhysAddr};

use crate::command::{Runner, TlbInvalidation, UNANSWERED};
use crate::control::{CommandBuffer, Control, Pending};
use crate::unit::AmdVi;

/// The version of [`AmdViState`] that this crate writes.
const VERSION: u32 = 2;

/// The state of a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmdViState {
    version: u32,
    feature: u64,
    feature_2: u64,
    /// Offset and value of every register that is not at its reset value.
    registers: Vec<(u16, u64)>,
    /// The base address of the command buffer as enabled.
    commands: Option<u64>,
    /// The status bits whose interrupts were sent.
    sent: u64,
    /// Devices whose faults are not logged until their entry is invalidated.
    suppressed: Vec<u16>,
    /// Invalidations that device-TLBs have not answered.
    device_tlbs: Vec<TlbState>,
}

/// An INVALIDATE_IOTLB_PAGES without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TlbState {
    device: u16,
    /// Where the command was.
    command: u64,
    pasid: Option<u32>,
    first: u64,
    last: u64,
}

impl AmdVi {
    /// The state of the unit. No vCPU and no device may run meanwhile.
    pub fn save(&self) -> AmdViState {
        // Whoever is at work ends its turn first.
        let runner = self.worker.lock();
        let control = self.control();
        let registers = control.file.save();
        let mut suppressed: Vec<u16> = lock(&self.suppressed).iter().copied().collect();
        suppressed.sort_unstable();
        AmdViState {
            version: VERSION,
            feature: self.config.extended_feature().into_bits(),
            feature_2: self.config.extended_feature_2().into_bits(),
            registers,
            commands: control.commands.map(|commands| commands.base.into_bits()),
            sent: control.sent().bits(),
            suppressed,
            device_tlbs: runner.outstanding().map(TlbState::of).collect(),
        }
    }

    /// Sets the state of the unit, whose configuration must be that of the unit the state was
    /// saved from. Guest memory must be restored before; work that was left over continues with
    /// the next [`step`](Self::step). No vCPU and no device may run meanwhile.
    ///
    /// # Errors
    /// [`StateError`]; the unit is then unchanged.
    pub fn restore(&self, state: &AmdViState) -> Result<(), StateError> {
        let fresh = self.control_of(state)?;
        let unsent = state.unsent()?;
        let mut runner = self.worker.lock();
        let mut control = self.control();
        *runner = Runner::restored(unsent);
        *control = fresh;
        self.publish(&control);
        drop(control);
        self.drop_translations();
        self.drop_interrupts();
        *lock(&self.suppressed) = state.suppressed.iter().copied().collect();
        self.routes.refresh();
        drop(runner);
        self.worker.wake();
        Ok(())
    }

    fn control_of(&self, state: &AmdViState) -> Result<Control, StateError> {
        if state.version != VERSION {
            let version = state.version;
            return Err(StateError::Version { version });
        }
        let feature = self.config.extended_feature().into_bits();
        let feature_2 = self.config.extended_feature_2().into_bits();
        StateError::compare("Extended Feature", state.feature, feature)?;
        StateError::compare("Extended Feature 2", state.feature_2, feature_2)?;
        let mut control = Control::new(&self.config);
        control.file.restore(&state.registers)?;
        let running = control.status().contains(Status::COMMAND_RUN);
        if running != state.commands.is_some() {
            return Err(StateError::Corrupt {
                register: "IOMMU Status",
                value: control.file.get(offset::STATUS),
            });
        }
        control.commands = state.commands.map(|base| CommandBuffer {
            base: RingBase::from_bits(base),
            generation: 0,
        });
        control.set_sent(Status::from_bits_truncate(state.sent));
        control.snapshot = control.published();
        // The caches are empty and the routes resolved after a restore.
        control.pending = Pending::default();
        Ok(control)
    }
}

impl TlbState {
    fn of(invalidation: &TlbInvalidation) -> Self {
        Self {
            device: invalidation.device,
            command: invalidation.place.0,
            pasid: invalidation.pasid.map(Pasid::raw),
            first: invalidation.range.start().0,
            last: invalidation.range.end().0,
        }
    }
}

impl AmdViState {
    /// The invalidations to ask device-TLBs for again.
    fn unsent(&self) -> Result<Vec<TlbInvalidation>, StateError> {
        let corrupt = |value| StateError::Corrupt {
            register: "the device-TLBs without an answer",
            value,
        };
        if self.device_tlbs.len() > UNANSWERED {
            return Err(corrupt(self.device_tlbs.len() as u64));
        }
        let invalidation = |saved: &TlbState| {
            let pasid = match saved.pasid {
                Some(raw) => Some(Pasid::new(raw).ok_or(corrupt(raw.into()))?),
                None => None,
            };
            if saved.first > saved.last {
                return Err(corrupt(saved.first));
            }
            Ok(TlbInvalidation {
                device: saved.device,
                place: PhysAddr(saved.command),
                pasid,
                range: Iova(saved.first)..=Iova(saved.last),
            })
        };
        self.device_tlbs.iter().map(invalidation).collect()
    }
}
