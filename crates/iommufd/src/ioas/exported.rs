//! Memory that a device exports (dma-buf), and may take back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Pages;
use crate::Errno;
use crate::memory::Backing;

/// Exported memory. Who exports it can revoke it: then it is unmapped wherever it was, and cannot
/// be mapped until it is restored.
pub(crate) struct Exported {
    backing: Arc<dyn Backing>,
    length: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revoked: bool,
    users: Vec<Weak<Pages>>,
}

impl Exported {
    #[cfg(feature = "selftest")]
    pub(crate) fn new(backing: Arc<dyn Backing>, length: u64) -> Arc<Self> {
        Arc::new(Self {
            backing,
            length,
            state: Mutex::default(),
        })
    }

    pub(crate) fn backing(&self) -> Arc<dyn Backing> {
        Arc::clone(&self.backing)
    }

    /// In bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Whether it can be mapped now.
    ///
    /// # Errors
    /// [`Errno::ENODEV`] while it is revoked.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        if self.lock().revoked {
            Err(Errno::ENODEV)
        } else {
            Ok(())
        }
    }

    /// Revokes or restores it. What was mapped before stays unmapped.
    #[cfg(feature = "selftest")]
    pub(crate) fn set_revoked(&self, revoked: bool) {
        let users: Vec<_> = {
            let mut state = self.lock();
            state.revoked = revoked;
            state.users.retain(|user| user.strong_count() > 0);
            state.users.iter().filter_map(Weak::upgrade).collect()
        };
        users.iter().for_each(|pages| pages.revoke());
    }

    /// Has pages unmapped when it is revoked.
    pub(super) fn attach(&self, pages: &Arc<Pages>) {
        let mut state = self.lock();
        state.users.retain(|user| user.strong_count() > 0);
        state.users.push(Arc::downgrade(pages));
        if state.revoked {
            drop(state);
            pages.revoke();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
