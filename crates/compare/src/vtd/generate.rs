//! Makes cases: a few paths through tables, most of them valid; in most cases something is then
//! damaged.

use vm_iommu_spec::vtd::SecondStageEntry as Entry;

use super::case::{CONTEXT, Case, INTERRUPTS, Request, reach};
use super::session::Session;
use crate::random::Random;
use crate::side::{SLOTS, layout};

/// The most requests of a case; each has a slot of the device's.
const REQUESTS: usize = 24;
const _: () = assert!(REQUESTS <= SLOTS);

/// TTM of RTADDR_REG.
const TABLE_MODE: u64 = 3 << 10;

/// A way through the tables: what of the address is fixed, and where its entries are.
#[derive(Clone, Debug)]
struct Path {
    iova: u64,
    /// The level whose entry maps the page.
    leaf: u8,
    /// The entry at each level, from the topmost.
    entries: Vec<(u8, u64)>,
}

struct Maker<'a> {
    random: &'a mut Random,
    session: &'a Session,
    case: Case,
    next_table: u64,
    top: u8,
    paths: Vec<Path>,
}

/// The case of a session with this number.
pub fn case(seed: u64, session: &Session, number: u64) -> Case {
    let mut random = Random::new(seed, session.stream, number);
    let top = random.pick(session.levels);
    let mut maker = Maker {
        random: &mut random,
        session,
        case: Case::default(),
        next_table: layout::TABLES.start,
        top,
        paths: Vec::new(),
    };
    maker.roots();
    for _ in 0..=maker.random.below(4) {
        maker.path();
    }
    if maker.random.chance(70) {
        for _ in 0..=maker.random.below(2) {
            maker.damage();
        }
    }
    maker.requests();
    // A reserved table mode stops the queue, which is no matter of tables.
    let legacy = maker.case.root_address & TABLE_MODE == 0;
    maker.case.queued = maker.random.chance(50) && legacy;
    maker.case.words.retain(|_, word| *word != 0);
    maker.case
}

