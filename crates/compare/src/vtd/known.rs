//! The differences that are known, and why our answer is the right one.

use super::run::Mismatch;

/// A known difference.
pub struct Difference {
    /// A short name.
    pub name: &'static str,
    /// What QEMU does otherwise.
    pub title: &'static str,
    /// Why ours is right, or why both are.
    pub reason: &'static str,
    /// Whether a mismatch is an instance of it.
    pub explains: fn(&Mismatch) -> bool,
}

/// The known differences; the first that explains a mismatch counts.
pub const DIFFERENCES: &[Difference] = &[];

/// The known difference that a mismatch is an instance of.
pub fn classify(mismatch: &Mismatch) -> Option<&'static Difference> {
    DIFFERENCES
        .iter()
        .find(|difference| (difference.explains)(mismatch))
}
