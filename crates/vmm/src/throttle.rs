//! A bound on what a guest can make this process log.

use std::sync::atomic::{AtomicU32, Ordering};

/// Lets the first few messages of a kind pass.
#[derive(Debug, Default)]
pub(crate) struct Throttle(AtomicU32);

impl Throttle {
    const MOST: u32 = 64;

    /// Whether to log another one.
    pub(crate) fn passes(&self) -> bool {
        // Not counted further once it is reached, so that it never wraps.
        self.0.load(Ordering::Relaxed) < Self::MOST
            && self.0.fetch_add(1, Ordering::Relaxed) < Self::MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_pass() {
        let throttle = Throttle::default();
        let passed = (0..1000).filter(|_| throttle.passes()).count();
        assert_eq!(passed, Throttle::MOST as usize);
    }
}
