use core::sync::atomic::{AtomicUsize, Ordering};

use vm_iommu_spec::vtd::SecondStageEntry;
use vm_iommu_spec::x86_64::PagingEntry;

use super::*;
use crate::testing::{MockMemory, MockPages};
use crate::{
    AmdV1, AmdV1Config, AttributeFlags, Editable, Editor, Levels, Mapping, Reason, SecondStage,
    SecondStageConfig, X86_64, X86_64Config,
};

const RW: Access = Access::READ.union(Access::WRITE);
/// Where the memory that the first stage sees begins in memory.
const OFFSET: u64 = 0x10_0000;
const SEEN: u64 = 0x10_0000;
const PAGE: u64 = 0x8_7000;

/// First-stage tables that map `PAGE` at 0x1234_5000, and a second stage that maps what the first
/// sees, `OFFSET` further, by 4-KiB pages.
struct Setup<S> {
    memory: MockMemory,
    first: X86_64,
    root: PhysAddr,
    second: Editor<S>,
}

const IOVA: Iova = Iova(0x1234_5678);

/// The memory that the first stage sees, as an editor of its tables sees it.
struct Seen<'a>(&'a MockMemory);

impl TableMemory for Seen<'_> {
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress> {
        self.0.load(PhysAddr(address.0 + OFFSET))
    }

    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress> {
        self.0
            .compare_exchange(PhysAddr(address.0 + OFFSET), old, new)
    }

    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress> {
        self.0.store(PhysAddr(address.0 + OFFSET), value)
    }

    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress> {
        self.0.store_u32(PhysAddr(address.0 + OFFSET), value)
    }
}

/// Pages of the memory that the first stage sees, in order.
struct SeenPages(u64);

impl crate::TablePages for SeenPages {
    fn allocate_table(&mut self) -> Option<PhysAddr> {
        self.0 += 0x1000;
        Some(PhysAddr(self.0 - 0x1000))
    }

    fn free_table(&mut self, _: PhysAddr) {}
}

impl<S: Editable> Setup<S> {
    fn new(second: S) -> Self {
        let memory = MockMemory::new(PhysAddr(0), (OFFSET + SEEN) as usize);
        let mut pages = MockPages::new(&memory, PhysAddr(0x1000), PhysAddr(OFFSET));
        let mut second = Editor::create(second, &mut pages).unwrap();
        let identity = Mapping {
            max_page_shift: 12,
            ..Mapping::new(Iova(0), PhysAddr(OFFSET), SEEN, RW)
        };
        second
            .map(&memory, &mut pages, &identity)
            .unwrap()
            .completed(&mut pages);
        let first = X86_64::new(X86_64Config::new(Levels::Four));
        let mut pages = SeenPages(0x1000);
        let mut editor = Editor::create(first, &mut pages).unwrap();
        let mut mapping = Mapping::new(IOVA.align_down(4096), PhysAddr(PAGE), 4096, RW);
        mapping.attributes.flags = AttributeFlags::USER;
        editor
            .map(&Seen(&memory), &mut pages, &mapping)
            .unwrap()
            .completed(&mut pages);
        Self {
            memory,
            first,
            root: editor.root(),
            second,
        }
    }

    fn walk(&self, access: Access) -> Result<NestedWalk, NestedFault> {
        self.nested(&self.memory).walk(self.root, IOVA, access)
    }

    fn nested<'a, M>(&'a self, memory: &'a M) -> Nested<'a, X86_64, S, M> {
        let (first, second) = (&self.first, self.second.format());
        Nested {
            first,
            second,
            second_root: self.second.root(),
            memory,
        }
    }

    /// Changes what the second stage permits for an address that the first sees.
    fn protect(&mut self, address: u64, permissions: Access) {
        let mut pages = MockPages::new(&self.memory, PhysAddr(0), PhysAddr(0));
        let page = Iova(address).align_down(4096);
        let edit = self
            .second
            .protect(&self.memory, &mut pages, page, 4096, permissions);
        edit.unwrap().completed(&mut pages);
    }

    fn unmap(&mut self, address: u64) {
        let mut pages = MockPages::new(&self.memory, PhysAddr(0), PhysAddr(0));
        let page = Iova(address).align_down(4096);
        let edit = self.second.unmap(&self.memory, &mut pages, page, 4096);
        edit.unwrap().completed(&mut pages);
    }
}

fn second_stage() -> SecondStage {
    SecondStage::new(SecondStageConfig::new(Levels::Four))
}

struct Counting<'a>(&'a MockMemory, AtomicUsize);

impl TableMemory for Counting<'_> {
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.load(address)
    }

    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress> {
        self.0.compare_exchange(address, old, new)
    }

    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress> {
        self.0.store(address, value)
    }

    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress> {
        self.0.store_u32(address, value)
    }
}

#[test]
fn four_levels_over_four_read_twenty_four_entries() {
    let setup = Setup::new(second_stage());
    setup.walk(RW).unwrap();
    let counting = Counting(&setup.memory, AtomicUsize::new(0));
    let walk = setup.nested(&counting).walk(setup.root, IOVA, RW).unwrap();
    assert_eq!(counting.1.into_inner(), 24);
    assert_eq!(walk.output, PhysAddr(OFFSET + PAGE + IOVA.offset_in(4096)));
    assert_eq!(walk.first.output, PhysAddr(PAGE + IOVA.offset_in(4096)));
    assert_eq!(walk.cacheable, walk.permissions);
}

