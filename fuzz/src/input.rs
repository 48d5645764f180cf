//! What an input of a unit's target encodes.

use vm_iommu_spec::RequesterId;

/// The bytes of an input that were not used yet.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    /// A word in one of the shapes that lead on: an arbitrary one, or a page with low bits.
    pub(crate) fn word(&mut self) -> Option<u64> {
        let shape = self.byte()?;
        if shape & 1 == 0 {
            return self.u64();
        }
        let page = u64::from(self.byte()?) << 12;
        Some(page | u64::from(self.u16()?) & 0xfff)
    }

    /// A requester out of few, so that tables for them come about.
    pub(crate) fn requester(&mut self) -> Option<RequesterId> {
        let source = u16::from(self.byte()?) & 0x10f;
        Some(RequesterId::from_source_id(0, source))
    }
}
