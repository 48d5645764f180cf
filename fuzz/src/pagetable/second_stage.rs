//! VT-d second stage.

use vm_iommu_oracle::{SecondStage as Oracle, Translation};
use vm_iommu_pagetable::{AttributeFlags, Attributes, Levels, SecondStage, SecondStageConfig};

use super::case::Case;
use super::compare::compare;

/// Walks VT-d second-stage tables, and asks the oracle.
///
/// Configuration bits: 1:0 levels (3, 4, 5, 4), 2 and 3 2-MiB and 1-GiB pages, 4 snoop control,
/// 5 transient mapping, 6 execute, 7 accessed and dirty flags, 31:27 host address width from 32
/// on, 52 from 20 on.
pub fn second_stage(data: &[u8]) {
    let case = Case::new(data);
    let (format, oracle) = formats(&case);
    compare(
        &case,
        &format,
        |memory, root, address, access| oracle.translate(memory, root, address, access),
        attributes,
    );
}

pub(crate) fn formats(case: &Case) -> (SecondStage, Oracle) {
    let levels = [Levels::Three, Levels::Four, Levels::Five, Levels::Four];
    let mut config = SecondStageConfig::new(levels[case.config as usize & 3]);
    config.host_address_width = case.width();
    config.two_mib_pages = case.bit(2);
    config.one_gib_pages = case.bit(3);
    config.snoop_control = case.bit(4);
    config.transient_mapping = case.bit(5);
    config.execute = case.bit(6);
    config.accessed_dirty = case.bit(7);
    let oracle = Oracle {
        levels: config.levels.count().into(),
        host_address_width: config.host_address_width.into(),
        pages_2m: config.two_mib_pages,
        pages_1g: config.one_gib_pages,
        snoop_control: config.snoop_control,
        transient_mapping: config.transient_mapping,
        execute_enable: config.execute,
        accessed_dirty_enable: config.accessed_dirty,
    };
    (SecondStage::new(config), oracle)
}

pub(crate) fn attributes(translation: &Translation) -> Attributes {
    let entry = translation.page_entry;
    let mut flags = AttributeFlags::empty();
    flags.set(AttributeFlags::IGNORE_PAT, entry & 0x40 != 0);
    flags.set(AttributeFlags::SNOOP, entry & 0x800 != 0);
    flags.set(
        AttributeFlags::TRANSIENT,
        entry & 0x4000_0000_0000_0000 != 0,
    );
    Attributes {
        flags,
        memory_type: (entry & 0x38) as u8 / 8,
    }
}
