//! Interrupt remapping table entries (section 2.2.5).
//!
//! Entries have 32 bits, or with GAEn 128 bits; those of 128 bits may name a guest's virtual APIC
//! instead of a processor.

use bitfield_struct::bitfield;

use crate::amd::FaultReason;
use crate::{DeliveryMode, DestinationMode, Interrupt, PhysAddr, TriggerMode};

/// The index of a message's entry in the table of its requester: bits 10:0 of its data.
pub const fn index_of(data: u32) -> u16 {
    (data & 0x7ff) as u16
}

/// An entry of 32 bits (section 2.2.5.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Irte32 {
    /// RemapEn.
    pub remap_enable: bool,
    /// SupIOPF: faults that this entry causes are not logged.
    pub suppress_faults: bool,
    /// IntType, 3 bits: 0 fixed, 1 arbitrated; others are reserved.
    #[bits(3)]
    pub interrupt_type: u8,
    /// RqEoi: the interrupt is level-triggered and asks for the end of interrupt.
    pub request_eoi: bool,
    /// DM: the destination is logical.
    pub logical: bool,
    #[bits(1)]
    __: u8,
    /// Destination, 8 bits.
    pub destination: u8,
    /// Vector, 8 bits.
    pub vector: u8,
    #[bits(8)]
    __: u8,
}

/// An entry of 128 bits whose GuestMode is clear (section 2.2.5.2).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct Irte128 {
    /// RemapEn.
    pub remap_enable: bool,
    /// SupIOPF: faults that this entry causes are not logged.
    pub suppress_faults: bool,
    /// IntType, 3 bits: 0 fixed, 1 arbitrated; others are reserved.
    #[bits(3)]
    pub interrupt_type: u8,
    /// RqEoi: the interrupt is level-triggered and asks for the end of interrupt.
    pub request_eoi: bool,
    /// DM: the destination is logical.
    pub logical: bool,
    /// GuestMode: the entry is a [`GuestIrte`].
    pub guest_mode: bool,
    #[bits(24)]
    destination_low: u32,
    #[bits(32)]
    __: u32,
    /// Vector, 8 bits.
    pub vector: u8,
    #[bits(48)]
    __: u64,
    #[bits(8)]
    destination_high: u32,
}

/// An entry of 128 bits whose GuestMode is set: the interrupt is a guest's (section 2.2.5.2).
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct GuestIrte {
    /// RemapEn.
    pub remap_enable: bool,
    /// SupIOPF: faults that this entry causes are not logged.
    pub suppress_faults: bool,
    /// GALogIntr: if the guest does not run, the GA log says that it has an interrupt.
    pub ga_log: bool,
    #[bits(3)]
    __: u8,
    /// IsRun: the guest's processor runs; its physical one is told by a doorbell.
    pub is_running: bool,
    /// GuestMode.
    #[bits(default = true)]
    pub guest_mode: bool,
    #[bits(24)]
    destination_low: u32,
    /// GATag, 32 bits: what the GA log's entry says.
    pub tag: u32,
    /// Vector, 8 bits.
    pub vector: u8,
    #[bits(4)]
    __: u8,
    #[bits(40)]
    frame: u64,
    #[bits(4)]
    __: u8,
    #[bits(8)]
    destination_high: u32,
}

/// What a valid entry makes of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remapped {
    /// An interrupt of a processor.
    Interrupt(Interrupt),
    /// An interrupt of a guest.
    Guest(GuestInterrupt),
}

/// An interrupt of a guest's virtual APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestInterrupt {
    /// Where the virtual APIC's backing page is.
    pub backing_page: PhysAddr,
    /// The vector.
    pub vector: u8,
    /// The physical APIC whose doorbell is rung, if the guest's processor runs.
    pub doorbell: Option<u32>,
    /// What the GA log is to say, if the guest's processor does not run and the log is wanted.
    pub tag: Option<u32>,
}

/// The interrupt of an entry's common fields.
const fn interrupt(
    interrupt_type: u8,
    request_eoi: bool,
    logical: bool,
    destination: u32,
    vector: u8,
) -> Result<Interrupt, FaultReason> {
    let arbitrated = interrupt_type == 1;
    if interrupt_type > 1 {
        return Err(FaultReason::InterruptType);
    }
    Ok(Interrupt {
        destination,
        destination_mode: if logical {
            DestinationMode::Logical
        } else {
            DestinationMode::Physical
        },
        redirection_hint: arbitrated,
        delivery_mode: if arbitrated {
            DeliveryMode::LowestPriority
        } else {
            DeliveryMode::Fixed
        },
        vector,
        trigger_mode: if request_eoi {
            TriggerMode::Level
        } else {
            TriggerMode::Edge
        },
    })
}

impl Irte32 {
    /// The reserved bits.
    pub const RESERVED: u32 = 0xff00_0080;

