//! Runs sessions, compares the answers, and classifies where they differ.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::case::{CONTEXT, Case, Request, Step};
use super::conduct::{Conductor, Observation};
use super::generate;
use super::known::{self, Difference};
use super::session::{SESSIONS, Session};
use crate::ours::Ours;
use crate::qemu::Qemu;

/// The most unexplained differences that are kept to be shown.
const SHOWN: usize = 20;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long, over all sessions.
    pub time: Duration,
    /// Where the random choices come from.
    pub seed: u64,
    /// Only the session with this name.
    pub session: Option<String>,
    /// Only the case with this number.
    pub case: Option<u64>,
}

/// A request that was answered differently.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The session.
    pub session: &'static Session,
    /// The number of the case in it.
    pub number: u64,
    /// The case.
    pub case: Case,
    /// The request.
    pub request: Request,
    /// Its place among the requests of the case.
    pub index: usize,
    /// What our unit did.
    pub ours: Observation,
    /// What QEMU's did.
    pub qemu: Observation,
}

/// What one session came to.
#[derive(Clone, Debug, Serialize)]
pub struct SessionReport {
    /// Its name.
    pub name: &'static str,
    /// QEMU's properties.
    pub properties: &'static str,
    /// Cases that were run.
    pub cases: u64,
    /// Requests in them.
    pub requests: u64,
    /// Requests that our unit translated, or passed through.
    pub passed: u64,
    /// Requests that our unit refused, by the reason's code.
    pub refused: std::collections::BTreeMap<u8, u64>,
    /// Requests that were answered differently.
    pub mismatches: u64,
}

/// How often a known difference was met.
#[derive(Clone, Debug, Serialize)]
pub struct KnownReport {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// How often.
    pub count: u64,
}

/// An unexplained difference, with all that is needed to see it again.
#[derive(Clone, Debug, Serialize)]
pub struct Unknown {
    /// The session.
    pub session: &'static str,
    /// The number of the case.
    pub case: u64,
    /// RTADDR_REG.
    pub root_address: u64,
    /// The root entry's words.
    pub root: [u64; 2],
    /// The context entry's words.
    pub context: [u64; 2],
    /// The entries that the address selects.
    pub steps: Vec<Step>,
    /// The request.
    pub request: Request,
    /// What our unit did.
    pub ours: Observation,
    /// What QEMU's did.
    pub qemu: Observation,
}

/// What all came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// By session.
    pub sessions: Vec<SessionReport>,
    /// By known difference, in the order of the table.
    pub known: Vec<KnownReport>,
    /// The number of unexplained differences.
    pub unknown: u64,
    /// The first of them.
    pub examples: Vec<Unknown>,
}

/// Runs what was asked for.
///
/// # Errors
/// QEMU cannot be run, or a unit does not follow its driver.
pub fn run(options: &Options) -> Result<Report> {
    let chosen: Vec<&'static Session> = SESSIONS
        .iter()
        .filter(|session| {
            let wanted = options.session.as_deref();
            wanted.is_none_or(|name| name == session.name)
        })
        .collect();
    anyhow::ensure!(
        !chosen.is_empty(),
        "there is no such session; there are {} and amd-v1",
        SESSIONS
            .iter()
            .map(|s| s.name)
            .collect::<Vec<_>>()
            .join(", ")
    );
    let mut report = Report {
        seed: options.seed,
        sessions: Vec::new(),
        known: known::DIFFERENCES
            .iter()
            .map(|Difference { name, title, .. }| KnownReport {
                name,
                title,
                count: 0,
            })
            .collect(),
        unknown: 0,
        examples: Vec::new(),
    };
    let folder = tempfile::tempdir()?;
    let time = options.time / chosen.len() as u32;
    for session in chosen {
        run_session(options, session, time, folder.path(), &mut report)
            .with_context(|| format!("session {}", session.name))?;
    }
    Ok(report)
}

fn run_session(
    options: &Options,
    session: &'static Session,
    time: Duration,
    folder: &Path,
    report: &mut Report,
) -> Result<()> {
    let mut qemu = Conductor::new(Qemu::start(session.properties, folder)?)?;
    let (capability, extended) = qemu.capabilities();
    let mut ours = Conductor::new(Ours::new(capability, extended)?)?;
    let mut summary = SessionReport {
        name: session.name,
        properties: session.properties,
        cases: 0,
        requests: 0,
        passed: 0,
        refused: Default::default(),
        mismatches: 0,
    };
    let end = Instant::now() + time;
    let numbers = match options.case {
        Some(number) => number..=number,
        None => 0..=u64::MAX,
    };
    for number in numbers {
        if Instant::now() >= end && summary.cases != 0 {
            break;
        }
        let case = generate::case(options.seed, session, number);
        let answers = || format!("case {number}");
        let theirs = qemu.conduct(&case).with_context(answers)?;
        let own = ours.conduct(&case).with_context(answers)?;
        summary.cases += 1;
        let requests = case.requests.iter().enumerate();
        for (((index, request), ours), qemu) in requests.zip(own).zip(theirs) {
            summary.requests += 1;
            match ours.fault {
                None => summary.passed += 1,
                Some(fault) => *summary.refused.entry(fault.reason).or_default() += 1,
            }
            if ours == qemu {
                continue;
            }
            summary.mismatches += 1;
            let mismatch = Mismatch {
                session,
                number,
                case: case.clone(),
                request: *request,
                index,
                ours,
                qemu,
            };
            note(report, mismatch);
        }
    }
    report.sessions.push(summary);
    Ok(())
}

/// Counts a mismatch where it belongs.
fn note(report: &mut Report, mismatch: Mismatch) {
    match known::classify(&mismatch) {
        Some(difference) => {
            let entry = report.known.iter_mut().find(|k| k.name == difference.name);
            if let Some(entry) = entry {
                entry.count += 1;
            }
        }
        None => {
            report.unknown += 1;
            // One of each kind tells more than many of one.
            let reasons = |ours: &Observation, qemu: &Observation| {
                [ours, qemu].map(|side| side.fault.map(|fault| fault.reason))
            };
            let kind = reasons(&mismatch.ours, &mismatch.qemu);
            let seen = report
                .examples
                .iter()
                .any(|example| reasons(&example.ours, &example.qemu) == kind);
            if !seen && report.examples.len() < SHOWN {
                report.examples.push(Unknown::from(mismatch));
            }
        }
    }
}

impl From<Mismatch> for Unknown {
    fn from(mismatch: Mismatch) -> Self {
        let case = &mismatch.case;
        let root = crate::side::layout::ROOT;
        Self {
            session: mismatch.session.name,
            case: mismatch.number,
            root_address: case.root_address,
            root: [case.word(root), case.word(root + 8)],
            context: [case.word(CONTEXT), case.word(CONTEXT + 8)],
            steps: case.steps(mismatch.request.iova),
            request: mismatch.request,
            ours: mismatch.ours,
            qemu: mismatch.qemu,
        }
    }
}
