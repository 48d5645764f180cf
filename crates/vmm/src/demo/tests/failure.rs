use std::time::Duration;

use vm_iommu_vtd::VtdConfig;

use super::stage::Stage;
use crate::demo::Failure;
use crate::demo::engine::{Operation, State};
use crate::demo::story::Step;
use crate::layout;
use crate::machine::Ending;

const LIMIT: Duration = Duration::from_secs(20);
const EXITED: Ending = Ending::ExitDevice { value: 3 };

#[test]
fn a_failure_names_the_step_and_what_was_awaited() {
    let story = Stage::new(VtdConfig::default(), true).story().unwrap();
    // The wait for QIES.
    let index = story
        .program
        .iter()
        .position(|operation| {
            matches!(operation, Operation::Wait { address, mask, .. }
                if *address == layout::VTD + 0x1c && *mask == 1 << 26)
        })
        .unwrap() as u64;
    let state = State::Failed { index, value: 0x7 };
    let failure = Failure::new(&story, state, &EXITED, LIMIT);
    assert_eq!(failure.step, Some(Step::Translating));
    assert_eq!(
        failure.to_string(),
        "when the guest set up the unit: it waited for the unit's register 0x1c to read \
         0x4000000 under mask 0x4000000, but last read 0x7"
    );
    let failure = Failure::new(&story, State::Running(index), &Ending::Interrupted, LIMIT);
    assert_eq!(
        failure.to_string(),
        "when the guest set up the unit: it did not go on within 20 s: it waited for the unit's \
         register 0x1c to read 0x4000000 under mask 0x4000000"
    );
}

#[test]
fn other_ends_are_told_as_they_are() {
    let story = Stage::new(VtdConfig::default(), true).story().unwrap();
    let last = story.program.len() as u64;
    let told = |state, ending: &Ending| Failure::new(&story, state, ending, LIMIT).to_string();
    let exception = State::Exception {
        index: 0,
        vector: 14,
        frame: [2, 0x10_0000],
        address: 0xdead_0000,
    };
    assert_eq!(
        told(exception, &EXITED),
        "when the guest looked for the unit and the device: it took exception 14 (stack 0x2 \
         0x100000, cr2 0xdead0000)"
    );
    let beyond = State::Failed {
        index: last,
        value: 0,
    };
    assert_eq!(told(beyond, &EXITED), "it ran past its program");
    assert_eq!(
        told(State::Running(0), &Ending::TripleFault),
        "when the guest looked for the unit and the device: the guest shut down with a triple fault"
    );
}
