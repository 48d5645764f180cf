//! Walks and edits side by side with the least that they could take: the same dependent loads and
//! the same stores through raw pointers, without any check; and the loads through vm-memory.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{Bencher, Criterion, criterion_group, criterion_main};
use vm_iommu_pagetable::testing::{MockMemory, MockPages};
use vm_iommu_pagetable::{
    AmdV1, AmdV1Config, AttributeFlags, Editable, Editor, Levels, Mapping, Nested, SecondStage,
    SecondStageConfig, TableMemory, Walker, X86_64, X86_64Config,
};
use vm_iommu_spec::{Access, Iova, PhysAddr};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const FRAME: u64 = 0xf_ffff_ffff_f000;
const RW: Access = Access::READ.union(Access::WRITE);
/// Mapped pages that walks take in turn.
const PAGES: u64 = 64;
const MEMORY: u64 = 4 << 20;

fn iovas() -> Vec<u64> {
    // Two tables of level 1, in a scattered order.
    (0..PAGES)
        .map(|page| 0x3f_4000_0000 + ((page * 37 % PAGES * 16) << 12))
        .collect()
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

/// Runs `walk` for one address after another, each known only when the walk before is done: the
/// time is that of a walk whose result is waited for.
fn chained(b: &mut Bencher<'_>, mut walk: impl FnMut(u64) -> u64) {
    let iovas = iovas();
    let nothing = black_box(0);
    let (mut turn, mut last) = (0, 0);
    b.iter(|| {
        turn = (turn + 1) % iovas.len();
        last = walk(iovas[turn] + (last & nothing));
        last
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
    let mut group = c.benchmark_group("walk4");
    let memory = MockMemory::new(PhysAddr(0), MEMORY as usize);
    let editor = tables(
        SecondStage::new(SecondStageConfig::new(Levels::Four)),
        &memory,
    );
    let (format, root) = (editor.format(), editor.root());
    let words = memory.words().as_ptr();

    group.bench_function("raw chain", |b| {
        chained(b, |iova| raw_chain(words, black_box(root.0), iova))
    });
    let guest = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
    for (i, word) in memory.words().iter().enumerate() {
        guest
            .write_obj(word.load(Ordering::Relaxed), GuestAddress(i as u64 * 8))
            .unwrap();
    }
    group.bench_function("vm-memory chain", |b| {
        chained(b, |iova| {
            let mut table = black_box(root.0);
            for level in (1..=4).rev() {
                let address = GuestAddress(table + index(iova, level) as u64 * 8);
                let entry: u64 = guest.load(address, Ordering::Acquire).unwrap();
                table = entry & FRAME;
            }
            table | iova & 0xfff
        })
    });
    group.bench_function("second stage", |b| {
        chained(b, |iova| {
            format
                .translate(&memory, black_box(root), Iova(iova), RW)
                .unwrap()
                .output
                .0
        })
    });
    let mut config = SecondStageConfig::new(Levels::Four);
    config.accessed_dirty = true;
    let flags = SecondStage::new(config);
    group.bench_function("second stage with flags", |b| {
        chained(b, |iova| {
            flags
                .translate(&memory, black_box(root), Iova(iova), RW)
                .unwrap()
                .output
                .0
        })
    });
    let whole = format.walk(&memory, root, Iova(iovas()[0]), RW).unwrap();
    let cached = format
        .positions(format.root(root), Iova(iovas()[0]), &whole.visited)
        .find(|position| position.level() == 2);
    let cached = cached.unwrap();
    group.bench_function("second stage, from a cached table of level 2", |b| {
        chained(b, |iova| {
            let iova = Iova(iova);
            format
                .translate_from(&memory, black_box(cached), root, iova, RW)
                .unwrap()
                .output
                .0
        })
    });
    drop(group);

    let mut group = c.benchmark_group("walk4 other");
    let memory = MockMemory::new(PhysAddr(0), MEMORY as usize);
    let editor = tables(X86_64::new(X86_64Config::new(Levels::Four)), &memory);
    group.bench_function("x86-64", |b| {
        let (format, root) = (editor.format(), editor.root());
        chained(b, |iova| {
            format
                .translate(&memory, black_box(root), Iova(iova), RW)
                .unwrap()
                .output
                .0
        })
    });
    let memory = MockMemory::new(PhysAddr(0), MEMORY as usize);
    let editor = tables(AmdV1::new(AmdV1Config::new(4)), &memory);
    group.bench_function("AMD v1", |b| {
        let (format, root) = (editor.format(), editor.root());
        chained(b, |iova| {
            format
                .translate(&memory, black_box(root), Iova(iova), RW)
                .unwrap()
                .output
                .0
        })
    });
}

fn nested(c: &mut Criterion) {
    let mut group = c.benchmark_group("walk4x4");
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
    group.bench_function("raw chain", |b| {
        chained(b, |iova| {
            raw_nested(words, black_box(first.root().0), second.root().0, iova)
        })
    });
    group.bench_function("x86-64 over second stage", |b| {
        chained(b, |iova| {
            walker
                .translate(black_box(first.root()), Iova(iova), RW)
                .unwrap()
                .output
                .0
        })
    });
}

fn edits(c: &mut Criterion) {
    let mut group = c.benchmark_group("edit 256 pages");
    let memory = MockMemory::new(PhysAddr(0), MEMORY as usize);
    let words = memory.words();
    group.bench_function("256 stores", |b| {
        b.iter(|| {
            for (i, word) in words[..256].iter().enumerate() {
                word.store(black_box(7) | (i as u64) << 12, Ordering::Release);
            }
        })
    });
    group.bench_function("256 checked stores", |b| {
        b.iter(|| {
            for i in 0..256 {
                memory
                    .store(PhysAddr(i * 8), black_box(7) | i << 12)
                    .unwrap();
            }
        })
    });
    edits_of(
        &mut group,
        "second stage",
        SecondStage::new(SecondStageConfig::new(Levels::Four)),
    );
    edits_of(&mut group, "AMD v1", AmdV1::new(AmdV1Config::new(4)));
}

fn edits_of<F: Editable>(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: &str,
    format: F,
) {
    let memory = MockMemory::new(PhysAddr(0), MEMORY as usize);
    let mut pages = MockPages::new(&memory, PhysAddr(0x1000), PhysAddr(MEMORY));
    let mut editor = Editor::create(format, &mut pages).unwrap();
    let length = 256 << 12;
    let mapping = Mapping {
        max_page_shift: 12,
        ..Mapping::new(Iova(0x4000_0000), PhysAddr(0x1000_0000), length, RW)
    };
    group.bench_function(format!("{name}: map and unmap"), |b| {
        b.iter(|| {
            editor
                .map(&memory, &mut pages, black_box(&mapping))
                .unwrap()
                .completed(&mut pages);
            editor
                .unmap(&memory, &mut pages, black_box(mapping.iova), length)
                .unwrap()
                .completed(&mut pages);
        })
    });
}

criterion_group!(benches, walks, nested, edits);
criterion_main!(benches);
