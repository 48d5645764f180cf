//! What a unit can do (MMIO offsets 0030h and 01A0h).

use bitfield_struct::bitfield;

/// Extended Feature Register (EFR).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExtendedFeature {
    /// PreFSup: PREFETCH_IOMMU_PAGES.
    pub prefetch: bool,
    /// PPRSup: page requests.
    pub ppr: bool,
    /// XTSup: 32-bit destinations of interrupts.
    pub x2apic: bool,
    /// NXSup: no-execute protection.
    pub no_execute: bool,
    /// GTSup: guest translation.
    pub guest_translation: bool,
    #[bits(1)]
    __: u8,
    /// IASup: INVALIDATE_IOMMU_ALL.
    pub invalidate_all: bool,
    /// GASup: 128-bit interrupt remapping table entries.
    pub guest_apic: bool,
    /// HESup: hardware event registers.
    pub hardware_error: bool,
    /// PCSup: performance counters.
    pub performance_counters: bool,
    /// HATS, 2 bits: host tables have up to 4 + n levels; 3 for no host tables.
    #[bits(2)]
    pub host_levels: u8,
    /// GATS, 2 bits: guest tables have up to 4 + n levels.
    #[bits(2)]
    pub guest_levels: u8,
    /// GLXSup, 2 bits: guest CR3 tables have up to 1 + n levels.
    #[bits(2)]
    pub guest_cr3_levels: u8,
    /// SmiFSup, 2 bits: 1 if there are SMI filter registers.
    #[bits(2)]
    pub smi_filter: u8,
    /// SmiFRC, 3 bits: 2^n of them.
    #[bits(3)]
    pub smi_filter_registers: u8,
    /// GAMSup, 3 bits: 1 for guest virtual APIC mode.
    #[bits(3)]
    pub guest_apic_modes: u8,
    /// DualPprLogSup, 2 bits.
    #[bits(2)]
    pub dual_ppr_log: u8,
    #[bits(2)]
    __: u8,
    /// DualEventLogSup, 2 bits.
    #[bits(2)]
    pub dual_event_log: u8,
    #[bits(2)]
    __: u8,
    /// PASMax, 5 bits: width of PASIDs, minus 1.
    #[bits(5)]
    pub pasid_width: u8,
    /// USSup: user/supervisor protection.
    pub user_supervisor: bool,
    /// DevTblSegSup, 2 bits: up to 2^n segments of the device table.
    #[bits(2)]
    pub device_table_segments: u8,
    /// PprOvrflwEarlySup.
    pub ppr_overflow_early: bool,
    /// PPRAutoRspSup.
    pub ppr_auto_response: bool,
    /// MarcSup, 2 bits.
    #[bits(2)]
    pub marc: u8,
    /// BlkStopMrkSup.
    pub block_stop_mark: bool,
    /// PerfOptSup.
    pub performance_optimization: bool,
    /// MsiCapMmioSup: the MSI registers are in the register window too.
    pub msi_registers: bool,
    #[bits(1)]
    __: u8,
    /// GIOSup: requests without PASID may use guest tables.
    pub guest_io: bool,
    /// HASup: accessed bits of host tables.
    pub host_accessed: bool,
    /// EPHSup: enhanced page request handling.
    pub enhanced_ppr: bool,
    /// AttrFWSup.
    pub attribute_forward: bool,
    /// HDSup: dirty bits of host tables.
    pub host_dirty: bool,
    #[bits(1)]
    __: u8,
    /// InvIotlbTypeSup: the Type field of INVALIDATE_IOTLB_PAGES.
    pub invalidate_iotlb_type: bool,
    /// ViommuSup.
    pub virtual_iommu: bool,
    #[bits(4)]
    __: u8,
    #[bits(1)]
    __: u8,
    /// GAUpdateDisSup: updates of accessed and dirty bits in guest tables can be disabled.
    pub guest_update_disable: bool,
    /// ForcePhyDestSup.
    pub force_physical_destination: bool,
    /// SNPSup.
    pub secure_nested_paging: bool,
}

/// Extended Feature 2 Register (EFR2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExtendedFeature2 {
    #[bits(3)]
    __: u8,
    /// GCR3TRPModeSup: the root of the guest CR3 table may be a guest physical address.
    pub guest_cr3_mode: bool,
    #[bits(1)]
    __: u8,
    /// SNPAVICSup, 3 bits.
    #[bits(3)]
    pub snp_avic: u8,
    /// NumIntRemapSup, 2 bits: 0 for interrupt remapping tables of up to 512 entries, 1 of up to
    /// 2048.
    #[bits(2)]
    pub interrupt_table: u8,
    #[bits(1)]
    __: u8,
    /// HtRangeIgnore: HyperTransport's address ranges are ordinary addresses.
    pub ht_range_ignore: bool,
    #[bits(52)]
    __: u64,
}
