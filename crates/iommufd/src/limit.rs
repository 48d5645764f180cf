//! How much of the framework's own memory one context can take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Errno;

/// A number of things that may be there at once.
#[derive(Debug)]
pub(crate) struct Limit {
    most: u64,
    used: AtomicU64,
}

impl Limit {
    pub(crate) fn new(most: u64) -> Arc<Self> {
        Arc::new(Self {
            most,
            used: AtomicU64::new(0),
        })
    }

    /// Room for one more.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`] if there is none.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Room, Errno> {
        let more = |used| (used < self.most).then_some(used + 1);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|_| Errno::ENOMEM)?;
        Ok(Room(Arc::clone(self)))
    }
}

/// Room that one thing takes until it is dropped.
#[derive(Debug)]
pub(crate) struct Room(Arc<Limit>);

impl Room {
    /// Room for one more thing of the kind.
    ///
    /// # Errors
    /// [`Errno::ENOMEM`] if there is none.
    pub(crate) fn another(&self) -> Result<Self, Errno> {
        self.0.take()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_as_many_as_are_there_at_once() {
        let limit = Limit::new(2);
        let one = limit.take().unwrap();
        let two = one.another().unwrap();
        assert_eq!(limit.take().err(), Some(Errno::ENOMEM));
        assert_eq!(two.another().err(), Some(Errno::ENOMEM));
        drop(one);
        let three = limit.take().unwrap();
        drop((two, three));
        assert_eq!(limit.used.load(Ordering::Relaxed), 0);
    }
}
