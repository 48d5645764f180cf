//! Walkers against the oracle, on tables that mostly lead somewhere.
//!
//! The inputs are those of the fuzz targets, made of a chain of entries for one address with few
//! disturbances; the fuzzers start from such inputs and from none.

use proptest::prelude::*;
use vm_iommu_fuzz::pagetable::{self, Builder};

const SECOND_STAGE_ENTRY: u64 = 7;
const X86_64_ENTRY: u64 = 7;
const AMD_V1_ENTRY: u64 = 3 << 61 | 1;

/// Bits to flip in an entry: mostly none, else one that permits, any, now and then many.
fn disturbance() -> impl Strategy<Value = u64> {
    let permits = prop_oneof![0..3u32, 61..64u32];
    prop_oneof![
        24 => Just(0),
        3 => permits.prop_map(|bit| 1 << bit),
        3 => (0..64u32).prop_map(|bit| 1 << bit),
        1 => any::<u64>(),
    ]
}

/// Addresses for tables of a width, sign-extended or not; with edges: all ones from some bit down
/// or from some bit up.
fn address(width: u32) -> impl Strategy<Value = u64> {
    let extended = move |address: u64| ((address << (64 - width)) as i64 >> (64 - width)) as u64;
    prop_oneof![
        6 => any::<u64>().prop_map(move |address| address & low_ones(width)),
        6 => any::<u64>().prop_map(move |address| address & low_ones(width - 1)),
        4 => any::<u64>().prop_map(extended),
        1 => (12..=64u32).prop_map(low_ones),
        1 => (12..=63u32).prop_map(|bit| 1 << bit),
        1 => (12..=63u32, any::<u16>()).prop_map(|(bit, low)| !low_ones(bit) | u64::from(low)),
    ]
}

/// The configuration bits of a 52-bit host address width, or none.
fn wide(config: u32) -> u32 {
    if config >> 8 & 1 != 0 { 0xf800_0000 } else { 0 }
}

