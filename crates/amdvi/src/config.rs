//! What a unit offers, and the capability registers that say so.

use thiserror::Error;
use vm_iommu_dma::{IotlbConfig, WalkCacheConfig};
use vm_iommu_pagetable::Levels;
use vm_iommu_spec::amd::DteRules;
use vm_iommu_spec::amd::command::CommandRules;
use vm_iommu_spec::amd::registers::{
    CapabilityHeader, ExtendedFeature, ExtendedFeature2, Miscellaneous,
};

/// What a unit offers. The default suits current Linux: host tables of up to six levels with
/// accessed and dirty flags, guest tables with PASIDs, 128-bit interrupt remapping entries with
/// 32-bit destinations, page requests, and no caching of not-present entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmdViConfig {
    /// The PCI segment that the unit serves.
    pub segment: u16,
    /// PAsize: width of guest physical addresses in bits, 32 to 52: table entries with address
    /// bits above are refused.
    pub physical_address_width: u8,
    /// IotlbSup: devices may have a TLB of their own (ATS).
    pub iotlb_support: bool,
    /// NpCache: announces that not-present entries may be cached, so that the guest's driver
    /// reports every mapping. The unit caches none.
    pub np_cache: bool,
    /// EFR.HATS: the most levels of host tables, 4, 5 or 6; `None` without host tables.
    pub host_levels: Option<u8>,
    /// EFR.HASup: host tables with accessed flags.
    pub host_accessed: bool,
    /// EFR.HDSup: host tables with dirty flags; needs accessed flags.
    pub host_dirty: bool,
    /// EFR.GTSup: guest tables.
    pub guest_translation: bool,
    /// EFR.GATS: the most levels of guest tables, 4 or 5.
    pub guest_levels: u8,
    /// EFR.GLXSup: the most levels of guest CR3 tables, 1 to 3.
    pub guest_cr3_levels: u8,
    /// EFR.PASMax as a width: 1 to 20 bits. Linux stops at more than 16.
    pub pasid_bits: u8,
    /// EFR.GIOSup: requests without PASID may use guest tables; needs guest translation.
    pub guest_io: bool,
    /// EFR.NXSup: no-execute protection in guest tables; without, the field is reserved.
    pub no_execute: bool,
    /// EFR.USSup: user and supervisor privilege; without, all requests are a user's.
    pub user_supervisor: bool,
    /// EFR2.GCR3TRPModeSup: the root of the guest CR3 table may be a guest physical address;
    /// needs guest translation.
    pub guest_cr3_mode: bool,
    /// EFR.PPRSup: page requests; needs devices with TLBs.
    pub ppr: bool,
    /// EFR.EPHSup: enhanced page request handling; needs page requests.
    pub enhanced_ppr: bool,
    /// EFR.PPRAutoRspSup; needs page requests.
    pub ppr_auto_response: bool,
    /// EFR.PprOvrflwEarlySup; needs page requests.
    pub ppr_overflow_early: bool,
    /// EFR.IASup.
    pub invalidate_all: bool,
    /// EFR.PreFSup: PREFETCH_IOMMU_PAGES is accepted, and being a hint, has no effect but that of
    /// its Inval field.
    pub prefetch: bool,
    /// EFR.InvIotlbTypeSup: the Type field of INVALIDATE_IOTLB_PAGES is accepted; every
    /// invalidation covers all types.
    pub invalidate_iotlb_type: bool,
    /// EFR.GASup: interrupt remapping entries of 128 bits.
    pub guest_apic: bool,
    /// EFR.GAMSup: entries that are guests' interrupts, and the GA log; needs 128-bit entries.
    pub guest_apic_mode: bool,
    /// EFR.XTSup: 32-bit destinations; needs 128-bit entries.
    pub x2apic: bool,
    /// EFR2.NumIntRemapSup: interrupt remapping tables of up to 2048 entries instead of 512.
    pub interrupt_table_2048: bool,
    /// EFR.SmiFSup: the number of SMI filter registers: 0, 1, 2, 4, 8 or 16.
    pub smi_filters: u8,
    /// EFR.DevTblSegSup: the device table may have up to 2^n segments, n from 0 to 3.
    pub device_table_segments: u8,
    /// EFR.HESup: hardware event registers.
    pub hardware_error: bool,
    /// EFR.MsiCapMmioSup: the MSI registers are in the register window too.
    pub msi_registers: bool,
    /// EFR2.HtRangeIgnore: HyperTransport's address ranges are ordinary addresses.
    pub ht_range_ignore: bool,
    /// The IOTLB.
    pub iotlb: IotlbConfig,
    /// The paging-structure cache.
    pub walk_cache: WalkCacheConfig,
    /// The number of device table entries, and of PASIDs' guest CR3 table entries, cached; 0
    /// turns the cache off.
    pub device_cache: usize,
    /// The number of interrupt remapping table entries cached; 0 turns the cache off.
    pub interrupt_cache: usize,
    /// Whether a wait is reported complete only when the accesses in flight have ended. Off, the
    /// unit enforces nothing: a device may still access a page that its guest took away. For
    /// measuring what waiting costs, and for nothing else.
    pub drain: bool,
}

