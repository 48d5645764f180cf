//! What an `ioctl`'s argument points to.

/// How much of an `ioctl`'s argument travels with it, in bytes. None of iommufd's is longer.
pub const INLINE: usize = 128;

/// Bytes at an `ioctl`'s argument: those whose bit in the mask is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inline {
    /// Bit N is for byte N.
    pub mask: u128,
    /// The bytes; 0 where the mask is.
    pub bytes: [u8; INLINE],
}

impl Default for Inline {
    fn default() -> Self {
        Inline {
            mask: 0,
            bytes: [0; INLINE],
        }
    }
}

impl Inline {
    /// How many bytes there are from the first on.
    pub fn length(&self) -> usize {
        self.mask.trailing_ones() as usize
    }

    /// The place after the last byte.
    pub(super) fn end(&self) -> usize {
        INLINE - self.mask.leading_zeros() as usize
    }

    /// The bytes by their places, in runs.
    pub fn runs(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let mut rest = self.mask;
        std::iter::from_fn(move || {
            let start = rest.trailing_zeros() as usize;
            let length = rest.checked_shr(start as u32)?.trailing_ones() as usize;
            let end = start + length;
            let above = u128::MAX.checked_shl(end as u32).unwrap_or(0);
            rest &= above;
            Some((start, self.bytes.get(start..end)?))
        })
    }

    /// Sets bytes from `at` on; `false` if they are not all in it.
    pub fn set(&mut self, at: usize, bytes: &[u8]) -> bool {
        let end = at.saturating_add(bytes.len());
        let Some(place) = self.bytes.get_mut(at..end) else {
            return false;
        };
        place.copy_from_slice(bytes);
        let ones = match bytes.len() {
            0 => 0,
            length => u128::MAX >> (INLINE - length) as u32,
        };
        self.mask |= ones.checked_shl(at as u32).unwrap_or(0);
        true
    }
}
