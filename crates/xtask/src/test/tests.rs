use super::guests::GUESTS;
use super::*;
use crate::kernel::Choice;

#[test]
fn an_error_is_a_failed_row() {
    let row = timed("x", || anyhow::bail!("no luck"));
    assert!(!row.passed);
    assert_eq!(row.found, "no luck");
    assert!(!conclude(&[row], true));
}

#[test]
fn nothing_run_is_not_a_pass() {
    assert!(!conclude(&[], false));
}

#[test]
fn the_guests_are_known_series() {
    for (kernel, cpus, ..) in GUESTS {
        assert!(matches!(kernel.parse(), Ok(Choice::Series(_))), "{kernel}");
        assert!(*cpus > 0);
    }
}

#[test]
fn the_last_line_counts() {
    assert_eq!(verdict(12, 0), "12 passed, 0 failed");
}

#[test]
fn a_failing_call_ends_its_step_and_leaves_its_output() {
    let logs = tempfile::tempdir().unwrap();
    let call = |argument| cargo::Run {
        arguments: vec![argument],
        flags: None,
    };
    let runs = [
        call("--version"),
        call("no-such-command"),
        call("--version"),
    ];
    let (passed, found) = cargo::run_all("a step", &runs, logs.path()).unwrap();
    assert!(!passed);
    assert!(found.contains("no-such-command"), "{found}");
    let log = |index| std::fs::read_to_string(logs.path().join(format!("a-step-{index}.log")));
    assert!(log(0).unwrap().starts_with("cargo "));
    assert!(log(1).unwrap().contains("no-such-command"));
    assert!(log(2).is_err());
}

#[test]
fn every_step_has_a_part() {
    for step in Step::value_variants() {
        let is_ours = matches!(
            step,
            Step::Instructions | Step::Selftest | Step::Demo | Step::Guests
        );
        assert_eq!(cargo::runs(*step).is_none(), is_ours, "{step:?}");
    }
}