impl Default for AmdViConfig {
    fn default() -> Self {
        Self {
            segment: 0,
            physical_address_width: 48,
            iotlb_support: false,
            np_cache: false,
            host_levels: Some(6),
            host_accessed: true,
            host_dirty: true,
            guest_translation: true,
            guest_levels: 5,
            guest_cr3_levels: 3,
            pasid_bits: 16,
            guest_io: true,
            no_execute: true,
            user_supervisor: true,
            guest_cr3_mode: true,
            ppr: false,
            enhanced_ppr: false,
            ppr_auto_response: false,
            ppr_overflow_early: false,
            invalidate_all: true,
            prefetch: true,
            invalidate_iotlb_type: false,
            guest_apic: true,
            guest_apic_mode: false,
            x2apic: true,
            interrupt_table_2048: true,
            smi_filters: 0,
            device_table_segments: 3,
            hardware_error: true,
            msi_registers: true,
            ht_range_ignore: true,
            iotlb: IotlbConfig::default(),
            walk_cache: WalkCacheConfig::default(),
            device_cache: 256,
            interrupt_cache: 1024,
            drain: true,
        }
    }
}

/// Why a configuration describes no unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The width of physical addresses is not between 32 and 52.
    #[error("physical addresses of {bits} bits: 32 to 52 are possible")]
    PhysicalAddressWidth {
        /// What was asked for.
        bits: u8,
    },
    /// The number of levels of host tables is not 4, 5 or 6.
    #[error("host tables of {levels} levels: 4, 5 or 6 are possible")]
    HostLevels {
        /// What was asked for.
        levels: u8,
    },
    /// Neither host nor guest tables for requests without PASID.
    #[error("neither host tables nor guest tables for requests without PASID")]
    NoTranslation,
    /// The number of levels of guest tables is not 4 or 5.
    #[error("guest tables of {levels} levels: 4 or 5 are possible")]
    GuestLevels {
        /// What was asked for.
        levels: u8,
    },
    /// The number of levels of guest CR3 tables is not between 1 and 3.
    #[error("guest CR3 tables of {levels} levels: 1 to 3 are possible")]
    GuestCr3Levels {
        /// What was asked for.
        levels: u8,
    },
    /// The width of PASIDs is not between 1 and 20.
    #[error("PASIDs of {bits} bits: 1 to 20 are possible")]
    PasidBits {
        /// What was asked for.
        bits: u8,
    },
    /// The number of SMI filter registers is not 0, 1, 2, 4, 8 or 16.
    #[error("{count} SMI filter registers: 0, 1, 2, 4, 8 or 16 are possible")]
    SmiFilters {
        /// What was asked for.
        count: u8,
    },
    /// The device table has more than 2^3 segments.
    #[error("2^{segments} segments of the device table: at most 2^3 are possible")]
    DeviceTableSegments {
        /// What was asked for.
        segments: u8,
    },
    /// One feature needs another.
    #[error("{feature} needs {needs}")]
    Needs {
        /// The feature on offer.
        feature: Feature,
        /// The feature that is missing.
        needs: Feature,
    },
}

