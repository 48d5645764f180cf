//! Root and context tables of legacy mode (sections 9.1 and 9.3).

use bitfield_struct::bitfield;

use crate::vtd::FaultReason;
use crate::{DomainId, PhysAddr};

/// What a unit's capabilities make of table entries: which fields and values are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRules {
    /// Width of physical addresses in bits (HAW): address bits above are reserved.
    pub host_address_width: u8,
    /// SAGAW: bit 1, 2 or 3 for tables of 3, 4 or 5 levels.
    pub adjusted_widths: u8,
    /// ECAP.PT: the pass-through translation type is supported.
    pub pass_through: bool,
    /// ECAP.DT: device-TLBs are supported.
    pub device_tlb: bool,
}

impl TableRules {
    /// The bits of a word that holds an address, from 12 on, which lie beyond the host address
    /// width.
    const fn beyond_host(&self) -> u64 {
        match u64::MAX.checked_shl(self.host_address_width as u32) {
            Some(mask) => mask,
            None => 0,
        }
    }
}

/// A root entry, 128 bits, one for each bus.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct RootEntry {
    /// P: present.
    pub present: bool,
    #[bits(11)]
    reserved1: u16,
    #[bits(52)]
    frame: u64,
    #[bits(64)]
    reserved64: u64,
}

impl RootEntry {
    /// The entry whose lower and upper halves these are.
    pub const fn from_words(low: u64, high: u64) -> Self {
        Self::from_bits(low as u128 | (high as u128) << 64)
    }

    /// The lower and the upper half.
    pub const fn words(self) -> [u64; 2] {
        [self.into_bits() as u64, (self.into_bits() >> 64) as u64]
    }

    /// CTP: the address of the context table, 4 KiB.
    pub const fn context_table(self) -> PhysAddr {
        PhysAddr(self.frame() << 12)
    }

    /// The same with the context table at `address`, whose bits 11:0 are dropped.
    pub const fn with_context_table(self, address: PhysAddr) -> Self {
        self.with_frame(address.0 >> 12)
    }

    /// The address of the context table, once the entry proved valid.
    ///
    /// # Errors
    /// [`FaultReason::RootEntryNotPresent`] and [`FaultReason::RootEntryReserved`].
    pub const fn check(self, rules: &TableRules) -> Result<PhysAddr, FaultReason> {
        if !self.present() {
            Err(FaultReason::RootEntryNotPresent)
        } else if self.reserved1() != 0
            || self.reserved64() != 0
            || self.context_table().0 & rules.beyond_host() != 0
        {
            Err(FaultReason::RootEntryReserved)
        } else {
            Ok(self.context_table())
        }
    }
}

/// What is done with requests: the TT field of a context entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TranslationType {
    /// Untranslated requests are translated; requests of a device-TLB are blocked.
    Untranslated = 0,
    /// Untranslated requests are translated; requests of a device-TLB are served.
    DeviceTlb = 1,
    /// Untranslated requests pass untranslated; requests of a device-TLB are blocked.
    PassThrough = 2,
    /// Reserved.
    Reserved = 3,
}

impl TranslationType {
    const fn into_bits(self) -> u8 {
        self as u8
    }

    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Untranslated,
            1 => Self::DeviceTlb,
            2 => Self::PassThrough,
            _ => Self::Reserved,
        }
    }
}

/// A context entry, 128 bits, one for each function of a bus.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct ContextEntry {
    /// P: present.
    pub present: bool,
    /// FPD: faults that this entry or what lies behind it causes are not recorded.
    pub fault_processing_disable: bool,
    /// TT, 2 bits.
    #[bits(2)]
    pub translation_type: TranslationType,
    #[bits(8)]
    reserved4: u8,
    #[bits(52)]
    frame: u64,
    /// AW, 3 bits: 1, 2 or 3 for tables of 3, 4 or 5 levels.
    #[bits(3)]
    pub address_width: u8,
    #[bits(4)]
    _ignored67: u8,
    #[bits(1)]
    reserved71: u8,
    /// DID, 16 bits: the domain.
    #[bits(16)]
    pub domain: u16,
    #[bits(40)]
    reserved88: u64,
}

/// A context entry that proved valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// What is done with requests; never [`TranslationType::Reserved`].
    pub translation_type: TranslationType,
    /// The number of levels of the tables, 3 to 5.
    pub levels: u8,
    /// The address of the topmost table; without meaning for pass-through.
    pub tables: PhysAddr,
    /// The domain.
    pub domain: DomainId,
    /// Faults are not recorded.
    pub fault_processing_disable: bool,
}

impl ContextEntry {
    /// The entry whose lower and upper halves these are.
    pub const fn from_words(low: u64, high: u64) -> Self {
        Self::from_bits(low as u128 | (high as u128) << 64)
    }

    /// The lower and the upper half.
    pub const fn words(self) -> [u64; 2] {
        [self.into_bits() as u64, (self.into_bits() >> 64) as u64]
    }

    /// SSPTPTR: the address of the topmost second-stage table.
    pub const fn tables(self) -> PhysAddr {
        PhysAddr(self.frame() << 12)
    }

    /// The same with the topmost table at `address`, whose bits 11:0 are dropped.
    pub const fn with_tables(self, address: PhysAddr) -> Self {
        self.with_frame(address.0 >> 12)
    }

    /// The contents, once the entry proved valid.
    ///
    /// # Errors
    /// [`FaultReason::ContextEntryNotPresent`], [`FaultReason::ContextEntryReserved`], and
    /// [`FaultReason::ContextEntryInvalid`] for an address width or a translation type that the
    /// unit does not support; pass-through demands the largest supported width.
    pub const fn check(self, rules: &TableRules) -> Result<Context, FaultReason> {
        if !self.present() {
            return Err(FaultReason::ContextEntryNotPresent);
        }
        if self.reserved4() != 0
            || self.reserved71() != 0
            || self.reserved88() != 0
            || self.tables().0 & rules.beyond_host() != 0
        {
            return Err(FaultReason::ContextEntryReserved);
        }
        let width = self.address_width();
        let supported = rules.adjusted_widths as u16 >> width;
        let valid = match self.translation_type() {
            TranslationType::Untranslated => supported & 1 != 0,
            TranslationType::DeviceTlb => rules.device_tlb && supported & 1 != 0,
            TranslationType::PassThrough => rules.pass_through && supported == 1,
            TranslationType::Reserved => false,
        };
        if !valid || width == 0 || width > 3 {
            return Err(FaultReason::ContextEntryInvalid);
        }
        Ok(Context {
            translation_type: self.translation_type(),
            levels: width + 2,
            tables: self.tables(),
            domain: DomainId(self.domain()),
            fault_processing_disable: self.fault_processing_disable(),
        })
    }
}
