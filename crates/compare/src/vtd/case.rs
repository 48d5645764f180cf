//! What is put to both units: tables in memory, and the requests that meet them.

use std::collections::BTreeMap;

use serde::Serialize;
use vm_iommu_spec::vtd::SecondStageEntry as Entry;

use crate::side::{SOURCE, layout};

/// One request of the device for one word of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Request {
    /// The address, a multiple of 8.
    pub iova: u64,
    /// A write, otherwise a read.
    pub write: bool,
}

/// One set of tables, and requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// RTADDR_REG.
    pub root_address: u64,
    /// Invalidate through the queue, otherwise through registers.
    pub queued: bool,
    /// Everything in [`layout::STRUCTURES`] that is not 0, by address: root and context entries,
    /// second-stage tables.
    pub words: BTreeMap<u64, u64>,
    /// The requests, in their order.
    pub requests: Vec<Request>,
}

/// An entry that a walk without any check comes across.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The level, from 5 to 1.
    pub level: u8,
    /// Where the entry is.
    pub at: u64,
    /// The entry; `None` where the tables of the case do not reach: zeros if there is RAM.
    pub entry: Option<u64>,
}

/// Where the context entry of the device is, if the tables are where they belong.
pub const CONTEXT: u64 = layout::CONTEXTS + SOURCE as u64 * 16;

impl Case {
    /// The word at `address`.
    pub fn word(&self, address: u64) -> u64 {
        self.words.get(&address).copied().unwrap_or(0)
    }

    /// The context entry.
    pub fn context(&self) -> [u64; 2] {
        [self.word(CONTEXT), self.word(CONTEXT + 8)]
    }

    /// The entries that the address selects, whatever they hold: large pages are also followed
    /// as if they were tables.
    pub fn steps(&self, iova: u64) -> Vec<Step> {
        let [low, high] = self.context();
        let mut table = low & Entry::FRAME;
        let top = match high & 7 {
            width @ 1..=3 => width as u8 + 2,
            _ => return Vec::new(),
        };
        let mut steps = Vec::new();
        for level in (1..=top).rev() {
            let at = table + (iova >> reach(level) & 0x1ff) * 8;
            let entry = layout::STRUCTURES.contains(&at).then(|| self.word(at));
            steps.push(Step { level, at, entry });
            match entry {
                Some(entry) if entry & Entry::FRAME != 0 => table = entry & Entry::FRAME,
                _ => break,
            }
        }
        steps
    }

    /// Every place that a unit could mean, were it to take any of the entries for a page's, by
    /// any reading of a misaligned address; and the address itself, should it pass through.
    pub fn places(&self, iova: u64) -> Vec<u64> {
        let mut places = vec![iova];
        for Step { level, entry, .. } in self.steps(iova) {
            let size = 1_u64 << reach(level);
            let offset = iova & (size - 1);
            let Some(entry @ 1..) = entry else {
                continue;
            };
            let frame = entry & Entry::FRAME;
            for width in [52, 48, 39] {
                let frame = frame & ((1 << width) - 1);
                places.push(frame & !(size - 1) | offset);
                places.push(frame | offset);
                places.push(frame + offset);
            }
        }
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Whether the device may be asked for this: it would meet only RAM that both machines have,
    /// or nothing at all, or the interrupt range as an output address, and no table would be read
    /// from a device. A write must leave the structures alone.
    pub fn is_harmless(&self, request: Request) -> bool {
        let low = |place: u64| place < layout::STRUCTURES.start;
        let device = |place: u64| DEVICES.iter().any(|devices| devices.contains(&place));
        let structure =
            |place: u64| (layout::STRUCTURES.start..layout::DATA.start).contains(&place);
        let harmful = |place: u64| {
            low(place)
                || device(place) && !INTERRUPTS.contains(&place)
                || structure(place) && request.write
        };
        !INTERRUPTS.contains(&request.iova)
            && !self.places(request.iova).into_iter().any(harmful)
            && !self
                .steps(request.iova)
                .into_iter()
                .any(|step| low(step.at) || device(step.at))
    }

    /// The places of an address that are RAM for data.
    pub fn data_places(&self, iova: u64) -> impl Iterator<Item = u64> + use<> {
        self.places(iova)
            .into_iter()
            .filter(|place| layout::DATA.contains(place))
    }
}

/// The interrupt address range.
pub const INTERRUPTS: std::ops::Range<u64> = 0xfee0_0000..0xfef0_0000;

/// Where a PC has devices: configuration space, and what is below 4 GiB.
const DEVICES: [std::ops::Range<u64>; 2] = [0xb000_0000..0xc000_0000, 0xe000_0000..1 << 32];

/// The number of address bits below those that an entry of `level` selects by.
pub fn reach(level: u8) -> u8 {
    12 + 9 * (level - 1)
}
