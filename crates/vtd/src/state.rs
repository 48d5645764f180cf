//! A unit's state, to be saved and restored.
//!
//! Caches are not part of it: they fill again. An invalidation that waits for accesses in flight
//! is saved as not begun, and carried out anew after the restore.

use serde::{Deserialize, Serialize};
use vm_iommu_dma::unit::StateError;
use vm_iommu_spec::vtd::registers::{
    ContextCommand, GlobalBits, InterruptTableAddress, InvalidateAddress, IotlbInvalidate,
    QueueAddress, RootTableAddress, offset,
};

use crate::control::{Control, Pending, Queue};
use crate::invalidation::Runner;
use crate::unit::Vtd;

/// The version of [`VtdState`] that this crate writes.
const VERSION: u32 = 1;

/// The state of a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtdState {
    version: u32,
    capability: u64,
    extended_capability: u64,
    /// Offset and value of every register that is not at its reset value.
    registers: Vec<(u16, u64)>,
    enabled: u32,
    root: u64,
    interrupts: u64,
    pointers: u32,
    queue: Option<u64>,
    next_record: u16,
    pending: PendingState,
    silent_device_tlb: Option<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PendingState {
    status: Option<u32>,
    context: Option<u64>,
    iotlb: Option<(u64, u64)>,
}

impl Vtd {
    /// The state of the unit. No vCPU and no device may run meanwhile.
    pub fn save(&self) -> VtdState {
        let runner = self.worker.lock();
        let control = self.control();
        let registers = control.file.save();
        let mut pending = control.pending;
        if let Some((begun, _)) = &runner.command {
            pending.status = pending.status.or(begun.status);
            pending.context = pending.context.or(begun.context);
            pending.iotlb = pending.iotlb.or(begun.iotlb);
        }
        VtdState {
            version: VERSION,
            capability: control.file.get(offset::CAP),
            extended_capability: control.file.get(offset::ECAP),
            registers,
            enabled: control.snapshot.enabled.bits(),
            root: control.snapshot.root.into_bits(),
            interrupts: control.snapshot.interrupts.into_bits(),
            pointers: control.pointers.bits(),
            queue: control.queue.map(|queue| queue.address.into_bits()),
            next_record: control.next_record,
            pending: PendingState {
                status: pending.status.map(|status| status.bits()),
                context: pending.context.map(ContextCommand::into_bits),
                iotlb: pending
                    .iotlb
                    .map(|(command, address)| (command.into_bits(), address.into_bits())),
            },
            silent_device_tlb: runner.silent,
        }
    }

    /// Sets the state of the unit, whose configuration must be that of the unit the state was
    /// saved from. Guest memory must be restored before; work that was left over continues with
    /// the next [`step`](Self::step). No vCPU and no device may run meanwhile.
    ///
    /// # Errors
    /// [`StateError`]; the unit is then unchanged.
    pub fn restore(&self, state: &VtdState) -> Result<(), StateError> {
        let fresh = self.control_of(state)?;
        let mut runner = self.worker.lock();
        let mut control = self.control();
        *runner = Runner::default();
        runner.silent = state.silent_device_tlb;
        *control = fresh;
        self.publish(&control);
        drop(control);
        self.drop_caches();
        drop(runner);
        self.worker.wake();
        Ok(())
    }

    fn control_of(&self, state: &VtdState) -> Result<Control, StateError> {
        if state.version != VERSION {
            let version = state.version;
            return Err(StateError::Version { version });
        }
        let capability = self.config.capability().into_bits();
        let extended = self.config.extended_capability().into_bits();
        StateError::compare("CAP_REG", state.capability, capability)?;
        StateError::compare("ECAP_REG", state.extended_capability, extended)?;
        let mut control = Control::new(&self.config);
        control.file.restore(&state.registers)?;
        if state.next_record >= control.records.1 {
            return Err(StateError::Corrupt {
                register: "the index of the next fault recording register",
                value: u64::from(state.next_record),
            });
        }
        control.next_record = state.next_record;
        control.snapshot.enabled =
            GlobalBits::from_bits_truncate(state.enabled) & GlobalBits::ENABLES;
        control.snapshot.root = RootTableAddress::from_bits(state.root);
        control.snapshot.interrupts = InterruptTableAddress::from_bits(state.interrupts);
        control.pointers = GlobalBits::from_bits_truncate(state.pointers);
        control.queue = state.queue.map(|address| Queue {
            address: QueueAddress::from_bits(address),
            generation: 0,
        });
        let pending = &state.pending;
        control.pending = Pending {
            status: pending.status.map(GlobalBits::from_bits_truncate),
            // The caches are empty and the routes resolved after a restore.
            translation: false,
            interrupts: false,
            context: pending.context.map(ContextCommand::from_bits),
            iotlb: pending.iotlb.map(|(command, address)| {
                (
                    IotlbInvalidate::from_bits(command),
                    InvalidateAddress::from_bits(address),
                )
            }),
        };
        Ok(control)
    }
}
