//! Every error path: a fault at the N-th operation of the unit's driver, for every N until one
//! more changes nothing. An operation is a store, a register write, an allocation, or, on the
//! mock, a call.

use vm_iommufd::ownership::DefaultType;

use crate::events::{Event, Target};
use crate::machine::Machine;
use crate::mock::MockMachine;
use crate::unit::{AmdViKind, CACHES_ABSENT, USUAL, UnitMachine, VtdKind, WRITE_BUFFER};
use crate::world::World;

/// What leads to an event, and the event.
const STORIES: [(&str, &[Event], Event); 19] = [
    ("first claim", &[], Event::Claim(0, 1)),
    ("claim of a group", &[], Event::ClaimGroup(0, 1)),
    ("last release", &[Event::Claim(0, 1)], Event::Release(0)),
    (
        "release of a group",
        &[Event::ClaimGroup(0, 1)],
        Event::ReleaseGroup(0, 1),
    ),
    (
        "first attach",
        &[Event::Claim(0, 1)],
        Event::Attach(0, 1, None, Target::Table(0)),
    ),
    (
        "attach that joins",
        &[
            Event::Claim(0, 1),
            Event::Claim(2, 1),
            Event::Attach(0, 1, None, Target::Table(0)),
        ],
        Event::Attach(2, 1, None, Target::Table(0)),
    ),
    (
        "attach to an automatic table",
        &[Event::Claim(0, 1)],
        Event::Attach(0, 1, None, Target::Space(0)),
    ),
    (
        "attach of a PASID",
        &[Event::Claim(0, 1)],
        Event::Attach(0, 1, Some(1), Target::Table(0)),
    ),
    (
        "replace",
        ATTACHED,
        Event::Replace(0, 1, None, Target::Table(2)),
    ),
    (
        "replace by an automatic table",
        &[
            Event::Claim(0, 1),
            Event::Attach(0, 1, None, Target::Table(0)),
        ],
        Event::Replace(0, 1, None, Target::Space(0)),
    ),
    ("last detach", ATTACHED, Event::Detach(0, None)),
    ("close of a device file", ATTACHED, Event::Close(0)),
    ("hot add to an owned group", ATTACHED, Event::HotAdd(5)),
    ("hot add to a default domain", &[], Event::HotAdd(7)),
    ("removal", &[], Event::Remove(1)),
    ("surprise removal", ATTACHED, Event::Surprise(0)),
    ("begin of a reset", ATTACHED, Event::ResetBegin(2)),
    (
        "end of a reset",
        &[
            Event::Claim(0, 1),
            Event::Attach(0, 1, None, Target::Table(0)),
            Event::ResetBegin(2),
        ],
        Event::ResetEnd(2),
    ),
    (
        "change of the default domain",
        &[],
        Event::SetDefault(0, DefaultType::Identity),
    ),
];

const ATTACHED: &[Event] = &[
    Event::Claim(0, 1),
    Event::Attach(0, 1, None, Target::Table(0)),
    Event::Attach(0, 1, Some(3), Target::Table(2)),
];

/// More operations than any event has.
const ENOUGH: u64 = 200;

fn sweep<M: Machine + Send + Sync + 'static>() {
    let mut struck = 0;
    for (story, before, event) in STORIES {
        // Without a fault first: what is told must be possible.
        let begin = || {
            let mut world = World::new(M::new());
            for event in before {
                let _ = world.apply(*event, None);
            }
            world
        };
        let (expected, _) = begin().apply(event, None);
        let has_pasid = matches!(event, Event::Attach(_, _, Some(_), _));
        assert!(expected.is_ok() || has_pasid && !M::PASIDS, "{story}");
        for passing in 0.. {
            assert!(passing < ENOUGH, "{story} does not end");
            // The world holds the outcome against the model, and what failed against what was.
            let mut world = begin();
            let (outcome, strikes) = world.apply(event, Some(passing));
            if !strikes {
                assert_eq!(outcome, expected, "{story}");
                break;
            }
            struck += 1;
            if outcome != expected {
                // The fault is over: it goes well now.
                let (outcome, _) = world.apply(event, None);
                assert_eq!(outcome, expected, "{story} after a fault at {passing}");
            }
        }
    }
    assert!(struck >= STORIES.len() - 1, "only {struck} faults struck");
}

#[test]
fn a_fault_at_any_call_of_the_mock_leaves_nothing_behind() {
    sweep::<MockMachine>();
}

#[test]
fn a_fault_at_any_store_register_write_or_allocation_of_the_vtd_driver_leaves_nothing_behind() {
    sweep::<UnitMachine<VtdKind<USUAL>>>();
    sweep::<UnitMachine<VtdKind<CACHES_ABSENT>>>();
    sweep::<UnitMachine<VtdKind<WRITE_BUFFER>>>();
}

#[test]
fn a_fault_at_any_store_register_write_or_allocation_of_the_amdvi_driver_leaves_nothing_behind() {
    sweep::<UnitMachine<AmdViKind<USUAL>>>();
    sweep::<UnitMachine<AmdViKind<CACHES_ABSENT>>>();
}
