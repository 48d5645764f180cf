//! Tests of the comparison itself; none needs QEMU.

use vm_iommu_spec::vtd::SecondStageEntry as Entry;
use vm_iommu_spec::vtd::registers::{Capability, ExtendedCapability};
use vm_iommu_vtd::VtdConfig;

use super::case::{CONTEXT, Case, Request};
use super::conduct::{Conductor, Observation, Recorded};
use super::generate;
use super::known::{DIFFERENCES, classify};
use super::run::Mismatch;
use super::session::{SESSIONS, Session};
use crate::ours::Ours;
use crate::side::{SOURCE, layout};

const TOP: u64 = layout::TABLES.start;

/// A unit like that of the first session.
fn ours() -> Conductor<Ours> {
    let config = VtdConfig {
        address_widths: vm_iommu_vtd::AddressWidths::BITS_39 | vm_iommu_vtd::AddressWidths::BITS_48,
        host_address_width: 48,
        fault_records: 1,
        snoop_control: false,
        interrupt_remapping: false,
        extended_interrupt_mode: false,
        ..VtdConfig::default()
    };
    let capability = Capability::from_bits(config.capability().into_bits());
    let extended = ExtendedCapability::from_bits(config.extended_capability().into_bits());
    Conductor::new(Ours::new(capability, extended).unwrap()).unwrap()
}

fn session() -> &'static Session {
    &SESSIONS[0]
}

/// A case of one read, with these words of a context entry and the top table's first entries.
fn case(context: [u64; 2], entries: &[(u64, u64)], iova: u64) -> Case {
    let mut case = Case {
        root_address: layout::ROOT,
        queued: true,
        ..Case::default()
    };
    case.words.insert(layout::ROOT, layout::CONTEXTS | 1);
    case.words.insert(CONTEXT, context[0]);
    case.words.insert(CONTEXT + 8, context[1]);
    case.words.extend(entries.iter().copied());
    case.requests.push(Request { iova, write: false });
    case
}

fn refusal(reason: u8, iova: u64) -> Observation {
    Observation {
        fault: Some(Recorded {
            reason,
            page: iova & !0xfff,
            source: SOURCE,
            read: true,
        }),
        read: None,
        written: Vec::new(),
    }
}

fn read(word: u64) -> Observation {
    Observation {
        fault: None,
        read: Some(word),
        written: Vec::new(),
    }
}

/// What the name of a known difference stands for: a case, our answer to its last request, QEMU's
/// answer.
fn examples() -> Vec<(&'static str, Case, Observation, Observation)> {
    let translated = [TOP | 1, 1 << 8 | 2];
    let narrow = [TOP | 1, 1 << 8 | 1];
    let next = TOP + 0x1000;
    let iova = 0x8000_2000;
    // At level 3, the entry of the third gigabyte.
    let third = TOP + 2 * 8;
    let mut mode = case(translated, &[], iova);
    mode.root_address |= 2 << 10;
    mode.queued = false;
    let mut wide = case(translated, &[], iova);
    wide.root_address |= 1 << 50;
    let mut cached = case(
        narrow,
        &[(third, 0x4000_0000 | Entry::WRITE | Entry::PAGE_SIZE)],
        iova,
    );
    cached.requests.insert(0, Request { iova, write: true });
    vec![
        (
            "permission-order",
            case(
                translated,
                &[(TOP, next | Entry::WRITE), (next + 16, 0x9000_0803)],
                iova,
            ),
            refusal(0x0c, iova),
            refusal(0x06, iova),
        ),
        (
            "entry-of-ones",
            case(narrow, &[(third, u64::MAX)], iova),
            refusal(0x0c, iova),
            refusal(0x03, iova),
        ),
        ("cached-permission", cached, refusal(0x06, iova), read(0)),
        (
            "interrupt-range-page",
            case(narrow, &[(third, 0xc000_0083)], iova),
            read(0),
            refusal(0x0e, iova),
        ),
        (
            "pass-through-width",
            case([2 << 2 | 1, 1], &[], iova),
            refusal(0x03, iova),
            read(0),
        ),
        (
            "pass-through-beyond",
            case([2 << 2 | 1, 2], &[], 1 << 48),
            refusal(0x04, 1 << 48),
            read(0),
        ),
        ("table-mode", mode, refusal(0x30, iova), refusal(0x06, iova)),
        (
            "root-address-width",
            wide,
            refusal(0x08, iova),
            refusal(0x06, iova),
        ),
    ]
}

