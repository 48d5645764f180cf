//! What a unit offers, and the capability registers that say so.

use bitflags::bitflags;
use thiserror::Error;
use vm_iommu_dma::{IotlbConfig, WalkCacheConfig};
use vm_iommu_pagetable::{Levels, SecondStage, SecondStageConfig};
use vm_iommu_spec::vtd::TableRules;
use vm_iommu_spec::vtd::descriptor::DescriptorRules;
use vm_iommu_spec::vtd::registers::{Capability, ExtendedCapability, Version};

/// Sets of address widths that second-stage tables may have, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressWidths(u8);

bitflags! {
    impl AddressWidths: u8 {
        /// 39 bits, tables of three levels.
        const BITS_39 = 1 << 1;
        /// 48 bits, four levels.
        const BITS_48 = 1 << 2;
        /// 57 bits, five levels.
        const BITS_57 = 1 << 3;
    }
}

impl AddressWidths {
    /// The widest, in bits; `None` of the empty set.
    pub fn widest(self) -> Option<u8> {
        let agaw = self.bits().checked_ilog2()? as u8;
        Levels::from_agaw(agaw).map(Levels::address_width)
    }
}

/// What a unit offers. The default suits current Linux: 48 bits, queued invalidation, interrupt
/// remapping with 32-bit destinations, pass-through, coherent table walks, all page sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VtdConfig {
    /// The PCI segment that the unit serves.
    pub segment: u16,
    /// CAP.SAGAW: the widths that tables may have.
    pub address_widths: AddressWidths,
    /// CAP.MGAW in bits: addresses above are refused; `None` is the widest of
    /// [`address_widths`](Self::address_widths).
    pub maximum_address_width: Option<u8>,
    /// Width of guest physical addresses in bits, 32 to 52: table entries with address bits above
    /// fault.
    pub host_address_width: u8,
    /// 2-MiB pages.
    pub two_mib_pages: bool,
    /// 1-GiB pages.
    pub one_gib_pages: bool,
    /// CAP.ND as a width: 4 to 16, even.
    pub domain_id_bits: u8,
    /// CAP.PSI and CAP.MAMV: page-selective IOTLB invalidation of up to 2^n pages; `None` without.
    pub maximum_address_mask: Option<u8>,
    /// CAP.CM: announces that not-present entries may be cached, so that the guest's driver
    /// reports every mapping. The unit caches none.
    pub caching_mode: bool,
    /// CAP.RWBF: announces a write buffer that the guest's driver has to flush.
    pub write_buffer_flush: bool,
    /// CAP.ZLR: reads of no bytes succeed on pages without read permission, as they do in any
    /// case; the guest's driver then maps what devices only write without read permission.
    pub zero_length_read: bool,
    /// CAP.ESRTPS.
    pub enhanced_set_root_table: bool,
    /// CAP.ESIRTPS.
    pub enhanced_set_interrupt_table: bool,
    /// The number of fault recording registers, 1 to 256.
    pub fault_records: u16,
    /// ECAP.C: tells the guest's driver that it need not flush table entries out of its caches.
    pub coherent: bool,
    /// ECAP.QI.
    pub queued_invalidation: bool,
    /// ECAP.DT: device-TLBs; needs queued invalidation.
    pub device_tlb: bool,
    /// ECAP.IR; needs queued invalidation.
    pub interrupt_remapping: bool,
    /// ECAP.EIM: 32-bit destinations; needs interrupt remapping.
    pub extended_interrupt_mode: bool,
    /// ECAP.PT.
    pub pass_through: bool,
    /// ECAP.SC: the SNP field may be set in table entries; without effect, every access snoops.
    pub snoop_control: bool,
    /// The IOTLB.
    pub iotlb: IotlbConfig,
    /// The paging-structure cache.
    pub walk_cache: WalkCacheConfig,
    /// The number of context entries cached; 0 turns the cache off.
    pub context_cache: usize,
    /// The number of interrupt remapping table entries cached; 0 turns the cache off.
    pub interrupt_cache: usize,
    /// Whether an invalidation is reported complete only when the accesses in flight have ended.
    /// Off, the unit enforces nothing: a device may still access a page that its guest took away.
    /// For measuring what waiting costs, and for nothing else.
    pub drain: bool,
}

