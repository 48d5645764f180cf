//! Answers that an invalidation waits for.

use std::sync::Arc;

use crate::{EpochSlot, Epochs};

/// The promise to stop using what was invalidated, kept by dropping it.
///
/// It counts as an access that is in flight: no drain that begins after it was made is complete
/// before it is dropped.
#[derive(Debug)]
#[must_use = "dropping it says that nothing of what was invalidated is in use any more"]
pub struct Acknowledgement {
    slot: Arc<EpochSlot>,
}

/// The side that waits for an [`Acknowledgement`].
#[derive(Debug)]
pub struct Awaited {
    slot: Arc<EpochSlot>,
}

impl Epochs {
    /// A promise for somebody else to keep, and the means to see whether it was. Drains that
    /// begin from now on wait for it.
    pub fn acknowledgement(&self) -> (Acknowledgement, Awaited) {
        let slot = self.register();
        slot.enter(self);
        let awaited = Awaited {
            slot: Arc::clone(&slot),
        };
        (Acknowledgement { slot }, awaited)
    }
}

impl Drop for Acknowledgement {
    fn drop(&mut self) {
        self.slot.park();
    }
}

impl Awaited {
    /// Whether the answer came, or is not awaited any more.
    pub fn is_answered(&self) -> bool {
        self.slot.is_parked()
    }

    /// Gives up waiting, as after a time-out: drains go on without the answer.
    pub fn abandon(&self) {
        self.slot.park();
    }
}