/// A feature with dependencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Feature {
    /// IotlbSup.
    #[error("IotlbSup")]
    Iotlb,
    /// EFR.HASup.
    #[error("HASup")]
    HostAccessed,
    /// EFR.HDSup.
    #[error("HDSup")]
    HostDirty,
    /// Host tables.
    #[error("host tables")]
    HostTables,
    /// EFR.GTSup.
    #[error("GTSup")]
    GuestTranslation,
    /// EFR.GIOSup.
    #[error("GIOSup")]
    GuestIo,
    /// EFR2.GCR3TRPModeSup.
    #[error("GCR3TRPModeSup")]
    GuestCr3Mode,
    /// EFR.PPRSup.
    #[error("PPRSup")]
    Ppr,
    /// EFR.EPHSup.
    #[error("EPHSup")]
    EnhancedPpr,
    /// EFR.PPRAutoRspSup.
    #[error("PPRAutoRspSup")]
    PprAutoResponse,
    /// EFR.PprOvrflwEarlySup.
    #[error("PprOvrflwEarlySup")]
    PprOverflowEarly,
    /// EFR.GASup.
    #[error("GASup")]
    GuestApic,
    /// EFR.GAMSup.
    #[error("GAMSup")]
    GuestApicMode,
    /// EFR.XTSup.
    #[error("XTSup")]
    X2Apic,
}

impl AmdViConfig {
    /// The size of the register window in bytes.
    pub const REGISTER_WINDOW: u64 = 0x4000;

