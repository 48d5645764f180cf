use super::*;
use crate::testing::MockMemory;
use crate::{Levels, Position, SecondStage, SecondStageConfig, TableMemory, Walker};
use vm_iommu_spec::Iova;

#[test]
fn a_fault_tells_reason_and_entry() {
    let memory = MockMemory::new(PhysAddr(0), 0x2000);
    memory.store(PhysAddr(0x1000), 1 << 62 | 3).unwrap();
    let format = SecondStage::new(SecondStageConfig::new(Levels::Three));
    let walk = |iova| format.walk(&memory, PhysAddr(0x1000), iova, Access::READ);
    let fault = walk(Iova(0)).unwrap_err();
    let text = "reserved bit 62 set in the entry (level 3 at 0x1000: 0x4000000000000003)";
    assert_eq!(fault.to_string(), text);
    assert!(!fault.visited.is_empty());
    assert!(format!("{fault:?}").contains("level: 3"));
    let fault = walk(Iova(1 << 39)).unwrap_err();
    assert_eq!(fault.to_string(), "address beyond the width of the tables");
    assert!(fault.visited.is_empty());
}

#[test]
fn a_position_can_be_taken_apart() {
    let format = SecondStage::new(SecondStageConfig::new(Levels::Three));
    let root = format.root(PhysAddr(0x1000));
    let parts = (root.table(), root.level(), root.rights());
    assert_eq!(parts, (PhysAddr(0x1000), 3, u64::MAX));
    assert_eq!(root.reach(), 39);
    assert_eq!(Position::from_parts(parts.0, parts.1, parts.2), root);
}
