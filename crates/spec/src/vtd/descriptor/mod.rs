//! Invalidation descriptors (section 6.5.2).
//!
//! The types of [`raw`] are the bits, for whoever writes descriptors; [`Descriptor`] is what a
//! unit makes of them once they proved valid.

pub mod raw;

use core::ops::RangeInclusive;

use crate::vtd::registers::{Granularity, InvalidateAddress, QueueError};
use crate::{DomainId, Iova, PhysAddr};

/// Which descriptors and values a unit accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorRules {
    /// ECAP.DT: device-TLB invalidations are valid.
    pub device_tlb: bool,
    /// ECAP.IR: interrupt entry cache invalidations are valid.
    pub interrupt_remapping: bool,
    /// CAP.MAMV if CAP.PSI, else `None`: page-selective invalidations become domain-selective.
    pub maximum_address_mask: Option<u8>,
    /// ECAP.MHMV.
    pub maximum_handle_mask: u8,
    /// ECAP.PDS: a wait may ask for page requests to be drained.
    pub page_request_drain: bool,
}

/// Which context entries an invalidation drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextScope {
    /// All.
    Global,
    /// Those of a domain.
    Domain(DomainId),
    /// Those of a device's functions.
    Device {
        /// The domain, a hint.
        domain: DomainId,
        /// The source id.
        source: u16,
        /// Bits of the source id that do not matter.
        ignored: u16,
    },
}

/// The source id bits that an FM field makes irrelevant.
pub const fn function_mask(field: u8) -> u16 {
    match field & 3 {
        0 => 0,
        1 => 0b100,
        2 => 0b110,
        _ => 0b111,
    }
}

/// Which translations an invalidation drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IotlbScope {
    /// All.
    Global,
    /// Those of a domain.
    Domain(DomainId),
    /// Those of a domain that cover any of these addresses.
    Pages {
        /// The domain.
        domain: DomainId,
        /// First and last byte.
        range: RangeInclusive<Iova>,
        /// IH: only entries that map pages changed.
        leaves_only: bool,
    },
}

impl IotlbScope {
    /// The pages of `domain` that an address and its mask select; `None` if the mask is above
    /// `maximum_address_mask`.
    pub fn pages(
        domain: DomainId,
        address: InvalidateAddress,
        maximum_address_mask: u8,
    ) -> Option<Self> {
        let mask = address.address_mask();
        if mask > maximum_address_mask {
            return None;
        }
        let reach = match 1_u64.checked_shl(u32::from(mask) + 12) {
            Some(size) => size - 1,
            None => u64::MAX,
        };
        let first = address.address().0 & !reach;
        Some(Self::Pages {
            domain,
            range: Iova(first)..=Iova(first | reach),
            leaves_only: address.hint(),
        })
    }
}

/// A descriptor that proved valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// Type 1: context cache.
    Context(ContextScope),
    /// Type 2: IOTLB.
    Iotlb(IotlbScope),
    /// Type 3: a device-TLB.
    DeviceTlb {
        /// The device's source id.
        source: u16,
        /// First and last byte.
        range: RangeInclusive<Iova>,
    },
    /// Type 4: interrupt entry cache; the indices whose bits outside of `ignored` equal those of
    /// `index`, or all if `None`.
    InterruptEntry(Option<IndexRange>),
    /// Type 5: wait.
    Wait(Wait),
}

/// A range of interrupt indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRange {
    /// An index in the range.
    pub index: u16,
    /// Bits of the index that do not matter.
    pub ignored: u16,
}

impl IndexRange {
    /// Whether `index` is in the range.
    pub const fn contains(self, index: u16) -> bool {
        (self.index ^ index) & !self.ignored == 0
    }
}

/// What a wait does once everything before it completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// SW: where to write which status.
    pub status: Option<(PhysAddr, u32)>,
    /// IF: raise the invalidation event.
    pub interrupt: bool,
    /// FN: later descriptors begin after this one.
    pub fence: bool,
    /// PD: drain page requests.
    pub page_request_drain: bool,
}

