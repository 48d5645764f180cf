//! Makes cases of AMD v1 tables: every mode, skipped levels, every page size below 1 GiB; in most
//! cases something is then damaged.
//!
//! No table leads back to itself or to one above: QEMU 7.2 follows such tables without end.

use std::collections::BTreeMap;

use vm_iommu_spec::amd::HostPagingEntry as Entry;

use crate::random::Random;
use crate::side::layout;
use crate::vtd::case::{INTERRUPTS, Request, reach};

const PERMISSIONS: u64 = Entry::READ | Entry::WRITE;
/// The most requests of a case.
const REQUESTS: usize = 16;

/// One set of tables, and requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// Mode of the device table entry, the level of the topmost table.
    pub mode: u8,
    /// The tables' entries that are not 0, by address; the topmost table is at
    /// [`layout::TABLES`]'s start.
    pub words: BTreeMap<u64, u64>,
    /// The requests, in their order.
    pub requests: Vec<Request>,
    /// The outputs that any reading of an entry could lead to, by request.
    pub places: Vec<Vec<u64>>,
}

/// The case with this number.
pub fn case(seed: u64, number: u64) -> Case {
    let random = &mut Random::new(seed, 0xa3d, number);
    let mut case = Case {
        mode: 1 + random.below(6) as u8,
        ..Case::default()
    };
    let mut next = layout::TABLES.start + 0x1000;
    let mut paths = Vec::new();
    for _ in 0..=random.below(3) {
        paths.push(path(random, &mut case, &mut next));
    }
    if random.chance(60) {
        let (_, entries) = &paths[random.below(paths.len() as u64) as usize];
        let at = random.pick(entries);
        let entry = case.words.get(&at).copied().unwrap_or(0);
        let damaged = damage(random, entry);
        case.words.insert(at, damaged);
    }
    for _ in 0..REQUESTS {
        let (iova, entries) = &paths[random.below(paths.len() as u64) as usize];
        let wide = iova & !0xfff | random.below(512) << 3;
        let iova = match random.below(10) {
            // Beside the path, below or beyond the width.
            0 => wide ^ 1 << (12 + random.below(52)),
            _ => wide,
        };
        let request = Request {
            iova,
            write: random.chance(50),
        };
        let leaf = entries.last().and_then(|at| case.words.get(at));
        let places = places(iova, leaf.copied().unwrap_or(0));
        if places.iter().all(is_harmless) && !INTERRUPTS.contains(&iova) {
            case.requests.push(request);
            case.places.push(places);
        }
    }
    case
}

/// Whether there is RAM for data, or nothing.
pub fn is_harmless(place: &u64) -> bool {
    layout::DATA.contains(place) || *place >= 1 << 32
}

/// Adds a path: an address, and where its entries are.
fn path(random: &mut Random, case: &mut Case, next: &mut u64) -> (u64, Vec<u64>) {
    let mut iova = 0;
    let mut level = case.mode;
    let mut table = layout::TABLES.start;
    let mut entries = Vec::new();
    loop {
        // The topmost table of six levels has 128 entries: bits 63:57.
        let index = 1 + random.below(if level == 6 { 127 } else { 511 });
        let at = table + index * 8;
        iova |= index << reach(level);
        entries.push(at);
        if case.words.contains_key(&at) {
            // Another path's: leave it, and do not go on.
            return (iova, entries);
        }
        if level <= 3 && (level == 1 || random.chance(30)) {
            let page = page(random, level);
            case.words.insert(at, page);
            return (iova, entries);
        }
        // Sometimes levels are left out; their part of the address is 0.
        let below = match random.below(4) {
            0 => 1 + random.below(u64::from(level - 1)) as u8,
            _ => level - 1,
        };
        let entry = *next | u64::from(below) << Entry::NEXT_LEVEL_SHIFT | Entry::PRESENT;
        let permissions = permissions(random);
        case.words.insert(at, entry | permissions);
        table = *next;
        *next += 0x1000;
        level = below;
    }
}

fn permissions(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => Entry::READ,
        1 => Entry::WRITE,
        _ => PERMISSIONS,
    }
}

/// An entry that maps a page, of the size of its level or of an encoded one.
fn page(random: &mut Random, level: u8) -> u64 {
    let own = reach(level);
    let encoded = level < 3 && random.chance(50);
    let shift = match encoded {
        true => own + 1 + random.below(8) as u8,
        false => own,
    };
    let size = 1_u64 << shift;
    let first = layout::DATA.start.div_ceil(size);
    let frame = size * (first + random.below(layout::RAM / size - first));
    let address = match encoded {
        true => frame | ((size >> 1) - 1) & Entry::FRAME | 7 << Entry::NEXT_LEVEL_SHIFT,
        false => frame,
    };
    let flags = match random.below(4) {
        0 => Entry::FORCE_COHERENT,
        1 => 1 << 63 | 0x9 << 1,
        _ => 0,
    };
    address | permissions(random) | flags | Entry::PRESENT
}

fn damage(random: &mut Random, entry: u64) -> u64 {
    match random.below(9) {
        0 => entry & !Entry::PRESENT,
        1 => entry & !Entry::READ,
        2 => entry & !Entry::WRITE,
        3 => entry & !PERMISSIONS,
        4 => entry | 1 << (52 + random.below(7)),
        5 => entry & !Entry::FRAME | 0x2_0000_0000,
        6 => u64::MAX,
        // Another next level.
        7 => entry ^ (1 + random.below(7)) << Entry::NEXT_LEVEL_SHIFT,
        _ => 0,
    }
}

/// Where the page's entry could lead to, with any page size.
fn places(iova: u64, entry: u64) -> Vec<u64> {
    let frame = entry & Entry::FRAME;
    let mut places: Vec<u64> = (12..=30)
        .map(|shift| {
            let size = 1_u64 << shift;
            frame & !(size - 1) | iova & (size - 1)
        })
        // Lower ones would take an entry for a page many times its size.
        .filter(|place| *place >= layout::DATA.start)
        .collect();
    places.sort_unstable();
    places.dedup();
    places
}
