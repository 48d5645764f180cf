//! What can go wrong: before the guest runs, and in the guest.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use super::engine::{ImageError, Operation, State};
use super::story::{Step, Story, StoryError};
use crate::kvm::KvmError;
use crate::layout;
use crate::machine::{Ending, MachineError};

/// Why the demo cannot be run here.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The machine cannot be built or run.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// KVM refuses something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The machine lacks something that the story needs.
    #[error(transparent)]
    Story(#[from] StoryError),
    /// The program does not fit into the guest.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The machine has no processor.
    #[error("the machine has no {0}")]
    Missing(&'static str),
    /// What the demo has to say cannot be written.
    #[error("the output cannot be written")]
    Output(#[from] std::io::Error),
    /// The machine's thread panicked.
    #[error("the machine's thread panicked")]
    Panicked,
}

/// Why the guest did not come to the end of the story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step it was at; `None` before the first or after the last.
    pub step: Option<Step>,
    /// What happened.
    pub cause: String,
}

impl Failure {
    /// What a guest in `state` failed at, when the machine ended for `ending`, or was stopped
    /// after `limit`.
    pub fn new(story: &Story, state: State, ending: &Ending, limit: Duration) -> Self {
        let (index, cause) = match state {
            State::Failed { index, value } => {
                let operation = story.program.get(index as usize);
                (index, describe(operation, value))
            }
            State::Exception {
                index,
                vector,
                frame: [first, second],
                address,
            } => (
                index,
                format!(
                    "it took exception {vector} (stack {first:#x} {second:#x}, cr2 {address:#x})"
                ),
            ),
            State::Running(index) if *ending == Ending::Interrupted => {
                let operation = story.program.get(index as usize);
                let doing = operation.map_or_else(String::new, |o| format!(": {}", Doing(o)));
                let cause = format!("it did not go on within {} s{doing}", limit.as_secs());
                (index, cause)
            }
            State::Running(index) => (index, ending.to_string()),
            State::Starting | State::Finished => (0, ending.to_string()),
        };
        Self {
            step: story.step_of(index),
            cause,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(step) = self.step {
            write!(f, "when the guest {}: ", step.activity())?;
        }
        f.write_str(&self.cause)
    }
}

fn describe(operation: Option<&Operation>, value: u64) -> String {
    match operation {
        Some(operation @ Operation::Wait { .. }) => {
            format!("{}, but last read {value:#x}", Doing(operation))
        }
        Some(operation) => format!("{}, but found {value:#x}", Doing(operation)),
        None => "it ran past its program".to_owned(),
    }
}

/// An operation in words.
struct Doing<'a>(&'a Operation);

impl fmt::Display for Doing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Operation::Store { address, value, .. } => {
                write!(f, "it stored {value:#x} to {}", Place(address))
            }
            Operation::Wait {
                address,
                mask,
                value,
                ..
            } => {
                write!(f, "it waited for {} to read {value:#x}", Place(address))?;
                match mask {
                    u64::MAX => Ok(()),
                    mask => write!(f, " under mask {mask:#x}"),
                }
            }
            Operation::Compare {
                address,
                with,
                words,
            } => write!(
                f,
                "it compared {} bytes at {address:#x} with those at {with:#x}",
                words * 8
            ),
            Operation::Sleep { .. } => f.write_str("it slept until an interrupt"),
            Operation::Finish => f.write_str("it was at its end"),
        }
    }
}

/// An address in words.
struct Place(u64);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            layout::VTD..layout::VTD + 0x1000,
            layout::AMDVI..layout::AMDVI + 0x4000,
        ];
        if let Some(unit) = units.iter().find(|unit| unit.contains(&self.0)) {
            write!(f, "the unit's register {:#x}", self.0 - unit.start)
        } else if layout::ECAM.contains(&self.0) {
            write!(f, "config space {:#x}", self.0 - layout::ECAM.start())
        } else if layout::PCI_WINDOW_32.contains(&self.0) {
            write!(f, "the device's register at {:#x}", self.0)
        } else {
            write!(f, "memory at {:#x}", self.0)
        }
    }
}
