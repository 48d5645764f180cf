use vm_iommu_spec::vtd::SecondStageEntry as Entry;
use vm_iommu_spec::{Access, Iova, PhysAddr};

use crate::testing::{MockMemory, MockPages};
use crate::{
    AmdV1, AmdV1Config, AttributeFlags, Attributes, EditError, Editor, Levels, Mapping,
    SecondStage, SecondStageConfig, TableMemory, Walker, X86_64, X86_64Config,
};

const RW: Access = Access::READ.union(Access::WRITE);
const GIB: u64 = 1 << 30;
const MIB2: u64 = 2 << 20;

fn memory() -> MockMemory {
    MockMemory::new(PhysAddr(0x1000), 63 << 12)
}

fn pages(memory: &MockMemory) -> MockPages<'_> {
    MockPages::new(memory, memory.base(), PhysAddr(u64::MAX))
}

fn format() -> SecondStage {
    SecondStage::new(SecondStageConfig::new(Levels::Four))
}

fn page_size(editor: &Editor<SecondStage>, memory: &MockMemory, iova: u64) -> u64 {
    let walk = editor
        .format()
        .walk(memory, editor.root(), Iova(iova), Access::READ);
    walk.unwrap().page_size()
}

#[test]
fn the_largest_page_that_fits_is_used() {
    let memory = memory();
    let mut pages = pages(&memory);
    let mut editor = Editor::create(format(), &mut pages).unwrap();
    // From 4 KiB below 2 MiB to 4 KiB above 2 GiB.
    let (first, length) = (MIB2 - 4096, 2 * GIB - MIB2 + 8192);
    let mapping = Mapping::new(Iova(first), PhysAddr(GIB + first), length, RW);
    let invalidation = editor.map(&memory, &mut pages, &mapping).unwrap();
    assert_eq!(
        invalidation.range(),
        Some((Iova(first), Iova(first + length - 1)))
    );
    assert_eq!(invalidation.bytes(), length);
    assert!(!invalidation.removes() && !invalidation.tables());
    invalidation.completed(&mut pages);
    for (iova, size) in [
        (first, 4096),
        (MIB2, MIB2),
        (GIB - 1, MIB2),
        (GIB, GIB),
        (2 * GIB - 1, GIB),
        (2 * GIB, 4096),
    ] {
        assert_eq!(page_size(&editor, &memory, iova), size, "{iova:#x}");
    }
}

#[test]
fn unmapping_a_part_splits_and_keeps_the_rest() {
    let memory = memory();
    let mut pages = pages(&memory);
    let mut editor = Editor::create(format(), &mut pages).unwrap();
    let mut mapping = Mapping::new(Iova(0), PhysAddr(8 * GIB), GIB, RW);
    mapping.attributes.flags = AttributeFlags::SNOOP;
    mapping.attributes.memory_type = 6;
    editor
        .map(&memory, &mut pages, &mapping)
        .unwrap()
        .completed(&mut pages);
    assert_eq!(pages.in_use(), 2);

    let hole = MIB2 + 0x5000;
    let invalidation = editor
        .unmap(&memory, &mut pages, Iova(hole), 0x1000)
        .unwrap();
    assert_eq!(invalidation.bytes(), 0x1000);
    assert!(invalidation.removes() && invalidation.tables());
    assert_eq!(invalidation.range(), Some((Iova(hole), Iova(hole + 0xfff))));
    invalidation.completed(&mut pages);
    assert_eq!(pages.in_use(), 4);
    for iova in [0, MIB2, hole - 1, hole + 0x1000, 2 * MIB2, GIB - 1] {
        let walk = editor
            .format()
            .walk(&memory, editor.root(), Iova(iova), RW)
            .unwrap();
        assert_eq!(walk.output, PhysAddr(8 * GIB + iova));
        assert_eq!(walk.attributes, mapping.attributes);
    }
    assert!(
        editor
            .format()
            .walk(&memory, editor.root(), Iova(hole), Access::READ)
            .is_err()
    );
    assert_eq!(page_size(&editor, &memory, GIB - 1), MIB2);
    assert_eq!(page_size(&editor, &memory, hole - 1), 4096);

    mapping = Mapping {
        iova: Iova(hole),
        length: 0x1000,
        ..mapping
    };
    mapping.output = PhysAddr(8 * GIB + hole);
    editor
        .map(&memory, &mut pages, &mapping)
        .unwrap()
        .completed(&mut pages);
    let invalidation = editor.coalesce(&memory, Iova(0), GIB).unwrap();
    assert!(invalidation.removes() && invalidation.tables());
    assert_eq!(invalidation.retired(), 2);
    invalidation.completed(&mut pages);
    assert_eq!(pages.in_use(), 2);
    assert_eq!(page_size(&editor, &memory, hole), GIB);
}

