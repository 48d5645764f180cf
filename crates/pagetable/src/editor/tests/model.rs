//! Any sequence of edits, then walks: as if the tables were a plain map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vm_iommu_spec::{Access, Iova, PhysAddr};

use super::restless::Restless;
use crate::testing::{MockMemory, MockPages};
use crate::{
    AmdV1, AmdV1Config, AttributeFlags, Attributes, EditError, Editable, Editor, Levels, Mapping,
    SecondStage, SecondStageConfig, TableMemory, Walker, X86_64, X86_64Config,
};

/// Pages in the window of addresses that edits use: two tables of level 1.
const WINDOW: u64 = 1024;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Map {
        first: u64,
        count: u64,
        output: u64,
        write: bool,
        max_page_shift: u8,
    },
    Unmap {
        first: u64,
        count: u64,
    },
    Protect {
        first: u64,
        count: u64,
        write: bool,
    },
    Coalesce {
        first: u64,
        count: u64,
    },
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        3 => (0..WINDOW, 1u64..40),
        2 => (0u64..8, 0u64..8).prop_map(|(first, count)| (first * 128, (count + 1) * 128)),
        2 => (0u64..64, 0u64..16).prop_map(|(first, count)| (first * 16, (count + 1) * 16)),
        1 => Just((0, WINDOW)),
    ]
    .prop_map(|(first, count)| (first, count.min(WINDOW - first)))
}

fn operation() -> impl Strategy<Value = Operation> {
    // Outputs that are aligned like the address, so that large pages arise, or not.
    let skew = prop_oneof![3 => Just(0u64), 1 => 0u64..64];
    prop_oneof![
        4 => (range(), skew, any::<bool>(), prop_oneof![3 => Just(63u8), 1 => 12u8..23])
            .prop_map(|((first, count), skew, write, max_page_shift)| Operation::Map {
                first, count, output: 0x40_0000 + first + skew, write, max_page_shift,
            }),
        3 => range().prop_map(|(first, count)| Operation::Unmap { first, count }),
        1 => (range(), any::<bool>())
            .prop_map(|((first, count), write)| Operation::Protect { first, count, write }),
        1 => range().prop_map(|(first, count)| Operation::Coalesce { first, count }),
    ]
}

pub(crate) fn operations() -> impl Strategy<Value = Vec<Operation>> {
    proptest::collection::vec(operation(), 1..24)
}

fn permissions(write: bool) -> Access {
    if write {
        Access::READ | Access::WRITE
    } else {
        Access::READ
    }
}

/// Edits the window at `base` and compares each page of it, and its neighbours, with a map.
/// The tables are in memory that lends them whole, or does not.
pub(crate) fn check<F: Editable>(format: F, base: u64, operations: &[Operation], lends: bool) {
    let memory = MockMemory::new(PhysAddr(0x1000), 64 << 12);
    let mut pages = MockPages::new(&memory, PhysAddr(0x1000), PhysAddr(64 << 12));
    let words = Restless::new(&memory, 0, 0);
    let memory: &dyn TableMemory = if lends { &memory } else { &words };
    let mut editor = Editor::create(format, &mut pages).unwrap();
    let mut model: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
    let address = |page: u64| Iova(base + (page << 12));
    for &operation in operations {
        let expected: u64;
        let outcome = match operation {
            Operation::Map {
                first,
                count,
                output,
                write,
                max_page_shift,
            } => {
                let attributes = Attributes {
                    flags: AttributeFlags::USER,
                    ..Attributes::default()
                };
                let mapping = Mapping {
                    max_page_shift,
                    attributes,
                    ..Mapping::new(
                        address(first),
                        PhysAddr(output << 12),
                        count << 12,
                        permissions(write),
                    )
                };
                let outcome = editor.map(memory, &mut pages, &mapping);
                if let Some((&page, _)) = model.range(first..first + count).next() {
                    let failure = outcome.unwrap_err();
                    let EditError::AlreadyMapped { iova } = failure.error else {
                        panic!("{failure}");
                    };
                    assert!(model.contains_key(&((iova.0 - base) >> 12)));
                    assert!(iova >= address(page));
                    failure.invalidation.completed(&mut pages);
                    continue;
                }
                model.extend((0..count).map(|page| (first + page, (output + page, write))));
                expected = count;
                outcome
            }
            Operation::Unmap { first, count } => {
                let gone = model.extract_if(first..first + count, |_, _| true).count();
                expected = gone as u64;
                editor.unmap(memory, &mut pages, address(first), count << 12)
            }
            Operation::Protect {
                first,
                count,
                write,
            } => {
                let mut changed = 0;
                for (_, page) in model.range_mut(first..first + count) {
                    changed += u64::from(page.1 != write);
                    page.1 = write;
                }
                expected = changed;
                editor.protect(
                    memory,
                    &mut pages,
                    address(first),
                    count << 12,
                    permissions(write),
                )
            }
            Operation::Coalesce { first, count } => {
                let outcome = editor.coalesce(memory, address(first), count << 12);
                outcome.unwrap().completed(&mut pages);
                compare(&editor, memory, base, &model);
                continue;
            }
        };
        let invalidation = outcome.unwrap();
        assert_eq!(invalidation.bytes(), expected << 12, "{operation:?}");
        if !matches!(operation, Operation::Map { .. }) && expected > 0 {
            assert!(invalidation.removes());
        }
        invalidation.completed(&mut pages);
        compare(&editor, memory, base, &model);
    }
    let all = editor
        .unmap(memory, &mut pages, address(0), WINDOW << 12)
        .unwrap();
    assert_eq!(all.bytes(), (model.len() as u64) << 12);
    all.completed(&mut pages);
    // The root and one table of each level below it, down to level 2, at most two of each.
    assert!(pages.in_use() <= 2 * usize::from(editor.format().root_level()));
}

