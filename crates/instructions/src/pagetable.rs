//! Walks of hot tables with all checks on, and edits.

use std::hint::black_box;

use vm_iommu_pagetable::testing::{MockMemory, MockPages};
use vm_iommu_pagetable::{
    AmdV1, AmdV1Config, AttributeFlags, Editable, Editor, Levels, Mapping, Nested, SecondStage,
    SecondStageConfig, Walker, X86_64, X86_64Config,
};
use vm_iommu_spec::{Access, Iova, PhysAddr};

use crate::Work;

pub const WORK: &[Work] = &[
    Work {
        name: "walk-second-stage-4",
        run: |times| walk(SecondStage::new(second_stage()), times),
    },
    Work {
        name: "walk-second-stage-4-flags",
        run: |times| {
            let mut config = second_stage();
            config.accessed_dirty = true;
            walk(SecondStage::new(config), times);
        },
    },
    Work {
        name: "walk-second-stage-4-from-level-2",
        run: walk_from_level_2,
    },
    Work {
        name: "walk-x86-64-4",
        run: |times| walk(X86_64::new(X86_64Config::new(Levels::Four)), times),
    },
    Work {
        name: "walk-amd-v1-4",
        run: |times| walk(AmdV1::new(AmdV1Config::new(4)), times),
    },
    Work {
        name: "walk-nested-4x4",
        run: nested,
    },
    Work {
        name: "edit-second-stage-256",
        run: |times| edit(SecondStage::new(second_stage()), times),
    },
    Work {
        name: "edit-amd-v1-256",
        run: |times| edit(AmdV1::new(AmdV1Config::new(4)), times),
    },
];

const RW: Access = Access::READ.union(Access::WRITE);
const MEMORY: u64 = 4 << 20;
/// Where walks begin, and how many pages they take in turn.
const FIRST: u64 = 0x3f_4000_0000;
const PAGES: u64 = 64;

fn second_stage() -> SecondStageConfig {
    SecondStageConfig::new(Levels::Four)
}

/// The address of a walk.
fn iova(turn: u64) -> Iova {
    Iova(FIRST + ((turn % PAGES) << 12))
}

/// Tables that map each [`iova`] by a page of 4 KiB.
fn tables<F: Editable>(format: F, memory: &MockMemory) -> Editor<F> {
    let mut pages = MockPages::new(memory, PhysAddr(0x1000), PhysAddr(MEMORY / 2));
    let mut editor = Editor::create(format, &mut pages).expect("there are pages");
    let mut mapping = Mapping {
        max_page_shift: 12,
        ..Mapping::new(Iova(FIRST), PhysAddr(0), PAGES << 12, RW)
    };
    mapping.attributes.flags = AttributeFlags::USER;
    map(&mut editor, memory, &mut pages, &mapping);
    editor
}

fn map<F: Editable>(
    editor: &mut Editor<F>,
    memory: &MockMemory,
    pages: &mut MockPages<'_>,
    mapping: &Mapping,
) {
    let mapped = editor.map(memory, pages, mapping);
    mapped.expect("it can be mapped").completed(pages);
}

fn memory() -> MockMemory {
    MockMemory::new(PhysAddr(0), MEMORY as usize)
}

fn walk<F: Editable>(format: F, times: u64) {
    let memory = memory();
    let editor = tables(format, &memory);
    for turn in 0..times {
        let root = black_box(editor.root());
        let walk = editor.format().translate(&memory, root, iova(turn), RW);
        black_box(walk.expect("it is mapped").output);
    }
}

fn walk_from_level_2(times: u64) {
    let memory = memory();
    let editor = tables(SecondStage::new(second_stage()), &memory);
    let (format, root) = (editor.format(), editor.root());
    let whole = format.walk(&memory, root, iova(0), RW);
    let visited = whole.expect("it is mapped").visited;
    let mut positions = format.positions(format.root(root), iova(0), &visited);
    let cached = positions.find(|position| position.level() == 2);
    let cached = cached.expect("it has four levels");
    for turn in 0..times {
        let walk = format.translate_from(&memory, black_box(cached), root, iova(turn), RW);
        black_box(walk.expect("it is mapped").output);
    }
}

fn nested(times: u64) {
    let memory = memory();
    let first = tables(X86_64::new(X86_64Config::new(Levels::Four)), &memory);
    let mut pages = MockPages::new(&memory, PhysAddr(MEMORY / 2), PhysAddr(MEMORY));
    let mut second =
        Editor::create(SecondStage::new(second_stage()), &mut pages).expect("there are pages");
    let identity = Mapping {
        max_page_shift: 12,
        ..Mapping::new(Iova(0), PhysAddr(0), MEMORY, RW)
    };
    map(&mut second, &memory, &mut pages, &identity);
    let nested = Nested {
        first: first.format(),
        second: second.format(),
        second_root: second.root(),
        memory: &memory,
    };
    for turn in 0..times {
        let walk = nested.translate(black_box(first.root()), iova(turn), RW);
        black_box(walk.expect("it is mapped").output);
    }
}

/// Maps 256 consecutive pages of 4 KiB and unmaps them.
fn edit<F: Editable>(format: F, times: u64) {
    let memory = memory();
    let mut pages = MockPages::new(&memory, PhysAddr(0x1000), PhysAddr(MEMORY));
    let mut editor = Editor::create(format, &mut pages).expect("there are pages");
    let length = 256 << 12;
    let mapping = Mapping {
        max_page_shift: 12,
        ..Mapping::new(Iova(0x4000_0000), PhysAddr(0x1000_0000), length, RW)
    };
    for _ in 0..times {
        map(&mut editor, &memory, &mut pages, black_box(&mapping));
        let unmapped = editor.unmap(&memory, &mut pages, black_box(mapping.iova), length);
        unmapped.expect("it is mapped").completed(&mut pages);
    }
}
