//! Register files in a unit's saved state.

use thiserror::Error;

use super::{Register, RegisterFile};

/// Why a state does not fit a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StateError {
    /// A version that is not known.
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

impl StateError {
    /// Compares a capability register of the state with the unit's own.
    ///
    /// # Errors
    /// [`StateError::Capability`] if they differ.
    pub fn compare(register: &'static str, saved: u64, own: u64) -> Result<(), Self> {
        if saved == own {
            Ok(())
        } else {
            Err(Self::Capability {
                register,
                saved,
                own,
            })
        }
    }
}

impl RegisterFile {
    /// Offset and value of every register that is not at its reset value.
    pub fn save(&self) -> Vec<(u16, u64)> {
        let value = |register: &Register| (register.offset, self.get(register.offset));
        self.registers()
            .iter()
            .filter(|register| value(register).1 != register.reset)
            .map(value)
            .collect()
    }

    /// Sets what [`save`](Self::save) yielded, in a file at its reset values.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] for a register that is not there, or a value beyond its size.
    pub fn restore(&mut self, saved: &[(u16, u64)]) -> Result<(), StateError> {
        for &(offset, value) in saved {
            let known = self.registers().iter().find(|known| known.offset == offset);
            match known.copied() {
                Some(register) if register.size == 8 || value >> 32 == 0 => self.set(offset, value),
                known => {
                    return Err(StateError::Corrupt {
                        register: known.map_or("a register's offset", |known| known.name),
                        value: known.map_or(u64::from(offset), |_| value),
                    });
                }
            }
        }
        Ok(())
    }
}