#[test]
fn tables_are_freed_only_when_the_invalidation_completed() {
    let memory = memory();
    let mut pages = pages(&memory);
    let mut editor = Editor::create(format(), &mut pages).unwrap();
    let mapping = Mapping::new(Iova(0x1000), PhysAddr(0), 0x1000, RW);
    editor
        .map(&memory, &mut pages, &mapping)
        .unwrap()
        .completed(&mut pages);
    let before = pages.in_use();
    let invalidation = editor.unmap(&memory, &mut pages, Iova(0), MIB2).unwrap();
    assert_eq!(invalidation.retired(), 1);
    assert_eq!(pages.in_use(), before);
    invalidation.completed(&mut pages);
    assert_eq!(pages.in_use(), before - 1);
}

#[test]
fn a_large_page_replaces_an_empty_table() {
    let memory = memory();
    let mut pages = pages(&memory);
    let mut editor = Editor::create(format(), &mut pages).unwrap();
    let small = Mapping::new(Iova(0x1000), PhysAddr(0), 0x1000, RW);
    editor
        .map(&memory, &mut pages, &small)
        .unwrap()
        .completed(&mut pages);
    editor
        .unmap(&memory, &mut pages, Iova(0x1000), 0x1000)
        .unwrap()
        .completed(&mut pages);
    let large = Mapping::new(Iova(0), PhysAddr(0), MIB2, RW);
    let invalidation = editor.map(&memory, &mut pages, &large).unwrap();
    assert!(invalidation.tables());
    assert_eq!(invalidation.retired(), 1);
    invalidation.completed(&mut pages);
    assert_eq!(page_size(&editor, &memory, 0), MIB2);
}

#[test]
fn a_refused_mapping_leaves_nothing_mapped() {
    let memory = memory();
    let mut pages = MockPages::new(&memory, PhysAddr(0x1000), PhysAddr(0x6000));
    let mut editor = Editor::create(format(), &mut pages).unwrap();
    // Five pages: the root, three below it, and one more table of level 1, of three needed.
    let mapping = Mapping {
        max_page_shift: 12,
        ..Mapping::new(Iova(0), PhysAddr(0), 2 * MIB2 + 0x1000, RW)
    };
    let failure = editor.map(&memory, &mut pages, &mapping).unwrap_err();
    assert_eq!(failure.error, EditError::OutOfTables);
    assert!(failure.invalidation.removes());
    assert_eq!(
        failure.invalidation.range(),
        Some((Iova(0), Iova(2 * MIB2 - 1)))
    );
    failure.invalidation.completed(&mut pages);
    for iova in [0, MIB2, 2 * MIB2] {
        assert!(
            editor
                .format()
                .walk(&memory, editor.root(), Iova(iova), RW)
                .is_err()
        );
    }
}

#[test]
fn ranges_that_cannot_be_edited_are_refused() {
    let memory = memory();
    let mut pages = pages(&memory);
    let mut config = SecondStageConfig::new(Levels::Three);
    config.host_address_width = 40;
    let mut editor = Editor::create(SecondStage::new(config), &mut pages).unwrap();
    let width = 1u64 << 39;
    let mut map = |iova, output, length, permissions| {
        let mapping = Mapping::new(Iova(iova), PhysAddr(output), length, permissions);
        editor
            .map(&memory, &mut pages, &mapping)
            .map(drop)
            .map_err(|failure| failure.error)
    };
    let misaligned = |result| matches!(result, Err(EditError::Misaligned { .. }));
    assert!(misaligned(map(0, 0, 0, RW)));
    assert!(misaligned(map(0x800, 0, 0x1000, RW)));
    assert!(misaligned(map(0, 0, 0x1001, RW)));
    for (iova, length) in [
        (width, 0x1000),
        (width - 0x1000, 0x2000),
        (u64::MAX << 12, 0x2000),
    ] {
        let beyond = EditError::BeyondWidth {
            iova: Iova(iova),
            length,
        };
        assert_eq!(map(iova, 0, length, RW), Err(beyond));
    }
    for (output, length) in [
        (0x800, 0x1000),
        (1 << 40, 0x1000),
        ((1 << 40) - 0x1000, 0x2000),
    ] {
        let refused = EditError::Output {
            output: PhysAddr(output),
            length,
        };
        assert_eq!(map(0, output, length, RW), Err(refused));
    }
    for permissions in [Access::empty(), Access::PRIVILEGED | RW, Access::EXECUTE] {
        assert_eq!(
            map(0, 0, 0x1000, permissions),
            Err(EditError::Permissions { permissions })
        );
    }
    assert_eq!(map(width - 0x1000, (1 << 40) - 0x1000, 0x1000, RW), Ok(()));
    assert_eq!(map(0, 0, 0x1000, Access::WRITE), Ok(()));
}