impl Maker<'_> {
    fn table(&mut self) -> u64 {
        let table = self.next_table;
        self.next_table += 0x1000;
        table
    }

    /// Root and context entry, valid.
    fn roots(&mut self) {
        let top = self.table();
        let domain = self.random.below(1 << 16);
        let (kind, levels) = match self.random.below(20) {
            0 => (2, (self.session.width - 12) / 9),
            1 => (2, self.top),
            2..6 if self.session.device_tlb => (1, self.top),
            _ => (0, self.top),
        };
        let width = u64::from(levels - 2);
        self.case.root_address = layout::ROOT;
        self.case.words.insert(layout::ROOT, layout::CONTEXTS | 1);
        self.case.words.insert(CONTEXT, top | kind << 2 | 1);
        self.case.words.insert(
            CONTEXT + 8,
            domain << 8 | self.random.below(16) << 3 | width,
        );
    }

    /// Adds a path, with entries of earlier paths where it shares them.
    fn path(&mut self) {
        let mut iova = 0;
        for level in 1..=self.top {
            let index = match self.random.below(4) {
                0 => 0,
                1 => 511,
                _ => self.random.below(512),
            };
            iova |= index << reach(level);
        }
        if let Some(other) = self.paths.first()
            && self.random.chance(60)
        {
            // The upper part of an earlier one.
            let from = reach(1 + self.random.below(u64::from(self.top)) as u8);
            iova = other.iova >> from << from | iova & ((1 << from) - 1);
        }
        let leaf = match self.random.below(20) {
            0..5 => 2,
            5..8 => 3,
            _ => 1,
        };
        let mut table = layout::TABLES.start;
        let mut entries = Vec::new();
        for level in (leaf..=self.top).rev() {
            let at = table + (iova >> reach(level) & 0x1ff) * 8;
            entries.push((level, at));
            let present = self.case.words.get(&at).copied();
            if level == leaf {
                if present.is_none() {
                    let page = self.page(level);
                    self.case.words.insert(at, page);
                }
                break;
            }
            let entry = match present {
                Some(entry) if entry & Entry::PAGE_SIZE != 0 => break,
                Some(entry) => entry,
                None => {
                    let entry = self.table() | self.permissions() | self.ignored();
                    self.case.words.insert(at, entry);
                    entry
                }
            };
            table = entry & Entry::FRAME;
        }
        self.paths.push(Path {
            iova,
            leaf,
            entries,
        });
    }

    /// An entry that maps a page.
    fn page(&mut self, level: u8) -> u64 {
        let size = 1_u64 << reach(level);
        let choices = (layout::DATA.end - 1) / size;
        // The first page of each size holds the structures.
        let frame = match choices {
            0 => layout::RAM,
            _ => size * (1 + self.random.below(choices)),
        };
        let mut entry = frame.max(layout::DATA.start) | self.permissions() | self.ignored();
        if level > 1 {
            entry |= Entry::PAGE_SIZE;
        }
        if self.session.snoop_control && self.random.chance(30) {
            entry |= Entry::SNOOP;
        }
        entry
    }

    fn permissions(&mut self) -> u64 {
        match self.random.below(20) {
            0 => Entry::READ,
            1 => Entry::WRITE,
            2 => Entry::READ | Entry::WRITE | Entry::EXECUTE,
            _ => Entry::READ | Entry::WRITE,
        }
    }

    /// Bits that make no difference, in some entries.
    fn ignored(&mut self) -> u64 {
        if self.random.chance(20) {
            let anywhere = Entry::IGNORED | Entry::MEMORY_TYPE | Entry::ACCESSED | Entry::DIRTY;
            self.random.word() & anywhere
        } else {
            0
        }
    }

    /// Changes something that is on a path.
    fn damage(&mut self) {
        let path = self.random.below(self.paths.len() as u64) as usize;
        let path = self.paths[path].clone();
        let (level, at) = self.random.pick(&path.entries);
        let entry = self.case.word(at);
        let frame = entry & Entry::FRAME;
        let outside = match self.random.below(4) {
            0 => 0x9000_0000,
            1 => 0x2_0000_0000,
            2 => 1 << (self.session.width - 1),
            _ => 1 << self.session.width.min(51),
        };
        let damaged = match self.random.below(16) {
            0..4 => entry ^ 1 << self.random.below(64),
            4 => u64::MAX,
            5 => entry & !Entry::FRAME | outside,
            // To itself.
            6 => entry & !Entry::FRAME | at & !0xfff,
            7 => entry ^ Entry::PAGE_SIZE,
            8 => entry | 1 << (12 + self.random.below(18)),
            9 => entry & !(Entry::READ | Entry::WRITE),
            10 => entry & !Entry::PERMISSIONS | Entry::EXECUTE,
            11 => entry & !self.random.pick(&[Entry::READ, Entry::WRITE]),
            12 => entry ^ self.random.pick(&[Entry::SNOOP, Entry::TRANSIENT]),
            13 if level == path.leaf => {
                let size = 1_u64 << reach(level);
                entry & !Entry::FRAME | INTERRUPTS.start & !(size - 1)
            }
            13 => entry & !Entry::FRAME | self.random.word() & Entry::FRAME,
            _ => {
                self.damage_roots();
                return;
            }
        };
        // A page in the lowest memory would be refused as a request, not tried.
        let damaged = if damaged & Entry::FRAME == 0 {
            damaged | frame
        } else {
            damaged
        };
        self.case.words.insert(at, damaged);
    }

    /// Changes a bit of what leads to the tables.
    fn damage_roots(&mut self) {
        let at = match self.random.below(10) {
            0..2 => {
                // Not below the tables: where the root table would be misread as empty.
                let bit = self.random.pick(&[10, 11, 31, 32, 40, 47, 50, 63]);
                self.case.root_address ^= 1 << bit;
                return;
            }
            2..4 => layout::ROOT,
            4 => layout::ROOT + 8,
            5..8 => CONTEXT,
            _ => CONTEXT + 8,
        };
        // The lowest bit makes the entry absent.
        let bit = match self.random.below(5) {
            0 => 1,
            _ => 1 << self.random.below(64),
        };
        *self.case.words.entry(at).or_default() ^= bit;
    }

    /// Requests on and beside the paths, and at the edges.
    fn requests(&mut self) {
        for _ in 0..REQUESTS {
            if let Some(request) = (0..8).find_map(|_| self.harmless_request()) {
                self.case.requests.push(request);
            }
        }
    }

    /// A request, as a read if it would be no harmless write; `None` if it would not even be a
    /// harmless read.
    fn harmless_request(&mut self) -> Option<Request> {
        let request = self.request();
        let read = Request {
            write: false,
            ..request
        };
        [request, read]
            .into_iter()
            .find(|request| self.case.is_harmless(*request))
    }

    fn request(&mut self) -> Request {
        let path = self.random.below(self.paths.len() as u64) as usize;
        let path = &self.paths[path];
        let inside = (1_u64 << reach(path.leaf)) - 8;
        let iova = path.iova & !(inside | 7) | self.random.word() & inside;
        let width = self.session.width;
        let iova = match self.random.below(20) {
            0 => iova ^ 1 << self.random.below(61) << 3,
            1 => iova | 1 << self.random.pick(&[width, width - 9, 57, 63]),
            2 => self.random.pick(&[
                (1 << width) - 8,
                1 << width,
                (1 << 39) - 8,
                1 << 39,
                (1 << 57) - 8,
                // The last page of all but one: QEMU's regions end a byte below 2^64.
                u64::MAX - 0x1fff,
            ]),
            3 => self.random.word() & ((1 << width) - 8),
            _ => iova,
        };
        Request {
            iova,
            write: self.random.chance(50),
        }
    }
}