#[test]
fn each_known_difference_has_an_example_that_our_unit_answers_as_it_says() {
    let examples = examples();
    let names: Vec<&str> = examples.iter().map(|(name, ..)| *name).collect();
    let known: Vec<&str> = DIFFERENCES.iter().map(|d| d.name).collect();
    assert_eq!(names, known);
    let mut conductor = ours();
    for (name, case, ours, _) in examples {
        let answers = conductor.conduct(&case).unwrap();
        assert_eq!(answers.last(), Some(&ours), "{name}");
    }
}

#[test]
fn each_example_is_classified_by_its_name_and_not_once_qemu_answers_otherwise() {
    for (name, case, ours, qemu) in examples() {
        let mut mismatch = Mismatch {
            session: session(),
            number: 0,
            request: case.requests[case.requests.len() - 1],
            index: case.requests.len() - 1,
            case,
            ours,
            qemu,
        };
        assert_eq!(classify(&mismatch).map(|d| d.name), Some(name));
        // Our unit lets something through that QEMU refuses for another reason.
        mismatch.ours = read(0x5a);
        mismatch.qemu = refusal(0x02, mismatch.request.iova);
        assert!(classify(&mismatch).is_none(), "{name}");
    }
}

#[test]
fn a_valid_mapping_that_one_side_refuses_is_explained_by_nothing() {
    let page = layout::DATA.start + 0x5000;
    let iova = 0x8020_3008;
    let tables = [
        (TOP + 2 * 8, (TOP + 0x1000) | 3),
        (TOP + 0x1000 + 8, (TOP + 0x2000) | 3),
        (TOP + 0x2000 + 3 * 8, page | 3),
    ];
    let case = case([TOP | 1, 1 << 8 | 1], &tables, iova);
    let answers = ours().conduct(&case).unwrap();
    assert_eq!(answers[0].fault, None);
    let place = answers[0].read.and_then(super::conduct::place_of);
    assert_eq!(place, Some(page + 8));
    for reason in 1..=0x0e {
        let mismatch = Mismatch {
            session: session(),
            number: 0,
            request: case.requests[0],
            index: 0,
            case: case.clone(),
            ours: answers[0].clone(),
            qemu: refusal(reason, iova),
        };
        assert!(classify(&mismatch).is_none(), "{reason}");
    }
}

#[test]
fn a_seed_makes_the_same_cases_and_another_seed_others() {
    for session in SESSIONS {
        for number in 0..20 {
            let first = generate::case(5, session, number);
            assert_eq!(first, generate::case(5, session, number));
            assert_ne!(first, generate::case(6, session, number));
        }
    }
}

#[test]
fn requests_stay_clear_of_what_the_machines_do_not_share() {
    for session in SESSIONS {
        for number in 0..300 {
            let case = generate::case(9, session, number);
            for request in &case.requests {
                assert!(case.is_harmless(*request));
                assert_eq!(request.iova % 8, 0);
            }
            let inside = |address: &u64| layout::STRUCTURES.contains(address);
            assert!(case.words.keys().all(inside));
        }
    }
}

#[test]
fn generated_cases_meet_every_reason_and_pass_every_page_size() {
    let mut conductor = ours();
    let mut reasons = std::collections::BTreeSet::new();
    let mut pages = std::collections::BTreeSet::new();
    for number in 0..1200 {
        let case = generate::case(3, session(), number);
        let answers = conductor.conduct(&case).unwrap();
        for (request, answer) in case.requests.iter().zip(answers) {
            match answer.fault {
                Some(fault) => {
                    reasons.insert(fault.reason);
                }
                None if answer.read.and_then(super::conduct::place_of).is_some() => {
                    let steps = case.steps(request.iova);
                    let large = |entry: u64| entry & Entry::PAGE_SIZE != 0;
                    let leaf = steps
                        .iter()
                        .find(|s| s.level == 1 || s.entry.is_some_and(large));
                    pages.extend(leaf.map(|step| step.level));
                }
                None => {}
            }
        }
    }
    // All that an untranslated request without PASID can meet.
    let all = (0x01..=0x0c).chain([0x0e, 0x30]).collect();
    assert_eq!(reasons, all);
    assert_eq!(pages, [1, 2, 3].into());
}
