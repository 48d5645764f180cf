//! Walks and edits side by side with the least that they could take: the same loads and the same
//! stores through raw pointers, without any check; and the loads through vm-memory.
//!
//! The last lines are ratios of least times. A dependent walk's address is known only when the
//! walk before is done, as when its result is waited for; independent ones may overlap.

mod least;

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;
use least::{Base, bench};
use vm_iommu_pagetable::testing::{MockMemory, MockPages};
use vm_iommu_pagetable::{
    AmdV1, AmdV1Config, AttributeFlags, Editable, Editor, Levels, Mapping, Nested, SecondStage,
    SecondStageConfig, Walker, X86_64, X86_64Config,
};
use vm_iommu_spec::{Access, Iova, PhysAddr};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const FRAME: u64 = 0xf_ffff_ffff_f000;
const RW: Access = Access::READ.union(Access::WRITE);
/// Mapped pages that walks take in turn.
const PAGES: usize = 64;
const MEMORY: u64 = 4 << 20;

fn iovas() -> [u64; PAGES] {
    // Two tables of level 1, in a scattered order.
    let page = |turn| (turn * 37 % PAGES * 16) as u64;
    std::array::from_fn(|turn| 0x3f_4000_0000 + (page(turn) << 12))
}

/// Tables that map each of [`iovas`] by a 4-KiB page.
fn tables<F: Editable>(format: F, memory: &MockMemory) -> Editor<F> {
    let mut pages = MockPages::new(memory, PhysAddr(0x1000), PhysAddr(MEMORY / 2));
    let mut editor = Editor::create(format, &mut pages).unwrap();
    for iova in iovas() {
        let mut mapping = Mapping::new(Iova(iova), PhysAddr(iova & 0x1f_ffff), 4096, RW);
        mapping.attributes.flags = AttributeFlags::USER;
        editor
            .map(memory, &mut pages, &mapping)
            .unwrap()
            .completed(&mut pages);
    }
    editor
}

/// Runs `walk` for one address after another, each known only when the walk before is done.
fn dependent(c: &mut Criterion, name: &'static str, mut walk: impl FnMut(u64) -> u64) {
    let iovas = iovas();
    let nothing = black_box(0);
    bench(c, name, |times| {
        let begin = Instant::now();
        let mut last = 0;
        for turn in 0..times as usize {
            last = walk(iovas[turn % PAGES] + (last & nothing));
        }
        black_box(last);
        begin.elapsed()
    });
}

/// Runs `walk` for one address after another.
fn independent(c: &mut Criterion, name: &'static str, mut walk: impl FnMut(u64) -> u64) {
    let iovas = iovas();
    bench(c, name, |times| {
        let begin = Instant::now();
        for turn in 0..times as usize {
            black_box(walk(iovas[turn % PAGES]));
        }
        begin.elapsed()
    });
}

fn index(iova: u64, level: u32) -> usize {
    (iova >> (3 + 9 * level) & 0x1ff) as usize
}

/// Follows the tables without looking at them.
fn raw_chain(words: *const AtomicU64, root: u64, iova: u64) -> u64 {
    let mut table = root;
    for level in (1..=4).rev() {
        // SAFETY: the tables were built in these words and point only to each other, and the
        // last load only yields the page's address.
        let word = unsafe { &*words.byte_add(table as usize).add(index(iova, level)) };
        table = word.load(Ordering::Acquire) & FRAME;
    }
    table | iova & 0xfff
}

/// Follows two stages: each address of the first, and what it yields, through the second.
fn raw_nested(words: *const AtomicU64, first: u64, second: u64, iova: u64) -> u64 {
    let mut table = first;
    for level in (1..=4).rev() {
        let place = raw_chain(words, second, table + index(iova, level) as u64 * 8);
        // SAFETY: as in `raw_chain`; the second stage maps the first's tables to themselves.
        let word = unsafe { &*words.byte_add(place as usize) };
        table = word.load(Ordering::Acquire) & FRAME;
    }
    raw_chain(words, second, table | iova & 0xfff)
}

