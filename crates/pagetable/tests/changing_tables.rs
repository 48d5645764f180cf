//! Another thread stores whatever it likes into tables while they are walked: each walk ends
//! within its bound of loads, in a fault or in an answer that the entries it read would also give
//! if they stood still.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use vm_iommu_pagetable::testing::MockMemory;
use vm_iommu_pagetable::{
    AmdV1, AmdV1Config, AttributeFlags, BadAddress, Editable, Levels, Mapping, Nested, NestedFault,
    Reason, SecondStage, SecondStageConfig, TableMemory, Translation, Visited, Walk, WalkFault,
    Walker, X86_64, X86_64Config,
};
use vm_iommu_spec::{Access, Iova, PhysAddr};

/// Tables are in these pages; what is above is not memory.
const PAGES: u64 = 8;
const ROOT: PhysAddr = PhysAddr(0x1000);
const IOVA: Iova = Iova(0x12_3456_7890);
const ACCESSES: [Access; 4] = [
    Access::READ,
    Access::WRITE,
    Access::EXECUTE,
    Access::ATOMIC_OP,
];
/// How often this thread walks for each access, while the other one stores.
const WALKS: u64 = 2000;
/// After so many walks or stores a thread lets the other one go on, which matters where both
/// share a processor.
const TURN: u64 = 16;
/// The same in the midst of a walk, after so many loads and updates.
const ACCESSES_OF_A_TURN: u64 = 61;
/// A walk and its repetitions, each of which begins with an entry that changed.
const ATTEMPTS: u64 = 1 + 8;

/// Memory that counts what is loaded from it, and now and then lets the other thread store first.
struct Counting<'a> {
    memory: &'a MockMemory,
    loads: AtomicU64,
    accesses: AtomicU64,
}

impl<'a> Counting<'a> {
    fn new(memory: &'a MockMemory) -> Self {
        Self {
            memory,
            loads: AtomicU64::new(0),
            accesses: AtomicU64::new(0),
        }
    }

    /// The number of loads since this was asked last.
    fn take(&self) -> u64 {
        self.loads.swap(0, Relaxed)
    }

    fn before_access(&self) {
        if self
            .accesses
            .fetch_add(1, Relaxed)
            .is_multiple_of(ACCESSES_OF_A_TURN)
        {
            thread::yield_now();
        }
    }
}

impl TableMemory for Counting<'_> {
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress> {
        self.before_access();
        self.loads.fetch_add(1, Relaxed);
        self.memory.load(address)
    }

    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress> {
        self.before_access();
        self.memory.compare_exchange(address, old, new)
    }

    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress> {
        self.memory.store(address, value)
    }

    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress> {
        self.memory.store_u32(address, value)
    }
}

/// A sequence of numbers without a pattern that a walk could fall in step with (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The place in a table of the entry of `level` for the address.
fn offset(level: u8, address: u64) -> u64 {
    (address >> (3 + 9 * level) & 0x1ff) * 8
}

/// A chain of tables for the address, the root first and each in the next page.
fn build<F: Editable>(format: &F, memory: &MockMemory, root: PhysAddr, address: u64) {
    let top = format.root_level();
    for level in (1..=top).rev() {
        let table = root.0 + u64::from(top - level) * 4096;
        let entry = match level {
            1 => page(format, 1, 0x7000),
            _ => format.table_entry(table + 4096, level - 1),
        };
        let place = PhysAddr(table + offset(level, address));
        memory.store(place, entry).unwrap();
    }
}

fn page<F: Editable>(format: &F, level: u8, output: u64) -> u64 {
    let rwx = Access::READ | Access::WRITE | Access::EXECUTE;
    let mut mapping = Mapping::new(IOVA, PhysAddr(output), 4096, rwx);
    mapping.attributes.flags = AttributeFlags::USER;
    format.page_entry(level, 3 + 9 * level, output, &mapping)
}