fn compare<F: Editable>(
    editor: &Editor<F>,
    memory: &dyn TableMemory,
    base: u64,
    model: &BTreeMap<u64, (u64, bool)>,
) {
    let pages = (0..WINDOW).map(|page| (page, base + (page << 12)));
    // The pages on both sides of the window, which no edit may touch.
    let outside = [base.wrapping_sub(4096), base.wrapping_add(WINDOW << 12)];
    let outside = outside
        .into_iter()
        .filter(|&address| editor.format().check(address, Access::READ).is_ok())
        .map(|address| (u64::MAX, address));
    for (page, address) in pages.chain(outside) {
        let walk = editor
            .format()
            .walk(memory, editor.root(), Iova(address | 0x123), Access::READ);
        let expected = model.get(&page);
        assert_eq!(walk.is_ok(), expected.is_some(), "{address:#x}");
        if let (Ok(walk), Some(&(output, write))) = (walk, expected) {
            assert_eq!(walk.output, PhysAddr(output << 12 | 0x123));
            assert_eq!(walk.permissions.writes(), write);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn second_stage(
        operations in operations(),
        lends in any::<bool>(),
        levels in prop_oneof![Just(Levels::Three), Just(Levels::Four), Just(Levels::Five)],
        place in 0..3u32,
        large in any::<bool>(),
        execute in any::<bool>(),
    ) {
        let mut config = SecondStageConfig::new(levels);
        config.two_mib_pages = large;
        config.execute = execute;
        let width = levels.address_width();
        let base = match place {
            0 => 0,
            // Across a boundary of tables of level 2 and above.
            1 => (1 << (width - 1)) - (WINDOW << 11),
            _ => (1 << width) - (WINDOW << 12),
        };
        check(SecondStage::new(config), base, &operations, lends);
    }

    #[test]
    fn x86_64(
        operations in operations(),
        lends in any::<bool>(),
        levels in prop_oneof![Just(Levels::Four), Just(Levels::Five)],
        place in 0..4u32,
        no_execute in any::<bool>(),
    ) {
        let mut config = X86_64Config::new(levels);
        config.no_execute = no_execute;
        let half = 1u64 << (levels.address_width() - 1);
        let base = match place {
            0 => 0,
            1 => half - (WINDOW << 12),
            2 => half.wrapping_neg(),
            _ => (WINDOW << 12).wrapping_neg(),
        };
        check(X86_64::new(config), base, &operations, lends);
    }

    #[test]
    fn amd_v1(
        operations in operations(),
        lends in any::<bool>(),
        levels in 2..7u8,
        place in 0..3u32,
        dirty in any::<bool>(),
    ) {
        let mut config = AmdV1Config::new(levels);
        (config.accessed, config.dirty) = (dirty, dirty);
        let last = u64::MAX >> 52u8.saturating_sub(9 * levels);
        let base = match place {
            0 => 0,
            1 => last / 2 - (WINDOW << 11) + 1,
            _ => last - (WINDOW << 12) + 1,
        };
        check(AmdV1::new(config), if levels == 2 { 0 } else { base }, &operations, lends);
    }
}
