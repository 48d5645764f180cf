//! Edits while the hardware sets flags, in memory that lends no tables, and edits that fail.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use vm_iommu_spec::vtd::SecondStageEntry as Entry;
use vm_iommu_spec::{Access, Iova, PhysAddr};

use crate::testing::{MockMemory, MockPages};
use crate::{
    BadAddress, EditError, Editor, Levels, Mapping, SecondStage, SecondStageConfig, TableMemory,
    Walker,
};

const RW: Access = Access::READ.union(Access::WRITE);
const MIB2: u64 = 2 << 20;

/// Memory word by word, in which another party changes entries before they are replaced.
pub(super) struct Restless<'a> {
    memory: &'a MockMemory,
    /// What is set or cleared in an entry, and how often.
    bit: u64,
    times: AtomicU32,
}

impl<'a> Restless<'a> {
    pub fn new(memory: &'a MockMemory, bit: u64, times: u32) -> Self {
        Self {
            memory,
            bit,
            times: times.into(),
        }
    }
}

impl TableMemory for Restless<'_> {
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress> {
        self.memory.load(address)
    }

    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress> {
        let once_less = |times: u32| times.checked_sub(1);
        if self.times.fetch_update(Relaxed, Relaxed, once_less).is_ok() {
            self.memory
                .store(address, self.memory.load(address)? ^ self.bit)?;
        }
        self.memory.compare_exchange(address, old, new)
    }

    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress> {
        self.memory.store(address, value)
    }

    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress> {
        self.memory.store_u32(address, value)
    }
}

fn memory() -> MockMemory {
    MockMemory::new(PhysAddr(0x1000), 16 << 12)
}

/// Tables of three levels whose walks set flags, with 4 MiB mapped from 0 on.
fn mapped<'a>(memory: &'a MockMemory, max_page_shift: u8) -> (Editor<SecondStage>, MockPages<'a>) {
    let mut config = SecondStageConfig::new(Levels::Three);
    config.accessed_dirty = true;
    let mut pages = MockPages::new(memory, memory.base(), PhysAddr(u64::MAX));
    let mut editor = Editor::create(SecondStage::new(config), &mut pages).unwrap();
    let mapping = Mapping {
        max_page_shift,
        ..Mapping::new(Iova(0), PhysAddr(0x4000_0000), 2 * MIB2, RW)
    };
    let edit = editor.map(memory, &mut pages, &mapping);
    edit.unwrap().completed(&mut pages);
    (editor, pages)
}

#[test]
fn flags_that_are_set_while_a_page_is_split_are_taken_over() {
    let memory = memory();
    let (mut editor, mut pages) = mapped(&memory, 21);
    let restless = Restless::new(&memory, Entry::DIRTY, 1);
    let edit = editor.unmap(&restless, &mut pages, Iova(0x1000), 0x1000);
    edit.unwrap().completed(&mut pages);
    let walk = editor
        .format()
        .walk(&memory, editor.root(), Iova(0), Access::READ)
        .unwrap();
    assert_eq!(walk.page_size(), 4096);
    assert_ne!(walk.visited.last().unwrap().entry & Entry::DIRTY, 0);
}

#[test]
fn a_page_that_changes_each_time_is_not_split() {
    let memory = memory();
    let (mut editor, mut pages) = mapped(&memory, 21);
    let before = pages.in_use();
    let restless = Restless::new(&memory, Entry::DIRTY, u32::MAX);
    let edit = editor.unmap(&restless, &mut pages, Iova(0x1000), 0x1000);
    assert!(matches!(
        edit.unwrap_err().error,
        EditError::Contended { .. }
    ));
    assert_eq!(pages.in_use(), before);
    let walk = editor
        .format()
        .walk(&memory, editor.root(), Iova(0x1000), RW);
    assert_eq!(walk.unwrap().page_size(), MIB2);
}

#[test]
fn an_entry_that_changes_each_time_is_not_replaced() {
    let memory = memory();
    let (mut editor, mut pages) = mapped(&memory, 12);
    let restless = Restless::new(&memory, 1 << 52, u32::MAX);
    let edit = editor.coalesce(&restless, Iova(0), MIB2);
    assert!(matches!(
        edit.unwrap_err().error,
        EditError::Contended { .. }
    ));
    let edit = editor.protect(&restless, &mut pages, Iova(0), 0x1000, Access::READ);
    assert!(matches!(
        edit.unwrap_err().error,
        EditError::Contended { .. }
    ));
}

#[test]
fn a_failed_merge_tells_what_was_merged_before() {
    let memory = memory();
    let (mut editor, mut pages) = mapped(&memory, 12);
    let before = pages.in_use();
    let walk = editor
        .format()
        .walk(&memory, editor.root(), Iova(MIB2), Access::READ)
        .unwrap();
    // Address bits below 2 MiB are reserved in an entry of level 2 that maps a page.
    let table = walk.visited.iter().nth(1).unwrap();
    memory
        .store(table.address, table.entry | Entry::PAGE_SIZE)
        .unwrap();
    let failure = editor.coalesce(&memory, Iova(0), 2 * MIB2).unwrap_err();
    assert!(matches!(failure.error, EditError::Corrupt { .. }));
    assert_eq!(failure.invalidation.retired(), 1);
    assert_eq!(
        failure.invalidation.range(),
        Some((Iova(0), Iova(2 * MIB2 - 1)))
    );
    failure.invalidation.completed(&mut pages);
    assert_eq!(pages.in_use(), before - 1);
}

#[test]
fn tables_outside_memory_are_named() {
    let memory = memory();
    let mut pages = MockPages::new(&memory, memory.base(), PhysAddr(u64::MAX));
    let root = PhysAddr(0x100_0000);
    let format = SecondStage::new(SecondStageConfig::new(Levels::Three));
    let mut editor = Editor::new(format, root);
    let outside = EditError::TableAccess { address: root };
    let mapping = Mapping::new(Iova(0), PhysAddr(0), 0x1000, RW);
    let edit = editor.map(&memory, &mut pages, &mapping);
    assert_eq!(edit.unwrap_err().error, outside);
    let edit = editor.unmap(&memory, &mut pages, Iova(0), 0x1000);
    assert_eq!(edit.unwrap_err().error, outside);
    let edit = editor.coalesce(&memory, Iova(0), 0x1000);
    assert_eq!(edit.unwrap_err().error, outside);
}