#[test]
fn dirty_flags_are_read_and_cleared() {
    let memory = memory();
    let mut pages = pages(&memory);
    let mut config = SecondStageConfig::new(Levels::Three);
    config.accessed_dirty = true;
    let mut editor = Editor::create(SecondStage::new(config), &mut pages).unwrap();
    let mapping = Mapping::new(Iova(0), PhysAddr(0), MIB2 + 0x4000, RW);
    editor
        .map(&memory, &mut pages, &mapping)
        .unwrap()
        .completed(&mut pages);
    let write = |editor: &Editor<SecondStage>, iova| {
        editor
            .format()
            .walk(&memory, editor.root(), Iova(iova), Access::WRITE)
            .unwrap();
    };
    let dirty = |editor: &mut Editor<SecondStage>, iova, length, clear| {
        let mut found = Vec::new();
        let invalidation = editor
            .read_dirty(&memory, Iova(iova), length, clear, |iova, size| {
                found.push((iova.0, size))
            })
            .unwrap();
        assert_eq!(invalidation.removes(), clear && !found.is_empty());
        found
    };
    assert_eq!(dirty(&mut editor, 0, mapping.length, true), []);
    write(&editor, 0x1234);
    write(&editor, MIB2 + 0x2fff);
    let both = [(0, MIB2), (MIB2 + 0x2000, 0x1000)];
    assert_eq!(dirty(&mut editor, 0, mapping.length, false), both);
    assert_eq!(dirty(&mut editor, 0x8000, 0x1000, false), [(0, MIB2)]);
    assert_eq!(dirty(&mut editor, 0, mapping.length, true), both);
    assert_eq!(dirty(&mut editor, 0, mapping.length, true), []);
    write(&editor, 0x1234);

    // What is split stays dirty in all parts, what is merged if any part was.
    editor
        .unmap(&memory, &mut pages, Iova(0), 0x1000)
        .unwrap()
        .completed(&mut pages);
    assert_eq!(dirty(&mut editor, 0, MIB2, true).len(), 511);
    let mapping = Mapping {
        length: 0x1000,
        ..mapping
    };
    editor
        .map(&memory, &mut pages, &mapping)
        .unwrap()
        .completed(&mut pages);
    write(&editor, 0x7000);
    editor
        .coalesce(&memory, Iova(0), MIB2)
        .unwrap()
        .completed(&mut pages);
    assert_eq!(dirty(&mut editor, 0, MIB2, true), [(0, MIB2)]);
}

#[test]
fn the_second_stage_does_not_grow() {
    let memory = memory();
    let mut pages = pages(&memory);
    let mut editor = Editor::create(format(), &mut pages).unwrap();
    assert_eq!(editor.grow(&memory, &mut pages), Err(EditError::Tallest));
}

#[test]
fn amd_tables_grow_on_top_up_to_six_levels() {
    let memory = memory();
    let mut pages = pages(&memory);
    let mut editor = Editor::create(AmdV1::new(AmdV1Config::new(1)), &mut pages).unwrap();
    let low = Mapping::new(Iova(0x5000), PhysAddr(GIB), 0x1000, RW);
    editor
        .map(&memory, &mut pages, &low)
        .unwrap()
        .completed(&mut pages);
    for levels in 2..=6u8 {
        let first = Iova(1 << (3 + 9 * levels));
        let high = Mapping::new(first, PhysAddr(2 * GIB), 0x1000, RW);
        let failure = editor.map(&memory, &mut pages, &high).unwrap_err();
        assert!(matches!(failure.error, EditError::BeyondWidth { .. }));
        editor.grow(&memory, &mut pages).unwrap();
        assert_eq!(editor.format().config().levels, levels);
        editor
            .map(&memory, &mut pages, &high)
            .unwrap()
            .completed(&mut pages);
        let walk = |iova| {
            editor
                .format()
                .walk(&memory, editor.root(), iova, RW)
                .unwrap()
                .output
        };
        assert_eq!(walk(Iova(0x5000)), PhysAddr(GIB));
        assert_eq!(walk(first), PhysAddr(2 * GIB));
    }
    assert_eq!(editor.grow(&memory, &mut pages), Err(EditError::Tallest));
}