/// What a hostile party stores for an entry of `level`: mostly what leads somewhere, in
/// particular to `next`.
fn entry<F: Editable>(format: &F, level: u8, next: u64, numbers: &mut Numbers) -> u64 {
    let anywhere = numbers.below(PAGES + 1) << 12;
    let table = [next, next, next, next, anywhere][numbers.below(5) as usize];
    let good = match level {
        1 => page(format, 1, table),
        _ => format.table_entry(table, level - 1),
    };
    match numbers.below(16) {
        0 => 0,
        1 => numbers.next(),
        2 => good ^ 1 << numbers.below(64),
        3 => page(format, level, numbers.next() & 0xfff << 40),
        4 => format.table_entry(table, numbers.below(6) as u8),
        5 => format.table_entry(0xf_ffff_f000, level.max(2) - 1),
        _ => good,
    }
}

/// Stores into the entries that walks of the address may meet, in whichever of the pages.
fn attack<F: Editable>(
    format: &F,
    memory: &MockMemory,
    pages: Range<u64>,
    address: u64,
    numbers: &mut Numbers,
) {
    let level = 1 + numbers.below(u64::from(format.root_level())) as u8;
    let table = (pages.start + numbers.below(pages.end - pages.start)) << 12;
    let place = PhysAddr(table + offset(level, address));
    let value = entry(format, level, table + 4096, numbers);
    memory.store(place, value).unwrap();
}

/// Calls `walk` while another thread calls `attack`.
fn during(attack: impl Fn(&mut Numbers) + Sync, mut walk: impl FnMut(Access)) {
    let turns = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
            while !done.load(Relaxed) {
                (0..TURN).for_each(|_| attack(&mut numbers));
                turns.fetch_add(1, Relaxed);
                thread::yield_now();
            }
        });
        let _done = SetOnDrop(&done);
        let mut seen = 0;
        for turn in 0..WALKS {
            ACCESSES.into_iter().for_each(&mut walk);
            // Until the other thread did something; it only ends early if it fails.
            let waits = turn % TURN == 0;
            while waits && turns.load(Relaxed) == seen && !attacker.is_finished() {
                thread::yield_now();
            }
            seen = turns.load(Relaxed);
        }
    });
}

/// Ends the other thread, even if a walk panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What a translation says on its own.
fn sane(translation: &Translation, address: u64, access: Access) {
    let size = translation.page_size();
    assert_eq!(translation.output.0 % size, address % size);
    assert!(translation.permissions.contains(translation.cacheable));
    assert!(!access.writes() || translation.permissions.writes());
}

/// Memory in which nothing is but the entries that a walk read; `None` if it read one entry
/// twice, differently: tables that point to themselves.
fn still(visited: &Visited) -> Option<MockMemory> {
    let memory = MockMemory::new(PhysAddr(0), (PAGES << 12) as usize);
    let mut seen = HashMap::new();
    for step in visited.iter() {
        if *seen.entry(step.address).or_insert(step.entry) != step.entry {
            return None;
        }
        // What is not in memory there is not in memory here.
        let _ = memory.store(step.address, step.entry);
    }
    Some(memory)
}

/// A walk's answer is that of the entries that it read.
fn consistent<F: Editable>(format: &F, access: Access, outcome: &Result<Walk, WalkFault>) {
    let visited = match outcome {
        // The entries are not known: they were others each time.
        Err(fault) if fault.reason == Reason::Contended => return,
        Err(fault) => &fault.visited,
        Ok(walk) => &walk.visited,
    };
    if let Some(memory) = still(visited) {
        assert_eq!(format.walk(&memory, ROOT, IOVA, access), *outcome);
    }
}

