//! x86-64: VT-d first stage, AMD v2.

use vm_iommu_oracle::{Translation, X86_64 as Oracle};
use vm_iommu_pagetable::{AttributeFlags, Attributes, Levels, X86_64, X86_64Config};

use super::case::Case;
use super::compare::compare;

/// Walks x86-64 tables, and asks the oracle.
///
/// Configuration bits: 1:0 levels (3, 4, 5, 4), 2 1-GiB pages, 3 XD, 4 SRE, 5 WPE, 6 accessed and
/// dirty flags, 7 extended accessed flags, 31:27 host address width from 32 on, 52 from 20 on.
pub fn x86_64(data: &[u8]) {
    let case = Case::new(data);
    let (format, oracle) = formats(&case, case.config);
    compare(
        &case,
        &format,
        |memory, root, address, access| oracle.translate(memory, root, address, access),
        attributes,
    );
}

/// The format with other configuration bits 7:0 than the case's.
pub(crate) fn formats(case: &Case, bits: u32) -> (X86_64, Oracle) {
    let bit = |position: u32| bits >> position & 1 != 0;
    let levels = [Levels::Three, Levels::Four, Levels::Five, Levels::Four];
    let mut config = X86_64Config::new(levels[bits as usize & 3]);
    config.host_address_width = case.width();
    config.one_gib_pages = bit(2);
    config.no_execute = bit(3);
    config.supervisor = bit(4);
    config.write_protect = bit(5);
    config.accessed_dirty = bit(6);
    config.extended_accessed = bit(7);
    let oracle = Oracle {
        levels: config.levels.count().into(),
        host_address_width: config.host_address_width.into(),
        pages_1g: config.one_gib_pages,
        execute_disable: config.no_execute,
        supervisor_enable: config.supervisor,
        write_protect_enable: config.write_protect,
        accessed_dirty_enable: config.accessed_dirty,
        extended_accessed_enable: config.extended_accessed,
    };
    (X86_64::new(config), oracle)
}

pub(crate) fn attributes(translation: &Translation) -> Attributes {
    let entry = translation.page_entry;
    let mut flags = AttributeFlags::empty();
    flags.set(AttributeFlags::GLOBAL, entry & 0x100 != 0);
    flags.set(AttributeFlags::USER, translation.user);
    let pat = if translation.page_shift == 12 {
        0x80
    } else {
        0x1000
    };
    let mut memory_type = (entry & 0x18) as u8 / 8;
    if entry & pat != 0 {
        memory_type += 4;
    }
    Attributes { flags, memory_type }
}