#[test]
fn amd_pages_have_every_power_of_two() {
    let memory = memory();
    for shift in 12..=51u8 {
        let mut pages = pages(&memory);
        let mut editor = Editor::create(AmdV1::new(AmdV1Config::new(6)), &mut pages).unwrap();
        let size = 1u64 << shift;
        let mapping = Mapping::new(Iova(size), PhysAddr(size), size, RW);
        editor
            .map(&memory, &mut pages, &mapping)
            .unwrap()
            .completed(&mut pages);
        for iova in [size, 2 * size - 1] {
            let walk = editor
                .format()
                .walk(&memory, editor.root(), Iova(iova), RW)
                .unwrap();
            assert_eq!((walk.page_shift, walk.output), (shift, PhysAddr(iova)));
        }
        for iova in [size - 1, 2 * size] {
            assert!(
                editor
                    .format()
                    .walk(&memory, editor.root(), Iova(iova), RW)
                    .is_err()
            );
        }
    }
}

#[test]
fn a_page_of_several_entries_is_dirty_if_any_is() {
    let memory = memory();
    let mut pages = pages(&memory);
    let config = AmdV1Config {
        accessed: true,
        dirty: true,
        ..AmdV1Config::new(3)
    };
    let mut editor = Editor::create(AmdV1::new(config), &mut pages).unwrap();
    let mapping = Mapping::new(Iova(0x1_0000), PhysAddr(0), 0x1_0000, RW);
    editor
        .map(&memory, &mut pages, &mapping)
        .unwrap()
        .completed(&mut pages);
    editor
        .format()
        .walk(&memory, editor.root(), Iova(0x1_3000), Access::WRITE)
        .unwrap();
    let mut dirty = |iova, length, clear| {
        let mut found = Vec::new();
        editor
            .read_dirty(&memory, Iova(iova), length, clear, |iova, size| {
                found.push((iova.0, size))
            })
            .unwrap()
            .completed(&mut pages);
        found
    };
    // The query is for another part of the page than the entry that the hardware marked.
    assert_eq!(dirty(0x1_8000, 0x1000, false), [(0x1_0000, 0x1_0000)]);
    assert_eq!(dirty(0, 0x10_0000, true), [(0x1_0000, 0x1_0000)]);
    assert_eq!(dirty(0, 0x10_0000, true), []);

    // The hardware may hold the whole page as written while it is split.
    editor
        .unmap(&memory, &mut pages, Iova(0x1_0000), 0x1000)
        .unwrap()
        .completed(&mut pages);
    let mut count = 0;
    let read = editor.read_dirty(&memory, Iova(0), 0x10_0000, false, |_, _| count += 1);
    read.unwrap().completed(&mut pages);
    assert_eq!(count, 15);
}

#[test]
fn x86_ranges_do_not_cross_the_canonical_hole() {
    let memory = memory();
    let mut pages = pages(&memory);
    let format = X86_64::new(X86_64Config::new(Levels::Four));
    let mut editor = Editor::create(format, &mut pages).unwrap();
    for (iova, length) in [
        ((1 << 47) - 0x1000, 0x2000),
        (1 << 47, 0x1000),
        ((1 << 47) - 0x1000, (1u64 << 48).wrapping_neg() + 0x2000),
        (u64::MAX << 12, 0x2000),
    ] {
        let beyond = EditError::BeyondWidth {
            iova: Iova(iova),
            length,
        };
        let failure = editor
            .unmap(&memory, &mut pages, Iova(iova), length)
            .unwrap_err();
        assert_eq!(failure.error, beyond);
    }
    let write_only = Mapping::new(Iova(0), PhysAddr(0), 0x1000, Access::WRITE);
    let failure = editor.map(&memory, &mut pages, &write_only).unwrap_err();
    assert_eq!(
        failure.error,
        EditError::Permissions {
            permissions: Access::WRITE
        }
    );
}

