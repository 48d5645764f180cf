//! Work that register writes leave over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::lock;

/// Whether a unit has work left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Nothing is left to do.
    Idle,
    /// Something is left: the unit is to be stepped again.
    Pending,
}

/// Tells the embedder that there is work to do.
type Waker = Arc<dyn Fn() + Send + Sync>;

/// One thread at a time works; whoever finds another at work leaves it a note. `R` is what the
/// thread at work keeps between turns.
#[derive(Default)]
pub struct Worker<R> {
    /// Held by whoever works, drains and callbacks included; only ever tried for, never waited
    /// for, by device threads and vCPUs.
    runner: Mutex<R>,
    /// The note for whoever holds `runner`.
    more_work: AtomicBool,
    /// Whether whoever worked last left something.
    held_up: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl<R> Worker<R> {
    /// Takes turns until one leaves something, or no note was left meanwhile; at most `turns`, as
    /// others may keep leaving notes. A turn bounds its own work. If another thread is at work, it
    /// finds a note, and nothing is left for this one.
    pub fn work(&self, turns: usize, mut turn: impl FnMut(&mut R) -> Progress) -> Progress {
        self.more_work.store(true, Ordering::SeqCst);
        for _ in 0..turns {
            let mut runner = match self.runner.try_lock() {
                Ok(runner) => runner,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // Whoever is at work finds the note.
                Err(TryLockError::WouldBlock) => return Progress::Idle,
            };
            self.more_work.store(false, Ordering::SeqCst);
            let progress = turn(&mut runner);
            self.held_up
                .store(progress == Progress::Pending, Ordering::Relaxed);
            drop(runner);
            if progress == Progress::Pending {
                return Progress::Pending;
            }
            if !self.more_work.load(Ordering::SeqCst) {
                return Progress::Idle;
            }
        }
        self.held_up.store(true, Ordering::Relaxed);
        Progress::Pending
    }

    /// Waits for whoever is at work and keeps others from it: for saving and restoring.
    pub fn lock(&self) -> MutexGuard<'_, R> {
        lock(&self.runner)
    }

    /// Whether something was left and nobody is told of it.
    pub fn is_held_up_unnoticed(&self) -> bool {
        self.held_up.load(Ordering::Relaxed) && lock(&self.waker).is_none()
    }

    /// Sets what [`wake`](Self::wake) calls.
    pub fn set_waker(&self, waker: impl Fn() + Send + Sync + 'static) {
        *lock(&self.waker) = Some(Arc::new(waker));
    }

    /// Tells the embedder that there is work to do.
    pub fn wake(&self) {
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker();
        }
    }
}
