//! The unit's answers against the model's, on tables that are almost right.
//!
//! The fuzz target compares; here it is led to tables that random bytes seldom form.

use proptest::collection::vec;
use proptest::prelude::*;

/// Where the tables are: root, contexts, five levels, interrupt remapping.
const ROOT: u64 = 0x1000;
const CONTEXTS: u64 = 0x2000;
const LEVELS: [u64; 5] = [0x7000, 0x6000, 0x5000, 0x4000, 0x3000];
const INTERRUPTS: u64 = 0x8000;

/// An input of the fuzz target, action by action.
struct Input(Vec<u8>);

impl Input {
    fn store(&mut self, place: u64, value: u64) {
        self.0.push(0);
        self.0.extend((place as u16 / 8).to_le_bytes());
        self.word(value);
    }

    fn word(&mut self, value: u64) {
        self.0.push(0);
        self.0.extend(value.to_le_bytes());
    }

    /// Writes 4 or 8 bytes to the register with this index in the target's list.
    fn write(&mut self, index: u8, value: u64, wide: bool) {
        self.0.extend([if wide { 0x14 } else { 0x04 }, index]);
        self.word(value);
    }

    fn dma(&mut self, source: u8, address: u64, write: bool) {
        self.0.extend([if write { 0x18 } else { 0x08 }, source]);
        self.word(address);
        self.0.extend(1_u16.to_le_bytes());
    }

    fn interrupt(&mut self, source: u8, address: u32, data: u32) {
        self.0.extend([11, source]);
        self.0
            .extend((u64::from(address) | u64::from(data) << 32).to_le_bytes());
    }
}

/// Mostly no bit, else one.
fn flip() -> impl Strategy<Value = u64> {
    prop_oneof![9 => Just(0), 1 => (0..64_u32).prop_map(|bit| 1 << bit)]
}

#[derive(Clone, Debug)]
struct Entry {
    permissions: u64,
    large: bool,
    target: u64,
    flip: u64,
}

fn entry() -> impl Strategy<Value = Entry> {
    let permissions = prop_oneof![6 => Just(3_u64), 1 => 0..4_u64];
    let large = prop::bool::weighted(0.15);
    (permissions, large, 0..4_u64, flip()).prop_map(|(permissions, large, target, flip)| Entry {
        permissions,
        large,
        target,
        flip,
    })
}

#[derive(Clone, Debug)]
struct Case {
    config: u16,
    mode: u64,
    contexts: Vec<(u64, u64, [u64; 2])>,
    entries: Vec<Entry>,
    interrupts: Vec<(u64, u64, [u64; 2])>,
    interrupt_table: u64,
    enables: u32,
    requests: Vec<(u8, [u64; 6], u64, bool)>,
    messages: Vec<(u8, u32, u32)>,
}

fn case() -> impl Strategy<Value = Case> {
    let flips = || [flip(), flip()];
    // TT and FPD, and AW.
    let context = (
        0..16_u64,
        prop_oneof![4 => 1..4_u64, 1 => 0..8_u64],
        flips(),
    );
    // Fields of the lower half, and SVT, SQ and SID.
    let fields = prop_oneof![
        any::<u64>().prop_map(|fields| fields & 0xffff_0000_00ff_0fff),
        Just(0)
    ];
    let source = (0..16_u64, 0..0x10_u64).prop_map(|(svt, source)| svt << 16 | source);
    let interrupt = (fields, source, flips());
    let address = [0..4_u64, 0..4, 0..4, 0..4, 0..4, 0..0x1000];
    let request = (0..8_u8, address, flip(), any::<bool>());
    let message = (
        0..8_u8,
        0..0x400_u32,
        prop_oneof![4 => 0..8_u32, 1 => any::<u32>()],
    );
    (
        (1..8_u16, any::<u16>()).prop_map(|(widths, bits)| widths | bits & !0x2007),
        prop_oneof![9 => Just(0_u64), 1 => 0..4_u64],
        vec(context, 8),
        vec(entry(), 20),
        vec(interrupt, 16),
        prop_oneof![0..5_u64, (0..16_u64).prop_map(|size| size | 1 << 11)],
        prop_oneof![4 => Just(1_u32 << 31 | 1 << 25), 1 => any::<u32>()],
        vec(request, 0..24),
        vec(message, 0..16),
    )
        .prop_map(
            |(
                config,
                mode,
                contexts,
                entries,
                interrupts,
                interrupt_table,
                enables,
                requests,
                messages,
            )| Case {
                config,
                mode,
                contexts,
                entries,
                interrupts,
                interrupt_table,
                enables,
                requests,
                messages,
            },
        )
}

fn encode(case: &Case) -> Vec<u8> {
    let mut input = Input(case.config.to_le_bytes().to_vec());
    input.store(ROOT, CONTEXTS | 1);
    for (index, (low, width, flips)) in case.contexts.iter().enumerate() {
        let place = CONTEXTS + index as u64 * 16;
        let top = LEVELS[(*width as usize + 1).min(4)];
        // Mostly translated: TT is 0 in three of four, and the entry is present.
        let low = if index % 4 == 0 { *low } else { low & 2 };
        input.store(place, (top | 1 | low) ^ flips[0]);
        input.store(place + 8, (width | 5 << 8) ^ flips[1]);
    }
    for (index, entry) in case.entries.iter().enumerate() {
        let level = index / 4;
        let place = LEVELS[level] + (index % 4) as u64 * 8;
        let pointer = if level == 0 || entry.large {
            // Pages: RAM, aligned for none but the smallest, or the interrupt range.
            [0x9000, 0, 0x4000_0000, 0xfee0_0000][entry.target as usize]
        } else {
            LEVELS[level - 1]
        };
        let large = if level > 0 && entry.large { 0x80 } else { 0 };
        input.store(place, (pointer | large | entry.permissions) ^ entry.flip);
    }
    for (index, (low, high, flips)) in case.interrupts.iter().enumerate() {
        let place = INTERRUPTS + index as u64 * 16;
        input.store(place, (low | 1) ^ flips[0]);
        input.store(place + 8, high ^ flips[1]);
    }
    input.write(1, ROOT | case.mode << 10, true);
    input.write(16, INTERRUPTS | case.interrupt_table, true);
    let pointers = 1 << 30 | 1 << 24;
    input.write(0, u64::from(case.enables | pointers), false);
    for (source, [l5, l4, l3, l2, l1, offset], flip, write) in &case.requests {
        let address = l5 << 48 | l4 << 39 | l3 << 30 | l2 << 21 | l1 << 12 | offset;
        // Bits 56:48 would be beyond the width of most domains.
        let address = if source % 2 == 0 {
            address & !(0x1ff << 48)
        } else {
            address
        };
        input.dma(*source, address ^ flip, *write);
    }
    for (source, address, data) in &case.messages {
        // Handles 0 to 31, either format, with and without subhandle.
        input.interrupt(*source, *address, *data);
    }
    input.0
}

proptest! {
    #[test]
    fn answers_are_those_of_the_model(case in case()) {
        vm_iommu_fuzz::vtd_unit(&encode(&case));
    }
}