#[test]
fn x86_pages_keep_their_memory_type_when_split_and_merged() {
    let memory = memory();
    let mut pages = pages(&memory);
    let format = X86_64::new(X86_64Config::new(Levels::Four));
    let mut editor = Editor::create(format, &mut pages).unwrap();
    let flags = AttributeFlags::USER | AttributeFlags::GLOBAL;
    let attributes = Attributes {
        flags,
        memory_type: 7,
    };
    let mapping = Mapping {
        attributes,
        ..Mapping::new(Iova(0), PhysAddr(GIB), GIB, RW)
    };
    editor
        .map(&memory, &mut pages, &mapping)
        .unwrap()
        .completed(&mut pages);
    editor
        .unmap(&memory, &mut pages, Iova(0), 0x1000)
        .unwrap()
        .completed(&mut pages);
    let walk = |editor: &Editor<X86_64>, iova| {
        let walk = editor
            .format()
            .walk(&memory, editor.root(), Iova(iova), RW)
            .unwrap();
        assert_eq!(walk.attributes, attributes);
        assert_eq!(walk.output, PhysAddr(GIB + iova));
        walk.page_size()
    };
    assert_eq!(walk(&editor, 0x1000), 4096);
    assert_eq!(walk(&editor, MIB2), MIB2);
    let mapping = Mapping {
        length: 0x1000,
        ..mapping
    };
    editor
        .map(&memory, &mut pages, &mapping)
        .unwrap()
        .completed(&mut pages);
    editor
        .coalesce(&memory, Iova(0), GIB)
        .unwrap()
        .completed(&mut pages);
    assert_eq!(walk(&editor, 0), GIB);
}

#[test]
fn entries_that_no_editor_writes_are_reported() {
    let memory = memory();
    let mut pages = pages(&memory);
    let mut editor = Editor::create(format(), &mut pages).unwrap();
    let root = editor.root();
    memory.store(root, Entry::READ | Entry::PAGE_SIZE).unwrap();
    let failure = editor
        .unmap(&memory, &mut pages, Iova(0), 0x1000)
        .unwrap_err();
    assert!(matches!(failure.error, EditError::Corrupt { address, .. } if address == root));
    memory.store(root, Entry::READ | 1 << 40).unwrap();
    let failure = editor
        .unmap(&memory, &mut pages, Iova(0), 0x1000)
        .unwrap_err();
    let address = PhysAddr(1 << 40);
    assert_eq!(failure.error, EditError::TableAccess { address });
}

#[test]
fn attributes_that_are_mapped_are_found_by_walks() {
    fn found<F: crate::Editable>(format: F, attributes: Attributes) -> Attributes {
        let memory = memory();
        let mut pages = pages(&memory);
        let mut editor = Editor::create(format, &mut pages).unwrap();
        let mapping = Mapping {
            attributes,
            ..Mapping::new(Iova(0), PhysAddr(0), 0x1000, RW)
        };
        let edit = editor.map(&memory, &mut pages, &mapping);
        edit.unwrap().completed(&mut pages);
        let walk = editor.format().walk(&memory, editor.root(), Iova(0), RW);
        walk.unwrap().attributes
    }
    let all = Attributes {
        flags: AttributeFlags::all(),
        memory_type: 7,
    };
    let mut config = SecondStageConfig::new(Levels::Four);
    let second_stage =
        AttributeFlags::SNOOP | AttributeFlags::TRANSIENT | AttributeFlags::IGNORE_PAT;
    for (transient, snoop) in [(true, true), (true, false), (false, true)] {
        (config.transient_mapping, config.snoop_control) = (transient, snoop);
        let mut flags = second_stage;
        flags.set(AttributeFlags::TRANSIENT, transient);
        flags.set(AttributeFlags::SNOOP, snoop);
        assert_eq!(
            found(SecondStage::new(config), all),
            Attributes { flags, ..all }
        );
    }
    let x86 = found(X86_64::new(X86_64Config::new(Levels::Four)), all);
    let flags = AttributeFlags::GLOBAL | AttributeFlags::USER;
    assert_eq!(x86, Attributes { flags, ..all });
    let amd = found(AmdV1::new(AmdV1Config::new(3)), all);
    let flags = AttributeFlags::SNOOP | AttributeFlags::UNTRANSLATED_ONLY;
    assert_eq!((amd.flags, amd.memory_type), (flags, 0));
}
