use std::time::Duration;

use super::report::{Verdict, conclude};
use super::*;

fn rate(instructions: u64, milliseconds: u64) -> Measurement {
    Measurement {
        instructions,
        elapsed: Duration::from_millis(milliseconds),
    }
}

#[test]
fn the_rate_tells_an_interpreter_from_a_processor() {
    for (measurement, per_second, kind) in [
        (rate(32_000, 20), 1_600_000, KvmKind::Interpreted),
        (rate(499_999, 10), 49_999_900, KvmKind::Interpreted),
        (rate(500_000, 10), 50_000_000, KvmKind::Hardware),
        (rate(40_000_000, 10), 4_000_000_000, KvmKind::Hardware),
    ] {
        assert_eq!(measurement.per_second(), per_second);
        assert_eq!(measurement.kind(), kind);
    }
}

#[test]
fn a_measurement_without_time_is_no_division_by_zero() {
    assert_eq!(rate(1000, 0).kind(), KvmKind::Hardware);
}

#[test]
fn without_kvm_the_report_says_how_to_mend_it_and_where_linux_runs() {
    let report = conclude(None, Err("/dev/kvm is missing; load it".to_owned()));
    assert_eq!(report.kvm, Verdict::Unusable);
    assert!(!report.is_usable());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["kvm"], "unusable");
    assert_eq!(json["problem"], "/dev/kvm is missing; load it");
    assert!(json.get("api_version").is_none());
    let text = report.to_string();
    assert!(
        text.starts_with("KVM: unusable\n     /dev/kvm is missing; load it\n"),
        "{text}"
    );
    assert!(
        text.contains("the demo                     nowhere"),
        "{text}"
    );
    assert!(
        text.contains("stock Linux guests           in the box   cargo xtask boot"),
        "{text}"
    );
}

#[test]
fn linux_runs_here_only_on_a_processor() {
    let places = |measurement| {
        let report = conclude(None, Ok(measurement));
        let places: Vec<_> = report.workloads.iter().map(|w| w.place).collect();
        (
            serde_json::to_value(&report).unwrap()["kvm"].clone(),
            places,
        )
    };
    use Place::{Box, Here};
    assert_eq!(
        places(rate(10_000_000, 1)),
        ("hardware".into(), vec![Here; 3])
    );
    assert_eq!(
        places(rate(1_000, 1)),
        ("interpreted".into(), vec![Here, Here, Box])
    );
}

/// Where there is a KVM, its loop runs and its rate makes sense; elsewhere the reason is given.
#[test]
fn kvm_is_measured_or_the_reason_is_told() {
    match measure() {
        Ok(measurement) => {
            let rate = measurement.per_second();
            assert!((100_000..100_000_000_000).contains(&rate), "{rate}");
            assert!(measurement.elapsed < Duration::from_secs(5));
            assert!(examine().api_version == Some(12));
        }
        Err(error) => {
            let report = examine();
            assert!(!report.is_usable(), "{error}");
            assert!(report.problem.is_some_and(|problem| !problem.is_empty()));
        }
    }
}