    /// The interrupt, once the entry proved valid.
    ///
    /// # Errors
    /// [`FaultReason::InterruptNotRemapped`], [`FaultReason::InterruptEntryReserved`] and
    /// [`FaultReason::InterruptType`].
    pub const fn check(self) -> Result<Interrupt, FaultReason> {
        if !self.remap_enable() {
            return Err(FaultReason::InterruptNotRemapped);
        }
        if self.into_bits() & Self::RESERVED != 0 {
            return Err(FaultReason::InterruptEntryReserved);
        }
        interrupt(
            self.interrupt_type(),
            self.request_eoi(),
            self.logical(),
            self.destination() as u32,
            self.vector(),
        )
    }
}

impl Irte128 {
    /// The reserved bits of the lower half.
    pub const RESERVED_LOW: u64 = 0xffff_ffff << 32;
    /// The reserved bits of the upper half.
    pub const RESERVED_HIGH: u64 = ((1 << 48) - 1) << 8;

    /// The entry whose lower and upper halves these are.
    pub const fn from_words(low: u64, high: u64) -> Self {
        Self::from_bits(low as u128 | (high as u128) << 64)
    }

    /// The lower and the upper half.
    pub const fn words(self) -> [u64; 2] {
        [self.into_bits() as u64, (self.into_bits() >> 64) as u64]
    }

    /// The destination: 32 bits in x2APIC mode, otherwise 8.
    pub const fn destination(self) -> u32 {
        self.destination_high() << 24 | self.destination_low()
    }

    /// The same with another destination.
    pub const fn with_destination(self, destination: u32) -> Self {
        self.with_destination_high(destination >> 24)
            .with_destination_low(destination & 0xff_ffff)
    }

    /// What becomes of the interrupt, once the entry proved valid; `x2apic` is XTEn, and
    /// `guest_mode` whether GAMEn permits entries that are guests'.
    ///
    /// # Errors
    /// [`FaultReason::InterruptNotRemapped`], [`FaultReason::InterruptEntryReserved`], also for
    /// destination bits beyond 8 without `x2apic`, and [`FaultReason::InterruptType`].
    pub const fn check(self, x2apic: bool, guest_mode: bool) -> Result<Remapped, FaultReason> {
        if !self.remap_enable() {
            return Err(FaultReason::InterruptNotRemapped);
        }
        let beyond = !x2apic && self.destination() > 0xff;
        if self.guest_mode() {
            return match GuestIrte::from_bits(self.into_bits()).check() {
                Ok(guest) if guest_mode && !beyond => Ok(Remapped::Guest(guest)),
                _ => Err(FaultReason::InterruptEntryReserved),
            };
        }
        let [low, high] = self.words();
        if low & Self::RESERVED_LOW != 0 || high & Self::RESERVED_HIGH != 0 || beyond {
            return Err(FaultReason::InterruptEntryReserved);
        }
        match interrupt(
            self.interrupt_type(),
            self.request_eoi(),
            self.logical(),
            self.destination(),
            self.vector(),
        ) {
            Ok(interrupt) => Ok(Remapped::Interrupt(interrupt)),
            Err(reason) => Err(reason),
        }
    }
}

impl GuestIrte {
    /// The reserved bits of the lower half.
    pub const RESERVED_LOW: u64 = 7 << 3;
    /// The reserved bits of the upper half.
    pub const RESERVED_HIGH: u64 = 0xf << 8 | 0xf << 52;

    /// The physical APIC that is told when the guest's processor runs.
    pub const fn destination(self) -> u32 {
        self.destination_high() << 24 | self.destination_low()
    }

    /// The same with another destination.
    pub const fn with_destination(self, destination: u32) -> Self {
        self.with_destination_high(destination >> 24)
            .with_destination_low(destination & 0xff_ffff)
    }

    /// Guest Virtual APIC Table Root Pointer: the address of the backing page.
    pub const fn backing_page(self) -> PhysAddr {
        PhysAddr(self.frame() << 12)
    }

    /// The same with the backing page at `address`, whose bits 11:0 and 63:52 are dropped.
    pub const fn with_backing_page(self, address: PhysAddr) -> Self {
        self.with_frame(address.0 >> 12 & ((1 << 40) - 1))
    }

    const fn check(self) -> Result<GuestInterrupt, FaultReason> {
        let low = self.into_bits() as u64;
        let high = (self.into_bits() >> 64) as u64;
        if low & Self::RESERVED_LOW != 0 || high & Self::RESERVED_HIGH != 0 {
            return Err(FaultReason::InterruptEntryReserved);
        }
        Ok(GuestInterrupt {
            backing_page: self.backing_page(),
            vector: self.vector(),
            doorbell: if self.is_running() {
                Some(self.destination())
            } else {
                None
            },
            tag: if self.ga_log() && !self.is_running() {
                Some(self.tag())
            } else {
                None
            },
        })
    }
}
