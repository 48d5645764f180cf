//! What a unit can do (sections 11.4.1 to 11.4.3).

use bitfield_struct::bitfield;

/// VER_REG (section 11.4.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Version {
    /// MIN, 4 bits: minor version.
    #[bits(4)]
    pub minor: u8,
    /// MAJ, 4 bits: major version. From 6 on, register-based invalidation is gone.
    #[bits(4)]
    pub major: u8,
    #[bits(24)]
    __: u32,
}

/// CAP_REG (section 11.4.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Capability {
    /// ND, 3 bits: the unit knows 2^(4 + 2n) domains.
    #[bits(3)]
    pub domains: u8,
    /// AFL: advanced fault logging.
    pub advanced_fault_log: bool,
    /// RWBF: the unit's write buffer must be flushed.
    pub write_buffer_flush: bool,
    /// PLMR: protected low-memory region.
    pub protected_low_memory: bool,
    /// PHMR: protected high-memory region.
    pub protected_high_memory: bool,
    /// CM: not-present entries may be cached.
    pub caching_mode: bool,
    /// SAGAW, 5 bits: bit 1, 2 or 3 for tables of 3, 4 or 5 levels.
    #[bits(5)]
    pub adjusted_widths: u8,
    #[bits(3)]
    __: u8,
    /// MGAW, 6 bits: the width of addresses that can be translated, minus 1.
    #[bits(6)]
    pub maximum_width: u8,
    /// ZLR: zero-length reads of write-only pages succeed.
    pub zero_length_read: bool,
    #[bits(1)]
    __: u8,
    /// FRO, 10 bits: offset of the first fault recording register, in units of 16 bytes.
    #[bits(10)]
    pub fault_recording: u16,
    /// SSLPS, 4 bits: bit 0 for 2-MiB pages, bit 1 for 1-GiB pages in second-stage tables.
    #[bits(4)]
    pub second_stage_large_pages: u8,
    #[bits(1)]
    __: u8,
    /// PSI: page-selective IOTLB invalidation.
    pub page_selective_invalidation: bool,
    /// NFR, 8 bits: number of fault recording registers, minus 1.
    #[bits(8)]
    pub fault_records: u8,
    /// MAMV, 6 bits: the largest address mask of a page-selective invalidation.
    #[bits(6)]
    pub maximum_address_mask: u8,
    /// DWD: write draining.
    pub write_draining: bool,
    /// DRD: read draining.
    pub read_draining: bool,
    /// FS1GP: 1-GiB pages in first-stage tables.
    pub first_stage_1g_pages: bool,
    #[bits(2)]
    __: u8,
    /// PI: posted interrupts.
    pub posted_interrupts: bool,
    /// FS5LP: five levels in first-stage tables.
    pub first_stage_5_levels: bool,
    /// ECMDS: enhanced commands.
    pub enhanced_commands: bool,
    /// ESIRTPS: setting the interrupt table pointer invalidates the interrupt entry cache.
    pub enhanced_set_interrupt_table: bool,
    /// ESRTPS: setting the root table pointer invalidates all translation caches.
    pub enhanced_set_root_table: bool,
}

impl Capability {
    /// Offset in bytes of the first fault recording register; each is 16 bytes long.
    pub const fn fault_recording_offset(self) -> u16 {
        self.fault_recording() << 4
    }

    /// The number of fault recording registers, 1 to 256.
    pub const fn fault_record_count(self) -> u16 {
        self.fault_records() as u16 + 1
    }
}

/// ECAP_REG (section 11.4.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExtendedCapability {
    /// C: the unit's accesses to root, context and interrupt tables, and to second-stage tables
    /// in legacy mode, are coherent.
    pub coherent: bool,
    /// QI: queued invalidation.
    pub queued_invalidation: bool,
    /// DT: device-TLBs.
    pub device_tlb: bool,
    /// IR: interrupt remapping.
    pub interrupt_remapping: bool,
    /// EIM: 32-bit destinations of interrupts (x2APIC).
    pub extended_interrupt_mode: bool,
    #[bits(1)]
    __: u8,
    /// PT: pass-through translation type.
    pub pass_through: bool,
    /// SC: snoop control, the SNP field of second-stage entries.
    pub snoop_control: bool,
    /// IRO, 10 bits: offset of the IOTLB invalidation registers, in units of 16 bytes.
    #[bits(10)]
    pub iotlb_registers: u16,
    #[bits(2)]
    __: u8,
    /// MHMV, 4 bits: the largest index mask of an interrupt entry cache invalidation.
    #[bits(4)]
    pub maximum_handle_mask: u8,
    #[bits(1)]
    __: u8,
    /// MTS: memory types.
    pub memory_types: bool,
    /// NEST: nested translation.
    pub nested_translation: bool,
    #[bits(2)]
    __: u8,
    /// PRS: page requests.
    pub page_requests: bool,
    /// ERS: execute requests.
    pub execute_requests: bool,
    /// SRS: supervisor requests.
    pub supervisor_requests: bool,
    #[bits(1)]
    __: u8,
    /// NWFS: the no-write flag of translation requests.
    pub no_write_flag: bool,
    /// EAFS: extended accessed flags.
    pub extended_accessed_flags: bool,
    /// PSS, 5 bits: width of PASIDs, minus 1.
    #[bits(5)]
    pub pasid_width: u8,
    /// PASID: requests with PASID.
    pub pasid: bool,
    /// DIT: throttling of device-TLB invalidations.
    pub device_tlb_throttle: bool,
    /// PDS: draining of page requests.
    pub page_request_drain: bool,
    /// SMTS: scalable mode.
    pub scalable_mode: bool,
    /// VCS: virtual commands.
    pub virtual_commands: bool,
    /// SSADS: accessed and dirty flags in second-stage tables.
    pub second_stage_accessed_dirty: bool,
    /// SSTS: second-stage translation in scalable mode.
    pub second_stage: bool,
    /// FSTS: first-stage translation.
    pub first_stage: bool,
    /// SMPWCS: page walks in scalable mode can be coherent.
    pub scalable_walk_coherency: bool,
    /// RPS: the PASID of requests without PASID is configurable.
    pub rid_pasid: bool,
    #[bits(1)]
    __: u8,
    /// PMS: performance monitoring.
    pub performance_monitoring: bool,
    /// ADMS: abort-DMA mode.
    pub abort_dma_mode: bool,
    /// RPRIVS: the privilege of requests without PASID is configurable.
    pub rid_privilege: bool,
    #[bits(10)]
    __: u16,
}

impl ExtendedCapability {
    /// Offset in bytes of IVA_REG (64 bits); IOTLB_REG (64 bits) follows it.
    pub const fn iotlb_offset(self) -> u16 {
        self.iotlb_registers() << 4
    }
}
