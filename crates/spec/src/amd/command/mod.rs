//! Commands (section 2.4).
//!
//! The types of [`raw`] are the bits, for whoever writes commands; [`Command`] is what a unit
//! makes of them once they proved valid.

pub mod raw;

use core::ops::RangeInclusive;

use thiserror::Error;

use crate::{DomainId, Iova, Pasid, PhysAddr};

/// Which commands a unit has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandRules {
    /// IotlbSup of the capability block: INVALIDATE_IOTLB_PAGES.
    pub iotlb: bool,
    /// EFR.PreFSup: PREFETCH_IOMMU_PAGES.
    pub prefetch: bool,
    /// EFR.PPRSup: COMPLETE_PPR_REQUEST.
    pub ppr: bool,
    /// EFR.IASup: INVALIDATE_IOMMU_ALL.
    pub invalidate_all: bool,
    /// EFR.GTSup: GN and PASID fields are defined.
    pub guest_translation: bool,
    /// EFR.InvIotlbTypeSup: the Type field of INVALIDATE_IOTLB_PAGES is defined.
    pub invalidate_iotlb_type: bool,
}

/// Why a command is illegal: the unit logs ILLEGAL_COMMAND_ERROR and stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum IllegalCommand {
    /// An opcode that the unit does not have.
    #[error("opcode {opcode:#x} is not supported")]
    Opcode {
        /// The opcode.
        opcode: u8,
    },
    /// A reserved bit is set.
    #[error("reserved bit set in a command with opcode {opcode:#x}")]
    Reserved {
        /// The opcode.
        opcode: u8,
    },
}

/// A command that proved valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// COMPLETION_WAIT.
    CompletionWait(CompletionWait),
    /// INVALIDATE_DEVTAB_ENTRY.
    InvalidateDeviceTableEntry {
        /// The device.
        device: u16,
    },
    /// INVALIDATE_IOMMU_PAGES.
    InvalidatePages {
        /// The domain.
        domain: DomainId,
        /// GN and PASID: only translations of this guest address space; without, those of guest
        /// physical addresses, which all guest translations rest on.
        pasid: Option<Pasid>,
        /// First and last byte.
        range: RangeInclusive<Iova>,
        /// PDE: entries that point to tables may have changed, not only those that map pages.
        directories: bool,
    },
    /// INVALIDATE_IOTLB_PAGES.
    InvalidateDeviceTlb {
        /// The device.
        device: u16,
        /// QueueID: devices that share it share [`max_pending`](Self::InvalidateDeviceTlb::max_pending).
        queue: u16,
        /// Maxpend: how many invalidations may be without an answer.
        max_pending: u8,
        /// GN and PASID.
        pasid: Option<Pasid>,
        /// First and last byte.
        range: RangeInclusive<Iova>,
    },
    /// INVALIDATE_INTERRUPT_TABLE.
    InvalidateInterruptTable {
        /// The device.
        device: u16,
    },
    /// PREFETCH_IOMMU_PAGES, a hint.
    Prefetch {
        /// The device.
        device: u16,
        /// GN and PASID.
        pasid: Option<Pasid>,
        /// PFCount pages of the size that S encodes: their first and last byte.
        range: RangeInclusive<Iova>,
        /// Inval: what is cached is to be dropped before.
        invalidate: bool,
    },
    /// COMPLETE_PPR_REQUEST.
    CompletePpr {
        /// The device.
        device: u16,
        /// GN and PASID.
        pasid: Option<Pasid>,
        /// CompletionTag: Page Request Group Index in bits 8:0, the response code in 15:12.
        tag: u16,
    },
    /// INVALIDATE_IOMMU_ALL.
    InvalidateAll,
}

/// COMPLETION_WAIT (section 2.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletionWait {
    /// s: where to store which data.
    pub store: Option<(PhysAddr, u64)>,
    /// i: raise an interrupt.
    pub interrupt: bool,
    /// f: later commands begin after this one.
    pub flush: bool,
}

impl Command {
    /// Decodes a command of 128 bits.
    ///
    /// # Errors
    /// [`IllegalCommand`].
    pub const fn decode(low: u64, high: u64, rules: &CommandRules) -> Result<Self, IllegalCommand> {
        let opcode = raw::opcode(low);
        let known = match opcode {
            raw::COMPLETION_WAIT
            | raw::INVALIDATE_DEVTAB_ENTRY
            | raw::INVALIDATE_IOMMU_PAGES
            | raw::INVALIDATE_INTERRUPT_TABLE => true,
            raw::INVALIDATE_IOTLB_PAGES => rules.iotlb,
            raw::PREFETCH_IOMMU_PAGES => rules.prefetch,
            raw::COMPLETE_PPR_REQUEST => rules.ppr,
            raw::INVALIDATE_IOMMU_ALL => rules.invalidate_all,
            _ => false,
        };
        if !known {
            return Err(IllegalCommand::Opcode { opcode });
        }
        let [reserved_low, reserved_high] = raw::reserved(opcode, rules);
        if low & reserved_low != 0 || high & reserved_high != 0 {
            return Err(IllegalCommand::Reserved { opcode });
        }
        Ok(match opcode {
            raw::COMPLETION_WAIT => {
                let raw = raw::CompletionWait::from_bits(low);
                Self::CompletionWait(CompletionWait {
                    store: if raw.store() {
                        Some((raw.address(), high))
                    } else {
                        None
                    },
                    interrupt: raw.interrupt(),
                    flush: raw.flush(),
                })
            }
            raw::INVALIDATE_DEVTAB_ENTRY => Self::InvalidateDeviceTableEntry { device: low as u16 },
            raw::INVALIDATE_IOMMU_PAGES => {
                let (raw, pages) = (
                    raw::InvalidatePages::from_bits(low),
                    raw::PageSelector::from_bits(high),
                );
                Self::InvalidatePages {
                    domain: DomainId(raw.domain()),
                    pasid: guest(pages, raw.pasid()),
                    range: pages.range(),
                    directories: pages.directories(),
                }
            }
            raw::INVALIDATE_IOTLB_PAGES => {
                let (raw, pages) = (
                    raw::InvalidateIotlb::from_bits(low),
                    raw::PageSelector::from_bits(high),
                );
                Self::InvalidateDeviceTlb {
                    device: raw.device(),
                    queue: raw.queue(),
                    max_pending: raw.max_pending(),
                    pasid: guest(pages, raw.pasid()),
                    range: pages.range(),
                }
            }
            raw::INVALIDATE_INTERRUPT_TABLE => {
                Self::InvalidateInterruptTable { device: low as u16 }
            }
            raw::PREFETCH_IOMMU_PAGES => {
                let (raw, pages) = (
                    raw::Prefetch::from_bits(low),
                    raw::PageSelector::from_bits(high),
                );
                Self::Prefetch {
                    device: raw.device(),
                    pasid: guest(pages, raw.pasid()),
                    range: pages.ranges(raw.count()),
                    invalidate: pages.invalidate(),
                }
            }
            raw::COMPLETE_PPR_REQUEST => {
                let (raw, pages) = (
                    raw::CompletePpr::from_bits(low),
                    raw::PageSelector::from_bits(high & 4),
                );
                Self::CompletePpr {
                    device: raw.device(),
                    pasid: guest(pages, raw.pasid()),
                    tag: (high >> 32) as u16,
                }
            }
            _ => Self::InvalidateAll,
        })
    }
}

/// The PASID of a command whose GN is set.
const fn guest(pages: raw::PageSelector, pasid: u32) -> Option<Pasid> {
    if pages.guest() {
        Pasid::new(pasid & Pasid::MAX.raw())
    } else {
        None
    }
}