impl Descriptor {
    /// Decodes a 128-bit descriptor.
    ///
    /// # Errors
    /// [`QueueError::InvalidType`] for a type that the unit does not have, and
    /// [`QueueError::Reserved`] for reserved fields, granularities and masks.
    pub fn decode(low: u64, high: u64, rules: &DescriptorRules) -> Result<Self, QueueError> {
        match raw::kind(low) {
            raw::CONTEXT => Self::context(low, high),
            raw::IOTLB => Self::iotlb(low, high, rules),
            raw::DEVICE_TLB if rules.device_tlb => Self::device_tlb(low, high),
            raw::INTERRUPT_ENTRY if rules.interrupt_remapping => {
                Self::interrupt_entry(low, high, rules)
            }
            raw::WAIT => Self::wait(low, high, rules),
            _ => Err(QueueError::InvalidType),
        }
    }

    fn context(low: u64, high: u64) -> Result<Self, QueueError> {
        let raw = raw::ContextInvalidate::from_bits(low);
        if low & raw::ContextInvalidate::RESERVED != 0 || high != 0 {
            return Err(QueueError::Reserved);
        }
        let domain = DomainId(raw.domain());
        Ok(Self::Context(match raw.granularity() {
            Granularity::Reserved => return Err(QueueError::Reserved),
            Granularity::Global => ContextScope::Global,
            Granularity::Domain => ContextScope::Domain(domain),
            Granularity::Selective => ContextScope::Device {
                domain,
                source: raw.source(),
                ignored: function_mask(raw.function_mask()),
            },
        }))
    }

    fn iotlb(low: u64, high: u64, rules: &DescriptorRules) -> Result<Self, QueueError> {
        let raw = raw::IotlbInvalidate::from_bits(low);
        if low & raw::IotlbInvalidate::RESERVED != 0 || high & 0xf80 != 0 {
            return Err(QueueError::Reserved);
        }
        let domain = DomainId(raw.domain());
        let address = InvalidateAddress::from_bits(high);
        Ok(Self::Iotlb(match raw.granularity() {
            Granularity::Reserved => return Err(QueueError::Reserved),
            Granularity::Global => IotlbScope::Global,
            Granularity::Domain => IotlbScope::Domain(domain),
            Granularity::Selective => match rules.maximum_address_mask {
                None => IotlbScope::Domain(domain),
                Some(maximum) => {
                    IotlbScope::pages(domain, address, maximum).ok_or(QueueError::Reserved)?
                }
            },
        }))
    }

    fn device_tlb(low: u64, high: u64) -> Result<Self, QueueError> {
        let raw = raw::DeviceTlbInvalidate::from_bits(low);
        if low & raw::DeviceTlbInvalidate::RESERVED != 0 || high & 0xffe != 0 {
            return Err(QueueError::Reserved);
        }
        Ok(Self::DeviceTlb {
            source: raw.source(),
            range: raw::device_tlb_range(high & !0xfff, high & 1 != 0),
        })
    }

    fn interrupt_entry(low: u64, high: u64, rules: &DescriptorRules) -> Result<Self, QueueError> {
        let raw = raw::InterruptEntryInvalidate::from_bits(low);
        if low & raw::InterruptEntryInvalidate::RESERVED != 0 || high != 0 {
            return Err(QueueError::Reserved);
        }
        if !raw.selective() {
            return Ok(Self::InterruptEntry(None));
        }
        if raw.index_mask() > rules.maximum_handle_mask {
            return Err(QueueError::Reserved);
        }
        Ok(Self::InterruptEntry(Some(IndexRange {
            index: raw.index(),
            ignored: ((1_u32 << raw.index_mask()) - 1) as u16,
        })))
    }

    fn wait(low: u64, high: u64, rules: &DescriptorRules) -> Result<Self, QueueError> {
        let raw = raw::Wait::from_bits(low);
        if low & raw::Wait::RESERVED != 0
            || high & 3 != 0
            || raw.page_request_drain() && !rules.page_request_drain
        {
            return Err(QueueError::Reserved);
        }
        Ok(Self::Wait(Wait {
            status: raw
                .status_write()
                .then(|| (PhysAddr(high), raw.status_data())),
            interrupt: raw.interrupt(),
            fence: raw.fence(),
            page_request_drain: raw.page_request_drain(),
        }))
    }
}