/// Walks of one format; `attempts` is 1 if it sets no flags.
fn walks_stay_bounded_and_consistent<F: Editable + Sync>(format: &F, attempts: u64) {
    let memory = MockMemory::new(PhysAddr(0), (PAGES << 12) as usize);
    build(format, &memory, ROOT, IOVA.0);
    let counting = Counting::new(&memory);
    let levels = u64::from(format.root_level());
    let loads = |bound: u64| {
        let loads = counting.take();
        assert!(loads <= bound, "{loads} loads, {bound} allowed");
    };
    let (mut granted, mut refused) = (0_u64, 0_u64);
    let attack = |numbers: &mut Numbers| attack(format, &memory, 0..PAGES, IOVA.0, numbers);
    during(attack, |access| {
        let walk = format.walk(&counting, ROOT, IOVA, access);
        loads(levels * attempts);
        consistent(format, access, &walk);
        match walk {
            Ok(walk) => {
                sane(&walk, IOVA.0, access);
                granted += 1;
            }
            Err(fault) => {
                assert!(fault.step().is_some() || fault.reason == Reason::Contended);
                refused += 1;
            }
        }
        // The short walk comes before the one with a record.
        if let Ok(translation) = format.translate(&counting, ROOT, IOVA, access) {
            sane(&translation, IOVA.0, access);
        }
        loads(levels * (1 + attempts));
        let _ = format.probe(&counting, ROOT, IOVA, access);
        loads(levels);
    });
    println!("{granted} granted, {refused} refused");
    assert!(granted > 0 && refused > 0);
}

#[test]
fn second_stage() {
    let mut config = SecondStageConfig::new(Levels::Four);
    walks_stay_bounded_and_consistent(&SecondStage::new(config), 1);
    config.accessed_dirty = true;
    walks_stay_bounded_and_consistent(&SecondStage::new(config), ATTEMPTS);
}

#[test]
fn x86_64() {
    let config = X86_64Config::new(Levels::Five);
    walks_stay_bounded_and_consistent(&X86_64::new(config), ATTEMPTS);
}

#[test]
fn amd_v1() {
    let mut config = AmdV1Config::new(6);
    walks_stay_bounded_and_consistent(&AmdV1::new(config), 1);
    (config.accessed, config.dirty) = (true, true);
    walks_stay_bounded_and_consistent(&AmdV1::new(config), ATTEMPTS);
}

#[test]
fn nested() {
    // The first stage's tables in the lower pages, the second's, which map them to themselves,
    // in the upper.
    const SECOND: u64 = 5;
    let memory = MockMemory::new(PhysAddr(0), (PAGES << 12) as usize);
    let first = X86_64::new(X86_64Config::new(Levels::Four));
    let mut config = SecondStageConfig::new(Levels::Three);
    config.accessed_dirty = true;
    let second = SecondStage::new(config);
    let second_root = PhysAddr(SECOND << 12);
    build(&first, &memory, ROOT, IOVA.0);
    build(&second, &memory, second_root, 0);
    for address in (0..PAGES << 12).step_by(4096) {
        let place = second_root.0 + 0x2000 + offset(1, address);
        memory
            .store(PhysAddr(place), page(&second, 1, address))
            .unwrap();
    }
    let counting = Counting::new(&memory);
    let nested = Nested {
        first: &first,
        second: &second,
        second_root,
        memory: &counting,
    };
    // Each translation by the second stage; for the first, that of every entry's load and of the
    // update of its flags, in each attempt, and the short walk's before; and the page's.
    let inner = 3 * (1 + ATTEMPTS);
    let bound = 4 * (inner + 1) * (1 + ATTEMPTS) + 4 * inner * ATTEMPTS + inner;
    let attack = |numbers: &mut Numbers| match numbers.below(2) {
        0 => attack(&first, &memory, 0..SECOND, IOVA.0, numbers),
        _ => attack(&second, &memory, SECOND..PAGES, 0x7000, numbers),
    };
    let mut faults = [0_u64; 2];
    let mut granted = 0_u64;
    during(attack, |access| {
        let outcomes = [
            nested.walk(ROOT, IOVA, access).map(|walk| walk.page_shift),
            nested
                .translate(ROOT, IOVA, access)
                .map(|walk| walk.page_shift),
        ];
        let loads = counting.take();
        assert!(loads <= 2 * bound, "{loads} loads, {bound} allowed");
        for outcome in outcomes {
            match outcome {
                Ok(shift) => {
                    assert!((12..=30).contains(&shift));
                    granted += 1;
                }
                Err(NestedFault::First(_)) => faults[0] += 1,
                Err(_) => faults[1] += 1,
            }
        }
    });
    println!("{granted} granted, {faults:?} refused by each stage");
    assert!(granted > 0 && faults.iter().all(|faults| *faults > 0));
}
