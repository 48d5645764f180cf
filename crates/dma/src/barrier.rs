//! A pair of fences of which one side is nearly free.
//!
//! Accesses far outnumber invalidations, so the fence between "I am in flight" and the lookup
//! should cost nothing, and the one between "it is gone" and "who is in flight?" may cost a system
//! call. `membarrier(PRIVATE_EXPEDITED)` makes every running thread of the process execute a full
//! fence: the light side then need only keep the compiler from reordering. For each thread the
//! heavy fence falls at one point of its program. If that point precedes the thread's lookup, the
//! lookup sees the invalidation; if not, it follows the store before the lookup, and the drain
//! sees the access. That is what a pair of full fences promises, and all that is used.
//!
//! Where `membarrier` is not to be had, both sides are full fences.

use crate::sync::{Ordering, fence};

/// Which form the pair takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// The light side orders the compiler alone; the heavy side is a system call.
    Asymmetric,
    /// Full fences on both sides.
    Full,
}

impl Barrier {
    /// The best form that this system offers.
    pub(crate) fn detect() -> Self {
        if cfg!(loom) || !sys::register() {
            Self::Full
        } else {
            Self::Asymmetric
        }
    }

    /// The side of an access.
    #[inline]
    pub(crate) fn light(self) {
        match self {
            Self::Asymmetric => std::sync::atomic::compiler_fence(Ordering::SeqCst),
            Self::Full => fence(Ordering::SeqCst),
        }
    }

    /// The side of a drain.
    pub(crate) fn heavy(self) {
        fence(Ordering::SeqCst);
        if self == Self::Asymmetric {
            sys::fence_all_threads();
        }
    }
}

#[cfg(target_os = "linux")]
mod sys {
    /// Announces the use of `membarrier`; whether it is to be had.
    pub(super) fn register() -> bool {
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }

    /// A full fence in every running thread of this process.
    pub(super) fn fence_all_threads() {
        let fenced = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        // Registered processes cannot be refused (membarrier(2)); going on without the fence
        // would be unsound.
        assert!(
            fenced,
            "membarrier was refused after it had been registered"
        );
    }

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: membarrier takes two integers here and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }
}

#[cfg(not(target_os = "linux"))]
mod sys {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn fence_all_threads() {}
}