fn low_ones(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// How many levels tables have, and an address with neighbours and what to ask of them.
fn walks(levels: std::ops::Range<u8>) -> impl Strategy<Value = (u8, Vec<(u64, u8)>)> {
    levels.prop_flat_map(|level| (Just(level), requests((12 + 9 * u32::from(level)).min(64))))
}

fn requests(width: u32) -> impl Strategy<Value = Vec<(u64, u8)>> {
    (
        address(width),
        proptest::collection::vec((0..16u8, 0..3u64), 1..4),
    )
        .prop_map(|(address, accesses)| {
            let place = |shift: u64| address.wrapping_add(shift * 0x123 * shift);
            accesses
                .into_iter()
                .map(|(access, shift)| (place(shift), access))
                .collect()
        })
}

/// One table for each of six levels: which page it is in, and what disturbs its entry.
fn levels() -> impl Strategy<Value = [(u8, u64); 6]> {
    let table = |page: u8| (prop_oneof![8 => Just(page), 1 => 0..16u8], disturbance());
    [table(1), table(2), table(3), table(4), table(5), table(6)]
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Adds an entry for each level, made from the level and where it leads: to the table below, or
/// from `leaf` on to a page.
fn chain(
    mut input: Builder,
    tables: &[(u8, u64); 6],
    leaf: u8,
    entry: impl Fn(u8, u64) -> u64,
) -> Builder {
    for level in (1..=6u8).rev() {
        let (page, disturbance) = tables[usize::from(level) - 1];
        // A table points to the page of the next level; the lowest to one outside of memory.
        let target = match level.checked_sub(2) {
            Some(below) if level > leaf => u64::from(tables[usize::from(below)].0) << 12,
            _ => 0x1_0000_0000,
        };
        input = input.on_path(page, level, entry(level, target) ^ disturbance);
    }
    input
}

proptest! {
    #![proptest_config(cases(12000))]

    #[test]
    fn second_stage(
        config in any::<u32>(),
        (root_level, requests) in walks(3..6),
        tables in levels(),
        leaf in 1..4u8,
    ) {
        let config = config & !3 | u32::from(root_level - 3) | wide(config);
        let root = tables[usize::from(root_level) - 1].0;
        let input = chain(Builder::new(config, [root, 0], &requests), &tables, leaf, |level, target| {
            target | SECOND_STAGE_ENTRY | if level == leaf && level > 1 { 1 << 7 } else { 0 }
        });
        pagetable::second_stage(&input.bytes());
    }

    #[test]
    fn x86_64(
        config in any::<u32>(),
        (root_level, requests) in walks(3..6),
        tables in levels(),
        leaf in 1..4u8,
    ) {
        let config = config & !3 | u32::from(root_level - 3)
            | wide(config)
            | (config >> 8 & 2) << 3;
        let root = tables[usize::from(root_level) - 1].0;
        let input = chain(Builder::new(config, [root, 0], &requests), &tables, leaf, |level, target| {
            target | X86_64_ENTRY | if level == leaf && level > 1 { 1 << 7 } else { 0 }
        });
        pagetable::x86_64(&input.bytes());
    }

    #[test]
    fn amd_v1(
        config in any::<u32>(),
        (root_level, requests) in walks(1..7),
        tables in levels(),
        leaf in 1..7u8,
        size in prop_oneof![Just(0u8), 0..45u8],
    ) {
        let config = config & !7 | u32::from(root_level) | wide(config);
        let root = tables[usize::from(root_level) - 1].0;
        let input = chain(Builder::new(config, [root, 0], &requests), &tables, leaf, |level, target| {
            let below = if level > leaf { u64::from(level) - 1 } else { 0 };
            let encoded = match size {
                0 => 0,
                _ => 7 << 9 | ((1 << (size - 1)) - 1) << 12,
            };
            let page = if level > leaf { below << 9 } else { encoded };
            target | AMD_V1_ENTRY | page
        });
        pagetable::amd_v1(&input.bytes());
    }

    /// Each skip of levels, with an address in which the skipped bits are zero, or one is not.
    #[test]
    fn amd_v1_skips(
        address in any::<u64>(),
        from in 2..7u8,
        to in 1..6u8,
        keep in proptest::option::of(0..64u32),
        disturbance in disturbance(),
    ) {
        let mut skipped = 0;
        for level in to + 1..from {
            skipped |= 0x1ff << (3 + 9 * u32::from(level));
        }
        let address = address & !skipped & low_ones(12 + 9 * u32::from(from).min(5))
            | keep.map_or(0, |bit| 1 << bit);
        let input = Builder::new(u32::from(from) | 0xf800_0000, [1, 0], &[(address, 1)])
            .on_path(1, from, (0x2000 | u64::from(to) << 9 | AMD_V1_ENTRY) ^ disturbance)
            .on_path(2, to, 0x1_0000_0000 | AMD_V1_ENTRY);
        pagetable::amd_v1(&input.bytes());
    }
}

proptest! {
    #![proptest_config(cases(6000))]

    /// Both stages' tables are in the same memory, which the second maps by large pages.
    #[test]
    fn nested(
        config in any::<u32>(),
        (root_level, requests) in walks(3..6),
        tables in levels(),
        leaf in 1..4u8,
        outer in [disturbance(), disturbance(), disturbance(), disturbance()],
        amd in any::<bool>(),
        wide in prop_oneof![4 => Just(true), 1 => any::<bool>()],
    ) {
        let config = config & !0x1_0303 | u32::from(root_level - 3) << 8
            | u32::from(amd) << 16
            | if amd { 4 } else { 1 | 0xc }
            | if wide { 0xf800_1800 } else { 0 };
        let root = tables[usize::from(root_level) - 1].0;
        let mut input = chain(
            Builder::new(config, [root, 9], &requests),
            &tables,
            leaf,
            |level, target| target | X86_64_ENTRY | if level == leaf && level > 1 { 1 << 7 } else { 0 },
        );
        // The second stage, in pages 9 and 10: four levels, 1 GiB to 7 GiB where they are.
        let entry = if amd { AMD_V1_ENTRY } else { SECOND_STAGE_ENTRY };
        let next = |level: u64| if amd { level << 9 } else { 0 };
        let large = if amd { 0 } else { 1 << 7 };
        input = input.word(9, 0, 0xa000 | entry | next(3) ^ outer[0]);
        // Words of this selection are every fourth; GiB 0, 4, and their neighbours by disturbance.
        input = input.word(10, 0, entry | large ^ outer[1]);
        input = input.word(10, 1, 4 << 30 | entry | large ^ outer[2]);
        input = input.word(9, 1, 0xa000 | entry | next(3) ^ outer[3]);
        pagetable::nested(&input.bytes());
    }
}

#[test]
fn committed_corpora_hold() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in vm_iommu_fuzz::TARGETS {
        let folder = corpus.join(name);
        let inputs = std::fs::read_dir(&folder)
            .map(Iterator::collect::<Vec<_>>)
            .unwrap_or_default();
        assert!(!inputs.is_empty(), "no corpus for {name}");
        for input in inputs {
            target(&std::fs::read(input.unwrap().path()).unwrap());
        }
        // No input at all is one, too.
        target(&[]);
    }
}
