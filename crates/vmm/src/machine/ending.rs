//! Why a machine stopped, and the switch that stops it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use crate::kvm::{Crash, KvmError};

/// Why a machine stopped.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Ending {
    /// The guest powered the machine off.
    PowerOff,
    /// The guest reset the machine. It is not started again: the process ends.
    Reset,
    /// A processor shut down after a fault within the handling of a double fault.
    TripleFault,
    /// The guest wrote `value` to the exit device.
    ExitDevice {
        /// What was written.
        value: u32,
    },
    /// The user or the host asked for it.
    Interrupted,
    /// KVM could not go on.
    Crashed(Box<Crash>),
}

impl Ending {
    /// The process's exit code: 0 after power-off; odd after a write of `v` to the exit device,
    /// `v << 1 | 1` in 8 bits; 4 after a reset; 6 after a triple fault; 8 if KVM could not go
    /// on; 130 if interrupted. 2 is for what never started.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::PowerOff => 0,
            Self::Reset => 4,
            Self::TripleFault => 6,
            Self::ExitDevice { value } => (value << 1 | 1) as u8,
            Self::Interrupted => 130,
            Self::Crashed(_) => 8,
        }
    }

    /// A word for reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::TripleFault => "triple-fault",
            Self::ExitDevice { .. } => "exit-device",
            Self::Interrupted => "interrupted",
            Self::Crashed(_) => "crashed",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest reset the machine"),
            Self::TripleFault => f.write_str("the guest shut down with a triple fault"),
            Self::ExitDevice { value } => {
                write!(f, "the guest wrote {value:#x} to the exit device")
            }
            Self::Interrupted => f.write_str("interrupted"),
            Self::Crashed(crash) => crash.fmt(f),
        }
    }
}

/// The switch that stops a machine; the first reason given counts.
#[derive(Clone)]
pub struct StopSwitch(Arc<Inner>);

struct Inner {
    thrown: AtomicBool,
    ending: Mutex<Option<Ending>>,
    event: EventFd,
}

impl StopSwitch {
    /// A switch that is not thrown.
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn new() -> Result<Self, KvmError> {
        Ok(Self(Arc::new(Inner {
            thrown: AtomicBool::new(false),
            ending: Mutex::default(),
            event: EventFd::new(EFD_CLOEXEC).map_err(KvmError::host("make an eventfd"))?,
        })))
    }

    /// Stops the machine. Its processors leave the guest at their next exit or signal.
    pub fn stop(&self, ending: Ending) {
        let mut slot = self.0.ending.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(ending);
        }
        drop(slot);
        self.0.thrown.store(true, Ordering::Release);
        if let Err(error) = self.0.event.write(1) {
            log::error!("the machine's end goes unnoticed: {error}");
        }
    }

    /// Whether the machine is to stop.
    #[inline]
    pub fn is_thrown(&self) -> bool {
        self.0.thrown.load(Ordering::Acquire)
    }

    /// Waits until it is thrown.
    pub fn wait(&self) -> Ending {
        loop {
            let ending = self.0.ending.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(ending) = &*ending {
                return ending.clone();
            }
            drop(ending);
            // An interrupted read asks again; the event is readable once the switch is thrown.
            let _ = self.0.event.read();
        }
    }
}