impl Default for VtdConfig {
    fn default() -> Self {
        Self {
            segment: 0,
            address_widths: AddressWidths::BITS_39.union(AddressWidths::BITS_48),
            maximum_address_width: None,
            host_address_width: 46,
            two_mib_pages: true,
            one_gib_pages: true,
            domain_id_bits: 16,
            maximum_address_mask: Some(18),
            caching_mode: false,
            write_buffer_flush: false,
            zero_length_read: false,
            enhanced_set_root_table: false,
            enhanced_set_interrupt_table: false,
            fault_records: 8,
            coherent: true,
            queued_invalidation: true,
            device_tlb: false,
            interrupt_remapping: true,
            extended_interrupt_mode: true,
            pass_through: true,
            snoop_control: true,
            iotlb: IotlbConfig::default(),
            walk_cache: WalkCacheConfig::default(),
            context_cache: 256,
            interrupt_cache: 256,
            drain: true,
        }
    }
}

/// Why a configuration describes no unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No address width at all.
    #[error("no address width is offered")]
    NoAddressWidth,
    /// The maximum address width is not between 12 bits and the widest tables.
    #[error("maximum address width of {bits} bits does not fit tables of {widest} bits")]
    MaximumAddressWidth {
        /// What was asked for.
        bits: u8,
        /// The widest tables.
        widest: u8,
    },
    /// The host address width is not between 32 and 52.
    #[error("host address width of {bits} bits is not between 32 and 52")]
    HostAddressWidth {
        /// What was asked for.
        bits: u8,
    },
    /// The width of domain identifiers is odd, or not between 4 and 16.
    #[error("domain identifiers of {bits} bits: 4, 6, 8, 10, 12, 14 or 16 are possible")]
    DomainIdBits {
        /// What was asked for.
        bits: u8,
    },
    /// The address mask cannot name a page that tables may map, or is above 52.
    #[error("maximum address mask of {mask} is not between {least} and 52")]
    AddressMask {
        /// What was asked for.
        mask: u8,
        /// The least for the page sizes on offer.
        least: u8,
    },
    /// The number of fault recording registers is not between 1 and 256.
    #[error("{count} fault recording registers: 1 to 256 are possible")]
    FaultRecords {
        /// What was asked for.
        count: u16,
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
    /// ECAP.QI.
    #[error("queued invalidation")]
    QueuedInvalidation,
    /// ECAP.IR.
    #[error("interrupt remapping")]
    InterruptRemapping,
    /// ECAP.EIM.
    #[error("extended interrupt mode")]
    ExtendedInterruptMode,
    /// ECAP.DT.
    #[error("device-TLB support")]
    DeviceTlb,
}

/// Where IVA_REG is; IOTLB_REG follows.
pub(crate) const IOTLB_OFFSET: u16 = 0xf0;
/// Where the fault recording registers are, if they end before [`FAULT_RECORDS_NEAR_END`].
const FAULT_RECORDS_NEAR: u16 = 0x220;
/// The performance monitoring registers of later revisions begin here.
const FAULT_RECORDS_NEAR_END: u16 = 0x300;
/// Where more fault recording registers are: past everything that the first page may hold.
const FAULT_RECORDS_FAR: u16 = 0x1000;

impl VtdConfig {
    /// The default, with tables up to `bits` wide: 39, 48 or 57.
    ///
    /// # Errors
    /// [`ConfigError::MaximumAddressWidth`] for other widths.
    pub fn with_address_width(bits: u8) -> Result<Self, ConfigError> {
        let address_widths = match bits {
            39 => AddressWidths::BITS_39,
            48 => AddressWidths::BITS_39 | AddressWidths::BITS_48,
            57 => AddressWidths::all(),
            _ => return Err(ConfigError::MaximumAddressWidth { bits, widest: 57 }),
        };
        Ok(Self {
            address_widths,
            ..Self::default()
        })
    }

