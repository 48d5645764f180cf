//! IOMMU Control Register (MMIO offset 0018h).

use bitfield_struct::bitfield;

/// IOMMU Control Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// IommuEn: requests are translated, interrupts remapped, commands processed.
    pub enable: bool,
    /// HtTunEn.
    pub ht_tunnel: bool,
    /// EventLogEn.
    pub event_log: bool,
    /// EventIntEn.
    pub event_interrupt: bool,
    /// ComWaitIntEn.
    pub completion_wait_interrupt: bool,
    /// InvTimeOut, 3 bits: how long a device may take to drop translations: never over, 1 ms,
    /// 10 ms, 100 ms, 1 s, 10 s, 100 s, reserved.
    #[bits(3)]
    pub invalidation_timeout: u8,
    /// PassPW.
    pub pass_posted_write: bool,
    /// ResPassPW.
    pub response_pass_posted_write: bool,
    /// Coherent: accesses to tables snoop.
    pub coherent: bool,
    /// Isoc.
    pub isochronous: bool,
    /// CmdBufEn.
    pub command_buffer: bool,
    /// PprLogEn.
    pub ppr_log: bool,
    /// PprIntEn.
    pub ppr_interrupt: bool,
    /// PPREn: page requests are processed.
    pub ppr: bool,
    /// GTEn: guest translation.
    pub guest_translation: bool,
    /// GAEn: interrupt remapping table entries have 128 bits.
    pub guest_apic: bool,
    /// CRW, 4 bits: no function defined.
    #[bits(4)]
    pub crw: u8,
    /// SmiFEn: SMI filter.
    pub smi_filter: bool,
    /// SlfWBDis.
    pub self_write_back_disable: bool,
    /// SmiFLogEn: blocked SMIs are logged.
    pub smi_filter_log: bool,
    /// GAMEn, 3 bits: 1 for guest virtual APIC mode.
    #[bits(3)]
    pub guest_apic_mode: u8,
    /// GALogEn.
    pub ga_log: bool,
    /// GAIntEn.
    pub ga_interrupt: bool,
    /// DualPprLogEn, 2 bits.
    #[bits(2)]
    pub dual_ppr_log: u8,
    /// DualEventLogEn, 2 bits.
    #[bits(2)]
    pub dual_event_log: u8,
    /// DevTblSegEn, 3 bits: 2^n segments of the device table, for n up to 3.
    #[bits(3)]
    pub device_table_segments: u8,
    /// PrivAbrtEn, 2 bits.
    #[bits(2)]
    pub privilege_abort: u8,
    /// PprAutoRspEn: page requests that find no room are answered.
    pub ppr_auto_response: bool,
    /// MarcEn.
    pub marc: bool,
    /// BlkStopMrkEn.
    pub block_stop_mark: bool,
    /// PprAutoRspAon: all page requests are answered so.
    pub ppr_auto_response_always: bool,
    /// NumIntRemapMode, 2 bits: 1 for interrupt remapping tables of up to 2048 entries.
    #[bits(2)]
    pub interrupt_table_mode: u8,
    /// EPHEn: enhanced page request handling.
    pub enhanced_ppr: bool,
    /// HADUpdate, 2 bits: how accessed and dirty bits of host tables are updated.
    #[bits(2)]
    pub host_flags_update: u8,
    /// GDUpdateDis: dirty bits of guest tables are not set.
    pub guest_dirty_disable: bool,
    #[bits(1)]
    __: u8,
    /// XTEn: destinations of interrupts have 32 bits.
    pub x2apic: bool,
    /// IntCapXTEn: the unit's own interrupts go by the XT interrupt control registers.
    pub x2apic_interrupts: bool,
    /// vCmdEn.
    pub virtual_commands: bool,
    /// vIommuEn.
    pub virtual_iommu: bool,
    /// GAUpdateDis: accessed bits of guest tables are not set.
    pub guest_accessed_disable: bool,
    /// GAPPIEn.
    pub gappi: bool,
    /// TMPMEn, 2 bits.
    #[bits(2)]
    pub tiered_memory: u8,
    /// GCR3TRPMode: the root of the guest CR3 table is a guest physical address.
    pub guest_cr3_is_guest_physical: bool,
    /// IRTCacheDis: interrupt remapping table entries are not cached.
    pub interrupt_cache_disable: bool,
    /// GstBufferTRPMode.
    pub guest_buffer_mode: bool,
    /// SNPAVICEn, 3 bits.
    #[bits(3)]
    pub snp_avic: u8,
}