fn walks(c: &mut Criterion) {
    let memory = MockMemory::new(PhysAddr(0), MEMORY as usize);
    let editor = tables(
        SecondStage::new(SecondStageConfig::new(Levels::Four)),
        &memory,
    );
    let (format, root) = (editor.format(), editor.root());
    let words = memory.words().as_ptr();
    let raw = |iova| raw_chain(words, black_box(root.0), iova);
    dependent(c, "raw chain", raw);
    independent(c, "raw chain, independent", raw);

    let guest = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
    for (i, word) in memory.words().iter().enumerate() {
        guest
            .write_obj(word.load(Ordering::Relaxed), GuestAddress(i as u64 * 8))
            .unwrap();
    }
    let through_vm_memory = |iova| {
        let mut table = black_box(root.0);
        for level in (1..=4).rev() {
            let address = GuestAddress(table + index(iova, level) as u64 * 8);
            let entry: u64 = guest.load(address, Ordering::Acquire).unwrap();
            table = entry & FRAME;
        }
        table | iova & 0xfff
    };
    dependent(c, "vm-memory chain", through_vm_memory);
    independent(c, "vm-memory chain, independent", through_vm_memory);

    dependent(c, "second stage", walk(format, &memory, root));
    let walk4 = walk(format, &memory, root);
    independent(c, "second stage, independent", walk4);
    let mut config = SecondStageConfig::new(Levels::Four);
    config.accessed_dirty = true;
    let flags = SecondStage::new(config);
    dependent(c, "second stage with flags", walk(&flags, &memory, root));

    let whole = format.walk(&memory, root, Iova(iovas()[0]), RW).unwrap();
    let cached = format
        .positions(format.root(root), Iova(iovas()[0]), &whole.visited)
        .find(|position| position.level() == 2)
        .unwrap();
    dependent(c, "second stage, from a cached table of level 2", |iova| {
        let iova = Iova(iova);
        let walk = format.translate_from(&memory, black_box(cached), root, iova, RW);
        walk.unwrap().output.0
    });

    let memory = MockMemory::new(PhysAddr(0), MEMORY as usize);
    let editor = tables(X86_64::new(X86_64Config::new(Levels::Four)), &memory);
    dependent(c, "x86-64", walk(editor.format(), &memory, editor.root()));
    let memory = MockMemory::new(PhysAddr(0), MEMORY as usize);
    let editor = tables(AmdV1::new(AmdV1Config::new(4)), &memory);
    dependent(c, "AMD v1", walk(editor.format(), &memory, editor.root()));
}

/// Walks with all checks on.
fn walk<F: Walker>(format: &F, memory: &MockMemory, root: PhysAddr) -> impl FnMut(u64) -> u64 {
    move |iova| {
        let walk = format.translate(memory, black_box(root), Iova(iova), RW);
        walk.unwrap().output.0
    }
}

fn nested(c: &mut Criterion) {
    let memory = MockMemory::new(PhysAddr(0), MEMORY as usize);
    let first = tables(X86_64::new(X86_64Config::new(Levels::Four)), &memory);
    let mut pages = MockPages::new(&memory, PhysAddr(MEMORY / 2), PhysAddr(MEMORY));
    let format = SecondStage::new(SecondStageConfig::new(Levels::Four));
    let mut second = Editor::create(format, &mut pages).unwrap();
    let identity = Mapping {
        max_page_shift: 12,
        ..Mapping::new(Iova(0), PhysAddr(0), MEMORY, RW)
    };
    second
        .map(&memory, &mut pages, &identity)
        .unwrap()
        .completed(&mut pages);
    let words = memory.words().as_ptr();
    let walker = Nested {
        first: first.format(),
        second: second.format(),
        second_root: second.root(),
        memory: &memory,
    };
    let raw = |iova| raw_nested(words, black_box(first.root().0), second.root().0, iova);
    let both = |iova| {
        let walk = walker.translate(black_box(first.root()), Iova(iova), RW);
        walk.unwrap().output.0
    };
    dependent(c, "nested raw chain", raw);
    dependent(c, "nested, x86-64 over second stage", both);
    independent(c, "nested raw chain, independent", raw);
    independent(c, "nested, x86-64 over second stage, independent", both);
}

