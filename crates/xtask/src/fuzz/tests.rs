use super::*;

#[test]
fn a_status_line_tells_how_far_it_is() {
    let mut log = log::Log::default();
    log.line("INFO: Seed: 1234");
    log.line("#2\tINITED cov: 40 ft: 41 corp: 1/1b exec/s: 0 rss: 30Mb");
    log.line("#65536\tpulse  cov: 1203 ft: 4077 corp: 310/25Kb lim: 652 exec/s: 3640 rss: 90Mb");
    log.line("# not a status line");
    log.line("stat::number_of_executed_units: 70001");
    let expected = Progress {
        executions: 70001,
        coverage: 1203,
        features: 4077,
        corpus: 310,
        findings: vec![],
    };
    assert_eq!(log.progress, expected);
    assert_eq!(log.last.len(), 5);
}

#[test]
fn a_finding_fails_the_target_and_is_named() {
    let mut log = log::Log::default();
    log.line("artifact_prefix='a/'; Test unit written to a/crash-01");
    let outcome = Outcome {
        target: "x".to_owned(),
        seconds: 1.0,
        progress: log.progress,
        ending: Ending::Exited(77),
    };
    assert!(!outcome.passed());
    assert_eq!(outcome.found(), "a/crash-01");
}

#[test]
fn an_end_without_a_finding_fails_unless_it_is_regular() {
    let mut outcome = Outcome {
        target: "x".to_owned(),
        seconds: 1.0,
        progress: Progress::default(),
        ending: Ending::Signalled(9),
    };
    assert!(!outcome.passed());
    outcome.ending = Ending::Exited(0);
    assert!(outcome.passed());
}

#[test]
fn a_log_is_kept_in_part() {
    let mut log = log::Log::default();
    for number in 0..1000 {
        log.line(&format!("{number} {}", "x".repeat(10_000)));
    }
    assert!(log.last.len() <= 100);
    assert!(log.last.iter().all(|line| line.len() <= 400));
    assert!(log.last.back().is_some_and(|line| line.starts_with("999 ")));
}

#[test]
fn times_are_bounded() {
    assert_eq!(duration(0.5).unwrap(), Duration::from_secs(30));
    for wrong in [0.0, -1.0, 1e9, f64::NAN, f64::INFINITY] {
        assert!(duration(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn every_entry_point_is_a_target() {
    let targets = targets().unwrap();
    assert!(targets.iter().any(|name| name == "vtd_unit"), "{targets:?}");
}

#[test]
fn the_host_is_found_in_what_the_compiler_says() {
    let text = "rustc 1.0.0\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.0.0\n";
    assert_eq!(
        build::host_of(text).as_deref(),
        Some("x86_64-unknown-linux-gnu")
    );
    assert_eq!(build::host_of(""), None);
}
