//! No walk allocates, granted or refused, in any format.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use vm_iommu_pagetable::testing::{MockMemory, MockPages};
use vm_iommu_pagetable::{
    AmdV1, AmdV1Config, AttributeFlags, Editable, Editor, Levels, Mapping, Nested, SecondStage,
    SecondStageConfig, Walker, X86_64, X86_64Config,
};
use vm_iommu_spec::{Access, Iova, PhysAddr};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: all is left to the system's allocator; the counter is of no consequence to it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's obligations are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(run: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

const ACCESSES: [Access; 3] = [Access::READ, Access::WRITE, Access::EXECUTE];
const IOVAS: [Iova; 4] = [Iova(0x5678), Iova(0x9000), Iova(1 << 60), Iova(u64::MAX)];

fn tables<F: Editable>(format: F, memory: &MockMemory) -> Editor<F> {
    let mut pages = MockPages::new(memory, PhysAddr(0x1000), PhysAddr(0x2_0000));
    let mut editor = Editor::create(format, &mut pages).unwrap();
    let mut mapping = Mapping::new(Iova(0), PhysAddr(0), 0x8000, Access::READ);
    mapping.attributes.flags = AttributeFlags::USER;
    editor
        .map(memory, &mut pages, &mapping)
        .unwrap()
        .completed(&mut pages);
    editor
}

fn check<F: Editable>(format: F) {
    let memory = MockMemory::new(PhysAddr(0), 0x2_0000);
    let editor = tables(format, &memory);
    for iova in IOVAS {
        for access in ACCESSES {
            let count = allocations(|| {
                let _ = editor
                    .format()
                    .translate(&memory, editor.root(), iova, access);
                let _ = editor.format().walk(&memory, editor.root(), iova, access);
                let _ = editor.format().probe(&memory, editor.root(), iova, access);
            });
            assert_eq!(count, 0, "{access} of {iova}");
        }
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn single_stages() {
    let mut config = SecondStageConfig::new(Levels::Four);
    config.accessed_dirty = true;
    check(SecondStage::new(config));
    check(X86_64::new(X86_64Config::new(Levels::Five)));
    let mut config = AmdV1Config::new(6);
    (config.accessed, config.dirty) = (true, true);
    check(AmdV1::new(config));
}

#[test]
fn two_stages() {
    let memory = MockMemory::new(PhysAddr(0), 0x2_0000);
    let first = tables(X86_64::new(X86_64Config::new(Levels::Four)), &memory);
    let second = SecondStage::new(SecondStageConfig::new(Levels::Four));
    let mut pages = MockPages::new(&memory, PhysAddr(0x1_0000), PhysAddr(0x2_0000));
    let mut second = Editor::create(second, &mut pages).unwrap();
    let rw = Access::READ | Access::WRITE;
    let identity = Mapping::new(Iova(0), PhysAddr(0), 0x1_0000, rw);
    second
        .map(&memory, &mut pages, &identity)
        .unwrap()
        .completed(&mut pages);
    let nested = Nested {
        first: first.format(),
        second: second.format(),
        second_root: second.root(),
        memory: &memory,
    };
    assert!(
        nested
            .translate(first.root(), IOVAS[0], Access::READ)
            .is_ok()
    );
    for iova in IOVAS {
        for access in ACCESSES {
            let count = allocations(|| {
                let _ = nested.translate(first.root(), iova, access);
                let _ = nested.walk(first.root(), iova, access);
            });
            assert_eq!(count, 0, "{access} of {iova}");
        }
    }
}
