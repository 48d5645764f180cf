//! Runs the cases on QEMU's unit and on our walker.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use vm_iommu_dma::GuestRam;
use vm_iommu_pagetable::{AmdV1, AmdV1Config, TableMemory, WalkFault, Walker};
use vm_iommu_spec::{Access, Iova, PhysAddr};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::generate::{self, Case};
use super::known::{self, DIFFERENCES};
use crate::qemu::Qemu;
use crate::qtest::QtestError;
use crate::side::{SLOTS, SOURCE, Side, layout};
use crate::vtd::case::Request;
use crate::vtd::conduct::{pattern, patterns, place_of, tag};

/// The session's name.
pub const NAME: &str = "amd-v1";

/// Device Table Base, its Size field in bits 8:0 for 1 page.
const DEVICE_TABLE: u16 = 0x00;
const COMMAND_BUFFER: u16 = 0x08;
const CONTROL: u16 = 0x18;
const COMMAND_TAIL: u16 = 0x2008;
/// IommuEn and CmdBufEn.
const ENABLE: u64 = 1 | 1 << 12;
/// ComLen: 256 commands.
const COMMANDS: u64 = 8 << 56;
/// The first word of INVALIDATE_IOMMU_ALL.
const INVALIDATE_ALL: u64 = 8 << 60;

/// An unexplained difference.
#[derive(Clone, Debug, Serialize)]
pub struct Unknown {
    /// The number of the case.
    pub case: u64,
    /// Mode.
    pub mode: u8,
    /// The entries.
    pub words: std::collections::BTreeMap<u64, u64>,
    /// The request.
    pub request: Request,
    /// The address that our walker finds, or why it refuses.
    pub ours: String,
    /// The address that QEMU reached.
    pub qemu: Option<u64>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Cases that were run.
    pub cases: u64,
    /// Requests in them.
    pub requests: u64,
    /// Requests that both let pass, to the same address.
    pub passed: u64,
    /// How often each known difference was met.
    pub known: Vec<(&'static str, &'static str, u64)>,
    /// The number of unexplained differences.
    pub unknown: u64,
    /// The first of them.
    pub examples: Vec<Unknown>,
}

/// Runs cases for a while, or the one with this number.
///
/// # Errors
/// QEMU cannot be run.
pub fn run(seed: u64, time: Duration, only: Option<u64>) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let mut qemu = Theirs::start(folder.path())?;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), layout::DATA.start as usize)])?;
    let ram = GuestRam::new(memory);
    let mut report = Report {
        cases: 0,
        requests: 0,
        passed: 0,
        known: DIFFERENCES.iter().map(|d| (d.name, d.title, 0)).collect(),
        unknown: 0,
        examples: Vec::new(),
    };
    let end = Instant::now() + time;
    let mut number = only.unwrap_or(0);
    loop {
        let case = with_outputs(&ram, generate::case(seed, number));
        let theirs = qemu.conduct(&case)?;
        report.cases += 1;
        for (request, qemu) in case.requests.iter().zip(theirs) {
            report.requests += 1;
            let ours = walk(&ram, &case, *request);
            note(&mut report, &case, number, *request, ours, qemu);
        }
        if only.is_some() || Instant::now() >= end {
            return Ok(report);
        }
        number += 1;
    }
}

/// The case with the outputs that our walker finds among the places to be watched, and without
/// the requests that reach what is no data.
fn with_outputs(ram: &GuestRam, mut case: Case) -> Case {
    let answers: Vec<_> = case
        .requests
        .iter()
        .map(|request| translate(ram, &case, *request))
        .collect();
    let all = case.requests.drain(..).zip(case.places.drain(..));
    let (requests, places) = all
        .zip(answers)
        .filter_map(|((request, mut places), answer)| {
            if let Ok(output) = answer {
                if !generate::is_harmless(&output) {
                    return None;
                }
                places.push(output);
                places.sort_unstable();
                places.dedup();
            }
            Some((request, places))
        })
        .unzip();
    Case {
        requests,
        places,
        ..case
    }
}

/// What our walker says: where there is RAM for data it is reached, elsewhere nothing answers.
pub fn walk(ram: &GuestRam, case: &Case, request: Request) -> Result<Option<u64>, WalkFault> {
    let output = translate(ram, case, request)?;
    Ok(Some(output).filter(|place| layout::DATA.contains(place)))
}

