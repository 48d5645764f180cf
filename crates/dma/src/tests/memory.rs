use std::sync::atomic::Ordering;

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::{FaultReason, PhysAddr};

use super::remapper::ram;
use crate::OutputSpace;

#[test]
fn words_are_memory_only_if_aligned_and_whole() {
    let ram = ram();
    ram.store(PhysAddr(0x10_0008), 0x1122_3344_5566_7788)
        .unwrap();
    assert_eq!(ram.load(PhysAddr(0x10_0008)), Ok(0x1122_3344_5566_7788));
    for bad in [
        4,
        0xfffc,
        0x10000,
        0xf_fff8,
        0x11_0000,
        u64::MAX,
        u64::MAX - 7,
    ] {
        assert!(ram.load(PhysAddr(bad)).is_err(), "{bad:#x}");
        assert!(ram.store(PhysAddr(bad), 0).is_err(), "{bad:#x}");
        assert!(
            ram.compare_exchange(PhysAddr(bad), 0, 0).is_err(),
            "{bad:#x}"
        );
    }
    assert!(ram.store_u32(PhysAddr(2), 0).is_err());
    ram.store_u32(PhysAddr(0xfffc), 7).unwrap();
}

#[test]
fn compare_exchange_yields_the_word_found() {
    let ram = ram();
    assert_eq!(ram.compare_exchange(PhysAddr(8), 0, 5), Ok(Ok(0)));
    assert_eq!(ram.compare_exchange(PhysAddr(8), 0, 6), Ok(Err(5)));
    assert_eq!(ram.load(PhysAddr(8)), Ok(5));
}

#[test]
fn a_status_word_leaves_its_neighbour_alone() {
    let ram = ram();
    ram.store(PhysAddr(16), u64::MAX).unwrap();
    ram.store_u32(PhysAddr(20), 0).unwrap();
    assert_eq!(ram.load(PhysAddr(16)), Ok(0xffff_ffff));
}

#[test]
fn a_run_is_the_region_that_holds_the_address() {
    let ram = ram();
    let run = ram.resolve(PhysAddr(0x10_ffff)).unwrap();
    assert_eq!((run.start, run.len), (PhysAddr(0x10_0000), 0x10000));
    assert_eq!(ram.resolve(PhysAddr(0x2_0000)), Err(FaultReason::NotMemory));
}

#[test]
fn a_table_is_lent_if_all_of_it_is_memory() {
    let ram = ram();
    let lent = |table| {
        ram.with_table(PhysAddr(table), &mut |words| {
            words[511].store(table | 1, Ordering::Relaxed);
        })
    };
    assert!(lent(0x10_3000));
    assert_eq!(ram.load(PhysAddr(0x10_3ff8)), Ok(0x10_3001));
    for bad in [0x1_0000, 0xf_f000, 0x11_0000, !0xfff] {
        assert!(!lent(bad), "{bad:#x}");
    }
    ram.start_dirty_log();
    assert!(lent(0x2000));
    assert_eq!(
        ram.harvest_dirty_pages().iter().collect::<Vec<_>>(),
        [PhysAddr(0x2000)]
    );
}
