//! What tells a program's `poll` that there is something to read: a byte in the socket of the
//! descriptor. One waits there while there is something; who reads the last takes it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{self, SendFlags};

/// The server's end of a descriptor's socket pair.
#[derive(Debug)]
pub(super) struct Bell {
    end: Arc<OwnedFd>,
    rung: Mutex<bool>,
}

impl Bell {
    pub(super) fn new(end: Arc<OwnedFd>) -> Self {
        Bell {
            end,
            rung: Mutex::new(false),
        }
    }

    /// There is something to read.
    pub(super) fn ring(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !*rung {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            *rung = net::send(&*self.end, b"!", flags).is_ok();
        }
    }

    /// Whether the reader should take the byte, since `readable` says that nothing is left. What
    /// comes after that look rings again, and is another byte.
    pub(super) fn is_to_be_taken(&self, readable: impl FnOnce() -> bool) -> bool {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let take = *rung && !readable();
        if take {
            *rung = false;
        }
        take
    }
}
