//! The signal that takes a thread out of the guest.

use std::thread::JoinHandle;

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::KvmError;

/// Proof that the signal has a handler, without which it would end the process.
#[derive(Clone, Copy, Debug)]
pub struct KickSignal(c_int);

impl KickSignal {
    /// Installs the handler, which does nothing: that the signal interrupts KVM_RUN is all.
    ///
    /// # Errors
    /// The host refuses the handler.
    pub fn install() -> Result<Self, KvmError> {
        extern "C" fn nothing(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}
        let signal = SIGRTMIN();
        register_signal_handler(signal, nothing).map_err(|error| KvmError::Host {
            action: "install a signal handler",
            source: error.into(),
        })?;
        Ok(Self(signal))
    }

    /// Interrupts `thread` if it is in the guest. A thread that is about to enter it does not
    /// notice, so repeat until it has ended.
    pub fn kick<T>(&self, thread: &JoinHandle<T>) {
        if let Err(error) = thread.kill(self.0) {
            log::debug!("a thread was not signalled: {error}");
        }
    }
}