#[test]
fn amd_guests_are_walked_over_host_tables() {
    let mut setup = Setup::new(AmdV1::new(AmdV1Config::new(3)));
    assert_eq!(setup.walk(RW).unwrap().output.0, OFFSET + PAGE + 0x678);
    setup.protect(PAGE, Access::READ);
    assert!(setup.walk(Access::READ).is_ok());
    let fault = setup.walk(Access::WRITE).unwrap_err();
    assert!(matches!(
        fault,
        NestedFault::Second {
            purpose: Purpose::Page,
            ..
        }
    ));
}

#[test]
fn the_page_and_the_permissions_are_what_both_stages_allow() {
    let mut setup = Setup::new(second_stage());
    setup.protect(PAGE, Access::READ);
    let walk = setup.walk(Access::READ).unwrap();
    assert_eq!(walk.page_shift, 12);
    assert!(walk.first.permissions.writes() && !walk.permissions.writes());
    let NestedFault::Second {
        fault,
        address,
        purpose,
    } = setup.walk(Access::WRITE).unwrap_err()
    else {
        panic!("the second stage refuses")
    };
    assert_eq!((fault.level, fault.reason), (1, Reason::WriteDenied));
    assert_eq!((address, purpose), (Iova(PAGE + 0x678), Purpose::Page));
}

#[test]
fn each_first_stage_table_is_translated_and_its_fault_names_it() {
    for level in 1..=4u8 {
        let mut setup = Setup::new(second_stage());
        let step = setup
            .walk(RW)
            .unwrap()
            .first
            .visited
            .iter()
            .find(|step| step.level == level);
        let entry = step.unwrap().address.0;
        setup.unmap(entry);
        let NestedFault::Second {
            fault,
            address,
            purpose,
        } = setup.walk(RW).unwrap_err()
        else {
            panic!("the second stage refuses")
        };
        assert_eq!((fault.level, fault.reason), (1, Reason::NotPresent));
        assert_eq!((address, purpose), (Iova(entry), Purpose::Entry { level }));
    }
}

#[test]
fn first_stage_flags_need_write_permission_in_the_second_stage() {
    for level in 1..=4u8 {
        let mut setup = Setup::new(second_stage());
        let probe = setup
            .nested(&setup.memory)
            .probe(setup.root, IOVA, Access::READ)
            .unwrap();
        let step = probe
            .first
            .visited
            .iter()
            .find(|step| step.level == level)
            .unwrap();
        assert_eq!(step.entry & PagingEntry::ACCESSED, 0);
        setup.protect(step.address.0, Access::READ);
        let NestedFault::Second {
            fault,
            address,
            purpose,
        } = setup.walk(Access::READ).unwrap_err()
        else {
            panic!("the second stage refuses")
        };
        assert_eq!(fault.reason, Reason::WriteDenied);
        assert_eq!(
            (address.0, purpose),
            (step.address.0, Purpose::Flags { level })
        );

        // Once set, they need no writing.
        setup.protect(step.address.0, RW);
        setup.walk(RW).unwrap();
        setup.protect(step.address.0, Access::READ);
        assert!(setup.walk(RW).is_ok());
    }
}

#[test]
fn the_second_stage_marks_first_stage_tables_that_were_used_and_written() {
    let mut config = SecondStageConfig::new(Levels::Four);
    config.accessed_dirty = true;
    let setup = Setup::new(SecondStage::new(config));
    let table_flags = |step: &crate::Step| {
        let walk = setup.second.format().probe(
            &setup.memory,
            setup.second.root(),
            Iova(step.address.0),
            Access::READ,
        );
        SecondStageEntry::from_bits(walk.unwrap().visited.last().unwrap().entry)
    };
    let probe = setup
        .nested(&setup.memory)
        .probe(setup.root, IOVA, RW)
        .unwrap();
    for step in probe.first.visited.iter() {
        assert!(!table_flags(&step).accessed());
    }
    let walk = setup.walk(RW).unwrap();
    for step in walk.first.visited.iter() {
        assert!(table_flags(&step).accessed() && table_flags(&step).dirty());
    }
}

#[test]
fn first_stage_faults_say_so() {
    let setup = Setup::new(second_stage());
    let walk = |iova, access| {
        setup
            .nested(&setup.memory)
            .walk(setup.root, Iova(iova), access)
    };
    let NestedFault::First(fault) = walk(0, Access::READ).unwrap_err() else {
        panic!("the first stage refuses")
    };
    assert_eq!(fault.reason, Reason::NotPresent);
    let NestedFault::First(fault) = walk(1 << 63, Access::READ).unwrap_err() else {
        panic!("the first stage refuses")
    };
    assert_eq!(fault.reason, Reason::NotCanonical);
}

#[test]
fn walks_from_cached_positions_answer_like_walks_from_the_root() {
    let setup = Setup::new(second_stage());
    let nested = setup.nested(&setup.memory);
    let whole = setup.walk(RW).unwrap();
    let root = setup.first.root(setup.root);
    for position in setup.first.positions(root, IOVA, &whole.first.visited) {
        let again = nested
            .translate_from(position, setup.root, IOVA, RW)
            .unwrap();
        assert_eq!(again.first, whole.first.translation);
        assert_eq!(again.second, whole.second.translation);
        assert_eq!(
            (again.output, again.permissions),
            (whole.output, whole.permissions)
        );
    }
}
