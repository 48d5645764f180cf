//! A unit's state, to be saved and restored.
//!
//! Caches are not part of it: they fill again. A wait that is held up by accesses in flight is
//! saved as not begun, and carried out anew after the restore.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_iommu_dma::unit::lock;
use vm_iommu_spec::amd::registers::{RingBase, Status, offset};

use crate::command::Runner;
use crate::control::{CommandBuffer, Control, Pending};
use crate::unit::AmdVi;

/// The version of [`AmdViState`] that this crate writes.
const VERSION: u32 = 1;

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
}

/// Why a state does not fit a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StateError {
    /// A version that this crate does not know.
    #[error("version {version} of the state is not known")]
    Version {
        /// The version of the state.
        version: u32,
    },
    /// The state is that of a unit with other capabilities.
    #[error("the state is that of a unit with {register} {saved:#x}, not {own:#x}")]
    Capability {
        /// The register that differs.
        register: &'static str,
        /// Its value in the state.
        saved: u64,
        /// Its value in the unit.
        own: u64,
    },
    /// A value that no unit has.
    #[error("the state is corrupt: {register} cannot be {value:#x}")]
    Corrupt {
        /// What it is the value of.
        register: &'static str,
        /// The value.
        value: u64,
    },
}

impl AmdVi {
    /// The state of the unit. No vCPU and no device may run meanwhile.
    pub fn save(&self) -> AmdViState {
        // Whoever is at work ends its turn first.
        let _runner = self.worker.lock();
        let control = self.control();
        let registers = control
            .file
            .registers()
            .iter()
            .map(|register| (register, control.file.get(register.offset)))
            .filter(|(register, value)| *value != register.reset)
            .map(|(register, value)| (register.offset, value))
            .collect();
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
        let mut runner = self.worker.lock();
        let mut control = self.control();
        *runner = Runner::default();
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
        for (register, saved, own) in [
            ("Extended Feature", state.feature, feature),
            ("Extended Feature 2", state.feature_2, feature_2),
        ] {
            if saved != own {
                return Err(StateError::Capability {
                    register,
                    saved,
                    own,
                });
            }
        }
        let mut control = Control::new(&self.config);
        for &(offset, value) in &state.registers {
            let registers = control.file.registers().iter();
            let known = registers.copied().find(|known| known.offset == offset);
            let fits = |size: u8| size == 8 || value >> 32 == 0;
            match known {
                Some(register) if fits(register.size) => control.file.set(offset, value),
                _ => {
                    return Err(StateError::Corrupt {
                        register: known.map_or("a register's offset", |known| known.name),
                        value: known.map_or(u64::from(offset), |_| value),
                    });
                }
            }
        }
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
