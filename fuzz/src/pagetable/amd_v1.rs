//! AMD v1.

use vm_iommu_oracle::{AmdV1 as Oracle, Translation};
use vm_iommu_pagetable::{AmdV1, AmdV1Config, AttributeFlags, Attributes};

use super::case::Case;
use super::compare::compare;

/// Walks AMD v1 tables, and asks the oracle.
///
/// Configuration bits: 2:0 mode (0 and 7 count as 4), 3 accessed flags, 4 dirty flags, 31:27
/// physical address width from 32 on, 52 from 20 on.
pub fn amd_v1(data: &[u8]) {
    let case = Case::new(data);
    let (format, oracle) = formats(&case, case.config);
    compare(
        &case,
        &format,
        |memory, root, address, access| oracle.translate(memory, root, address, access),
        attributes,
    );
}

/// The format with other configuration bits 4:0 than the case's.
pub(crate) fn formats(case: &Case, bits: u32) -> (AmdV1, Oracle) {
    let mut config = AmdV1Config::new(match bits as u8 & 7 {
        0 | 7 => 4,
        mode => mode,
    });
    config.host_address_width = case.width();
    config.accessed = bits & 1 << 3 != 0;
    config.dirty = bits & 1 << 4 != 0;
    let oracle = Oracle {
        mode: config.levels.into(),
        physical_address_width: config.host_address_width.into(),
        accessed_enable: config.accessed,
        dirty_enable: config.dirty,
    };
    (AmdV1::new(config), oracle)
}

pub(crate) fn attributes(translation: &Translation) -> Attributes {
    let entry = translation.page_entry;
    let mut flags = AttributeFlags::empty();
    flags.set(
        AttributeFlags::UNTRANSLATED_ONLY,
        entry & 0x0800_0000_0000_0000 != 0,
    );
    flags.set(AttributeFlags::SNOOP, entry & 0x1000_0000_0000_0000 != 0);
    Attributes {
        flags,
        memory_type: 0,
    }
}