fn translate(ram: &GuestRam, case: &Case, request: Request) -> Result<u64, WalkFault> {
    for address in (layout::TABLES.start..layout::TABLES.end).step_by(8) {
        let word = case.words.get(&address).copied().unwrap_or(0);
        // All of the tables is RAM.
        let _ = ram.store(PhysAddr(address), word);
    }
    let format = AmdV1::new(AmdV1Config::new(case.mode));
    let access = if request.write {
        Access::WRITE
    } else {
        Access::READ
    };
    let root = PhysAddr(layout::TABLES.start);
    let walk = format.walk(ram, root, Iova(request.iova), access)?;
    Ok(walk.output.0)
}

fn note(
    report: &mut Report,
    case: &Case,
    number: u64,
    request: Request,
    ours: Result<Option<u64>, WalkFault>,
    qemu: Option<u64>,
) {
    let known = match (&ours, qemu) {
        (Ok(place), qemu) if *place == qemu => {
            report.passed += u64::from(qemu.is_some());
            return;
        }
        (Err(_), None) => return,
        (Err(fault), Some(_)) => known::classify(fault),
        _ => None,
    };
    match known {
        Some(known) => {
            let entry = report
                .known
                .iter_mut()
                .find(|(name, ..)| *name == known.name);
            if let Some((_, _, count)) = entry {
                *count += 1;
            }
        }
        None => {
            report.unknown += 1;
            if report.examples.len() < 5 {
                report.examples.push(Unknown {
                    case: number,
                    mode: case.mode,
                    words: case.words.clone(),
                    request,
                    ours: format!("{:x?}", ours.map_err(|fault| fault.reason)),
                    qemu,
                });
            }
        }
    }
}

/// QEMU's unit.
struct Theirs {
    side: Qemu,
    tail: u64,
}

impl Theirs {
    fn start(folder: &Path) -> Result<Self, QtestError> {
        let mut side = Qemu::start_amd(folder)?;
        side.write64(COMMAND_BUFFER, layout::QUEUE | COMMANDS)?;
        side.write64(DEVICE_TABLE, layout::ROOT)?;
        Ok(Self { side, tail: 0 })
    }

    /// Where each request arrived.
    fn conduct(&mut self, case: &Case) -> Result<Vec<Option<u64>>, QtestError> {
        let side = &mut self.side;
        let length = layout::STRUCTURES.end - layout::STRUCTURES.start;
        side.clear(layout::STRUCTURES.start, length)?;
        for (address, word) in &case.words {
            side.store(*address, *word)?;
        }
        // V, TV, Mode, the tables, IR and IW; domain 1.
        let entry = layout::ROOT + u64::from(SOURCE) * 32;
        let low = layout::TABLES.start | u64::from(case.mode) << 9 | 3 << 61 | 3;
        side.store(entry, low)?;
        side.store(entry + 8, 1)?;
        side.set_slots(&patterns())?;
        side.write64(CONTROL, ENABLE)?;
        side.store(layout::QUEUE + self.tail, INVALIDATE_ALL)?;
        self.tail = (self.tail + 16) % 0x1000;
        side.write64(COMMAND_TAIL, self.tail)?;
        let mut arrived = Vec::new();
        for (slot, (request, places)) in case.requests.iter().zip(&case.places).enumerate() {
            let slot = slot as u16;
            let data = |place: &&u64| layout::DATA.contains(place);
            let places: Vec<u64> = places.iter().filter(data).copied().collect();
            for place in &places {
                side.store(*place, tag(*place))?;
            }
            if request.write {
                side.dma_write(request.iova, slot)?;
            } else {
                side.dma_read(request.iova, slot)?;
            }
            let words = side.load_all(&places)?;
            let reached = places
                .iter()
                .zip(words)
                .find(|(_, word)| *word == pattern(slot));
            arrived.push(reached.map(|(place, _)| *place));
            for place in &places {
                side.store(*place, 0)?;
            }
        }
        side.write64(CONTROL, 0)?;
        let slots: [u64; SLOTS] = side.slots()?;
        for ((arrived, request), word) in arrived.iter_mut().zip(&case.requests).zip(slots) {
            if !request.write {
                *arrived = place_of(word);
            }
        }
        Ok(arrived)
    }
}
