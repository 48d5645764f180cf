use super::*;

/// What a user of any table memory sees.
fn accesses<M: TableMemory>(memory: M) {
    let at = |offset: u64| PhysAddr(0x1000 + offset);
    memory.store(at(8), 0x1111_2222_3333_4444).unwrap();
    memory.store_u32(at(8), 0x5555_6666).unwrap();
    assert_eq!(memory.load(at(8)), Ok(0x1111_2222_5555_6666));
    memory.store_u32(at(12), 7).unwrap();
    assert_eq!(memory.load(at(8)), Ok(0x7_5555_6666));
    let refused = memory.compare_exchange(at(8), 1, 2).unwrap();
    assert_eq!(refused, Err(0x7_5555_6666));
    let replaced = memory.compare_exchange(at(8), 0x7_5555_6666, 2).unwrap();
    assert_eq!(replaced, Ok(0x7_5555_6666));
    let mut word = 0;
    assert!(memory.with_table(at(0), &mut |table| word = table[1].load(Ordering::Relaxed)));
    assert_eq!(word, 2);
    // Half of this table is beyond the end.
    assert!(!memory.with_table(at(0x800), &mut |_| unreachable!("it is not lent")));
    assert_eq!(memory.store_u32(at(2), 0), Err(BadAddress(at(2))));
    for outside in [PhysAddr(0xff8), at(0x1000), at(4), PhysAddr(!7)] {
        assert_eq!(memory.load(outside), Err(BadAddress(outside)));
        assert_eq!(memory.store(outside, 0), Err(BadAddress(outside)));
        let exchanged = memory.compare_exchange(outside, 0, 0);
        assert_eq!(exchanged, Err(BadAddress(outside)));
    }
}

#[test]
fn words_are_accessed_whole_and_only_in_memory() {
    accesses(MockMemory::new(PhysAddr(0x1000), 0x1000));
}

#[test]
fn a_reference_to_memory_is_memory() {
    let memory = MockMemory::new(PhysAddr(0x1000), 0x1000);
    accesses(&memory);
    assert_eq!(memory.load(PhysAddr(0x1008)), Ok(2));
}