    /// Checks that the configuration describes a unit.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let widest = self
            .address_widths
            .widest()
            .ok_or(ConfigError::NoAddressWidth)?;
        let bits = self.mgaw();
        if !(12..=widest).contains(&bits) {
            return Err(ConfigError::MaximumAddressWidth { bits, widest });
        }
        let bits = self.host_address_width;
        if !(32..=52).contains(&bits) {
            return Err(ConfigError::HostAddressWidth { bits });
        }
        let bits = self.domain_id_bits;
        if !(4..=16).contains(&bits) || !bits.is_multiple_of(2) {
            return Err(ConfigError::DomainIdBits { bits });
        }
        let least = match (self.one_gib_pages, self.two_mib_pages) {
            (true, _) => 18,
            (false, true) => 9,
            (false, false) => 0,
        };
        if let Some(mask) = self.maximum_address_mask
            && !(least..=52).contains(&mask)
        {
            return Err(ConfigError::AddressMask { mask, least });
        }
        let count = self.fault_records;
        if !(1..=256).contains(&count) {
            return Err(ConfigError::FaultRecords { count });
        }
        use Feature::{DeviceTlb, ExtendedInterruptMode, InterruptRemapping, QueuedInvalidation};
        let needs = [
            (
                self.interrupt_remapping,
                InterruptRemapping,
                QueuedInvalidation,
            ),
            (self.device_tlb, DeviceTlb, QueuedInvalidation),
            (
                self.extended_interrupt_mode,
                ExtendedInterruptMode,
                InterruptRemapping,
            ),
        ];
        for (on, feature, needs) in needs {
            let present = match needs {
                QueuedInvalidation => self.queued_invalidation,
                _ => self.interrupt_remapping,
            };
            if on && !present {
                return Err(ConfigError::Needs { feature, needs });
            }
        }
        Ok(())
    }

    /// The size of the register window in bytes, a multiple of 4 KiB.
    pub fn register_window(&self) -> u64 {
        let end = u64::from(self.fault_records_offset()) + u64::from(self.fault_records) * 16;
        end.next_multiple_of(4096)
    }

    /// VER_REG: version 1.0, the last that has registers for invalidation.
    pub fn version(&self) -> Version {
        Version::new().with_major(1)
    }

    /// CAP_REG.
    pub fn capability(&self) -> Capability {
        Capability::new()
            .with_domains((self.domain_id_bits - 4) / 2)
            .with_write_buffer_flush(self.write_buffer_flush)
            .with_caching_mode(self.caching_mode)
            .with_adjusted_widths(self.address_widths.bits())
            .with_maximum_width(self.mgaw() - 1)
            .with_zero_length_read(self.zero_length_read)
            .with_fault_recording(self.fault_records_offset() >> 4)
            .with_second_stage_large_pages(
                u8::from(self.two_mib_pages) | u8::from(self.one_gib_pages) << 1,
            )
            .with_page_selective_invalidation(self.maximum_address_mask.is_some())
            .with_fault_records((self.fault_records - 1) as u8)
            .with_maximum_address_mask(self.maximum_address_mask.unwrap_or(0))
            .with_write_draining(true)
            .with_read_draining(true)
            .with_enhanced_set_root_table(self.enhanced_set_root_table)
            .with_enhanced_set_interrupt_table(self.enhanced_set_interrupt_table)
    }

    /// ECAP_REG.
    pub fn extended_capability(&self) -> ExtendedCapability {
        ExtendedCapability::new()
            .with_coherent(self.coherent)
            .with_queued_invalidation(self.queued_invalidation)
            .with_device_tlb(self.device_tlb)
            .with_interrupt_remapping(self.interrupt_remapping)
            .with_extended_interrupt_mode(self.extended_interrupt_mode)
            .with_pass_through(self.pass_through)
            .with_snoop_control(self.snoop_control)
            .with_iotlb_registers(IOTLB_OFFSET >> 4)
            .with_maximum_handle_mask(self.maximum_handle_mask())
    }

    /// The offset of the first fault recording register in bytes.
    pub(crate) fn fault_records_offset(&self) -> u16 {
        if FAULT_RECORDS_NEAR + self.fault_records * 16 <= FAULT_RECORDS_NEAR_END {
            FAULT_RECORDS_NEAR
        } else {
            FAULT_RECORDS_FAR
        }
    }

    /// MGAW in bits.
    pub(crate) fn mgaw(&self) -> u8 {
        self.maximum_address_width
            .or_else(|| self.address_widths.widest())
            .unwrap_or(0)
    }

    pub(crate) fn table_rules(&self) -> TableRules {
        TableRules {
            host_address_width: self.host_address_width,
            adjusted_widths: self.address_widths.bits(),
            pass_through: self.pass_through,
            device_tlb: self.device_tlb,
        }
    }

    pub(crate) fn descriptor_rules(&self) -> DescriptorRules {
        DescriptorRules {
            device_tlb: self.device_tlb,
            interrupt_remapping: self.interrupt_remapping,
            maximum_address_mask: self.maximum_address_mask,
            maximum_handle_mask: self.maximum_handle_mask(),
            page_request_drain: false,
        }
    }

    pub(crate) fn second_stage(&self, levels: Levels) -> SecondStage {
        let mut format = SecondStageConfig::new(levels);
        format.two_mib_pages = self.two_mib_pages;
        format.one_gib_pages = self.one_gib_pages;
        format.host_address_width = self.host_address_width;
        format.snoop_control = self.snoop_control;
        format.transient_mapping = self.device_tlb;
        SecondStage::new(format)
    }

    fn maximum_handle_mask(&self) -> u8 {
        if self.interrupt_remapping { 15 } else { 0 }
    }
}