/// How many pages an edit maps or unmaps.
const EDITED: u64 = 256;
/// How many edits are made before they are undone.
const BATCH: u64 = 16;

fn edits(c: &mut Criterion) {
    let memory = MockMemory::new(PhysAddr(0), MEMORY as usize);
    bench(c, "256 stores", |times| {
        let begin = Instant::now();
        for _ in 0..times {
            for (i, word) in memory.words()[..EDITED as usize].iter().enumerate() {
                word.store(black_box(7) | (i as u64) << 12, Ordering::Release);
            }
        }
        begin.elapsed()
    });
    let format = SecondStage::new(SecondStageConfig::new(Levels::Four));
    edit(c, ["second stage map", "second stage unmap"], format);
    let format = AmdV1::new(AmdV1Config::new(4));
    edit(c, ["AMD v1 map", "AMD v1 unmap"], format);
}

/// Maps and unmaps in batches, of which either half is timed.
fn edit<F: Editable>(c: &mut Criterion, [map, unmap]: [&'static str; 2], format: F) {
    let memory = MockMemory::new(PhysAddr(0), MEMORY as usize);
    let mut pages = MockPages::new(&memory, PhysAddr(0x1000), PhysAddr(MEMORY));
    let mut editor = Editor::create(format, &mut pages).unwrap();
    let length = EDITED << 12;
    let mapping = |turn: u64| Mapping {
        max_page_shift: 12,
        ..Mapping::new(
            Iova(0x4000_0000 + turn * length),
            PhysAddr(0x1000_0000 + turn * length),
            length,
            RW,
        )
    };
    let mut batches = |times: u64| {
        let mut spent = [Duration::ZERO; 2];
        let mut left = times;
        while left > 0 {
            let batch = left.min(BATCH);
            let begin = Instant::now();
            for turn in 0..batch {
                let edit = editor.map(&memory, &mut pages, &black_box(mapping(turn)));
                edit.unwrap().completed(&mut pages);
            }
            let between = Instant::now();
            for turn in 0..batch {
                let iova = black_box(mapping(turn)).iova;
                let edit = editor.unmap(&memory, &mut pages, iova, length);
                edit.unwrap().completed(&mut pages);
            }
            spent[0] += between - begin;
            spent[1] += between.elapsed();
            left -= batch;
        }
        spent
    };
    bench(c, map, |times| batches(times)[0]);
    bench(c, unmap, |times| batches(times)[1]);
}

/// What is held against what. Linux's generic_pt publishes its figures for AMD v1 and 256 pages of
/// 4 KiB, measured on another machine.
const RATIOS: &[(&str, Base)] = {
    const RAW: Base = Base::Bench("raw chain");
    const STORES: Base = Base::Bench("256 stores");
    &[
        ("vm-memory chain", RAW),
        ("second stage", RAW),
        ("second stage", Base::Bench("vm-memory chain")),
        ("second stage with flags", RAW),
        ("second stage, from a cached table of level 2", RAW),
        ("x86-64", RAW),
        ("AMD v1", RAW),
        (
            "vm-memory chain, independent",
            Base::Bench("raw chain, independent"),
        ),
        (
            "second stage, independent",
            Base::Bench("raw chain, independent"),
        ),
        (
            "second stage, independent",
            Base::Bench("vm-memory chain, independent"),
        ),
        (
            "nested, x86-64 over second stage",
            Base::Bench("nested raw chain"),
        ),
        (
            "nested, x86-64 over second stage, independent",
            Base::Bench("nested raw chain, independent"),
        ),
        ("second stage map", STORES),
        ("second stage unmap", STORES),
        ("AMD v1 map", STORES),
        ("AMD v1 unmap", STORES),
        ("AMD v1 map", Base::Published("generic_pt's map", 381.0)),
        ("AMD v1 unmap", Base::Published("generic_pt's unmap", 372.0)),
    ]
};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    walks(&mut criterion);
    nested(&mut criterion);
    edits(&mut criterion);
    criterion.final_summary();
    least::print(RATIOS);
}
