//! The thread that does what a unit cannot finish within a register write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::RemappingUnit;
use crate::kvm::KvmError;

/// The thread that continues what the unit cannot finish within a register write; dropping it
/// ends and joins it.
pub(in crate::machine) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    quit: AtomicBool,
    event: EventFd,
}

impl Worker {
    /// Starts the worker of `unit`.
    pub(in crate::machine) fn start(unit: Arc<dyn RemappingUnit>) -> Result<Self, KvmError> {
        let shared = Arc::new(Shared {
            quit: AtomicBool::new(false),
            event: EventFd::new(EFD_CLOEXEC).map_err(KvmError::host("make an eventfd"))?,
        });
        let wake = Arc::clone(&shared);
        unit.set_waker(Box::new(move || wake.wake()));
        let asked = Arc::clone(&shared);
        let thread = Builder::new()
            .name(unit.kind().to_owned())
            .spawn(move || asked.serve(&*unit))
            .map_err(KvmError::host("start a thread"))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl Shared {
    fn wake(&self) {
        if let Err(error) = self.event.write(1) {
            log::error!("the unit's worker was not woken: {error}");
        }
    }

    fn serve(&self, unit: &dyn RemappingUnit) {
        // What is held up waits for accesses in flight, which end within microseconds.
        const YIELDS: u32 = 100;
        const PAUSE: Duration = Duration::from_micros(20);
        loop {
            // An interrupted read asks the unit once more than needed.
            let _ = self.event.read();
            let mut turns = 0_u32;
            while !self.quit.load(Ordering::Acquire) && unit.step() {
                turns = turns.saturating_add(1);
                if turns < YIELDS {
                    std::thread::yield_now();
                } else {
                    std::thread::sleep(PAUSE);
                }
            }
            if self.quit.load(Ordering::Acquire) {
                return;
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the unit's worker panicked");
        }
    }
}
