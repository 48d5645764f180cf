//! Signals that ask the process to end: the machine stops first, so that its terminal is
//! restored and its report is written.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{SIGHUP, SIGINT, SIGTERM, c_int, c_void, siginfo_t};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};
use vmm_sys_util::signal::register_signal_handler;

use crate::kvm::KvmError;

/// The eventfd that the handler writes, or -1. It is made once and never closed, so that a late
/// signal writes to no stranger.
static EVENT: AtomicI32 = AtomicI32::new(-1);
/// The owner of [`EVENT`].
static OWNER: Mutex<Option<EventFd>> = Mutex::new(None);

extern "C" fn notify(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let fd = EVENT.load(Ordering::Acquire);
    let one = 1_u64;
    // SAFETY: `one` is 8 readable bytes, the call is async-signal-safe, and the descriptor is
    // never closed. A failure cannot be told to anybody from here.
    unsafe { libc::write(fd, (&raw const one).cast(), size_of::<u64>()) };
}

/// SIGINT, SIGTERM and SIGHUP as an eventfd.
pub(crate) struct HostSignals(EventFd);

impl HostSignals {
    /// Catches the signals from now on.
    pub(crate) fn catch() -> Result<Self, KvmError> {
        let mut owner = OWNER.lock().unwrap_or_else(PoisonError::into_inner);
        let event = match owner.take() {
            Some(event) => event,
            None => EventFd::new(EFD_CLOEXEC | libc::EFD_NONBLOCK)
                .map_err(KvmError::host("make an eventfd"))?,
        };
        let clone = event
            .try_clone()
            .map_err(KvmError::host("share an eventfd"));
        EVENT.store(std::os::fd::AsRawFd::as_raw_fd(&event), Ordering::Release);
        *owner = Some(event);
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            register_signal_handler(signal, notify).map_err(|error| KvmError::Host {
                action: "install a signal handler",
                source: error.into(),
            })?;
        }
        clone.map(Self)
    }

    /// Becomes readable at a signal.
    pub(crate) fn event(&self) -> &EventFd {
        &self.0
    }
}