    /// Checks that the configuration describes a unit.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bits = self.physical_address_width;
        if !(32..=52).contains(&bits) {
            return Err(ConfigError::PhysicalAddressWidth { bits });
        }
        match self.host_levels {
            None if !self.guest_io => return Err(ConfigError::NoTranslation),
            Some(levels) if !(4..=6).contains(&levels) => {
                return Err(ConfigError::HostLevels { levels });
            }
            _ => {}
        }
        let levels = self.guest_levels;
        if !(4..=5).contains(&levels) {
            return Err(ConfigError::GuestLevels { levels });
        }
        let levels = self.guest_cr3_levels;
        if !(1..=3).contains(&levels) {
            return Err(ConfigError::GuestCr3Levels { levels });
        }
        let bits = self.pasid_bits;
        if !(1..=20).contains(&bits) {
            return Err(ConfigError::PasidBits { bits });
        }
        let count = self.smi_filters;
        if count != 0 && (!count.is_power_of_two() || count > 16) {
            return Err(ConfigError::SmiFilters { count });
        }
        let segments = self.device_table_segments;
        if segments > 3 {
            return Err(ConfigError::DeviceTableSegments { segments });
        }
        let needs = [
            (
                (self.host_accessed, Feature::HostAccessed),
                (self.host_levels.is_some(), Feature::HostTables),
            ),
            (
                (self.host_dirty, Feature::HostDirty),
                (self.host_accessed, Feature::HostAccessed),
            ),
            (
                (self.guest_io, Feature::GuestIo),
                (self.guest_translation, Feature::GuestTranslation),
            ),
            (
                (self.guest_cr3_mode, Feature::GuestCr3Mode),
                (self.guest_translation, Feature::GuestTranslation),
            ),
            (
                (self.ppr, Feature::Ppr),
                (self.iotlb_support, Feature::Iotlb),
            ),
            (
                (self.enhanced_ppr, Feature::EnhancedPpr),
                (self.ppr, Feature::Ppr),
            ),
            (
                (self.ppr_auto_response, Feature::PprAutoResponse),
                (self.ppr, Feature::Ppr),
            ),
            (
                (self.ppr_overflow_early, Feature::PprOverflowEarly),
                (self.ppr, Feature::Ppr),
            ),
            (
                (self.guest_apic_mode, Feature::GuestApicMode),
                (self.guest_apic, Feature::GuestApic),
            ),
            (
                (self.x2apic, Feature::X2Apic),
                (self.guest_apic, Feature::GuestApic),
            ),
        ];
        for ((on, feature), (present, needs)) in needs {
            if on && !present {
                return Err(ConfigError::Needs { feature, needs });
            }
        }
        Ok(())
    }

    /// The size of the register window in bytes: without performance counters, 16 KiB.
    pub fn register_window(&self) -> u64 {
        Self::REGISTER_WINDOW
    }

    /// The Capability Header of the PCI function, but for CapPtr.
    pub fn capability_header(&self) -> CapabilityHeader {
        CapabilityHeader::new()
            .with_iotlb(self.iotlb_support)
            .with_np_cache(self.np_cache)
            .with_extended_feature(true)
            .with_extended(true)
    }

    /// The Miscellaneous Information Registers: all interrupts are message 0.
    pub fn miscellaneous(&self) -> Miscellaneous {
        Miscellaneous::new()
            .with_guest_virtual_size(2)
            .with_physical_size(self.physical_address_width)
            .with_virtual_size(64)
    }

    /// EFR.
    pub fn extended_feature(&self) -> ExtendedFeature {
        let guest = self.guest_translation;
        ExtendedFeature::new()
            .with_prefetch(self.prefetch)
            .with_ppr(self.ppr)
            .with_x2apic(self.x2apic)
            .with_no_execute(self.no_execute)
            .with_guest_translation(guest)
            .with_invalidate_all(self.invalidate_all)
            .with_guest_apic(self.guest_apic)
            .with_hardware_error(self.hardware_error)
            .with_host_levels(self.host_levels.map_or(3, |levels| levels - 4))
            .with_guest_levels(if guest { self.guest_levels - 4 } else { 0 })
            .with_guest_cr3_levels(if guest { self.guest_cr3_levels - 1 } else { 0 })
            .with_smi_filter(u8::from(self.smi_filters > 0))
            .with_smi_filter_registers(self.smi_filters.checked_ilog2().unwrap_or(0) as u8)
            .with_guest_apic_modes(u8::from(self.guest_apic_mode))
            .with_pasid_width(if guest { self.pasid_bits - 1 } else { 0 })
            .with_user_supervisor(self.user_supervisor)
            .with_device_table_segments(self.device_table_segments)
            .with_ppr_overflow_early(self.ppr_overflow_early)
            .with_ppr_auto_response(self.ppr_auto_response)
            .with_msi_registers(self.msi_registers)
            .with_guest_io(self.guest_io)
            .with_host_accessed(self.host_accessed)
            .with_enhanced_ppr(self.enhanced_ppr)
            .with_host_dirty(self.host_dirty)
            .with_invalidate_iotlb_type(self.invalidate_iotlb_type)
    }

    /// EFR2.
    pub fn extended_feature_2(&self) -> ExtendedFeature2 {
        ExtendedFeature2::new()
            .with_guest_cr3_mode(self.guest_cr3_mode)
            .with_interrupt_table(u8::from(self.interrupt_table_2048))
            .with_ht_range_ignore(self.ht_range_ignore)
    }

    /// What device table entries may hold; `large_tables` is NumIntRemapMode.
    pub(crate) fn dte_rules(&self, large_tables: bool) -> DteRules {
        DteRules {
            host_levels: self.host_levels.unwrap_or(0),
            guest_translation: self.guest_translation,
            guest_levels: self.guest_levels,
            guest_cr3_levels: self.guest_cr3_levels,
            guest_io: self.guest_io,
            host_accessed: self.host_accessed,
            host_dirty: self.host_dirty,
            enhanced_ppr: self.enhanced_ppr,
            interrupt_table_length: if large_tables { 11 } else { 9 },
        }
    }

    pub(crate) fn command_rules(&self) -> CommandRules {
        CommandRules {
            iotlb: self.iotlb_support,
            prefetch: self.prefetch,
            ppr: self.ppr,
            invalidate_all: self.invalidate_all,
            guest_translation: self.guest_translation,
            invalidate_iotlb_type: self.invalidate_iotlb_type,
        }
    }

    /// The number of levels of guest tables as the page-table formats name it.
    pub(crate) fn levels(count: u8) -> Levels {
        if count == 5 {
            Levels::Five
        } else {
            Levels::Four
        }
    }
}
