use super::*;

fn figures(text: &str) -> Figures {
    let mut figures = Figures::new();
    merge(&mut figures, text).unwrap();
    figures
}

#[test]
fn raw_is_the_faster_build_and_ours_the_plain_one() {
    let target = Target {
        work: "read",
        base: "raw",
        ours: "handle",
        limit: Limit::Ratio(0.8),
    };
    let plain = figures(r#"{"work":"read","raw":12.0,"handle":8.0,"IommuMemory":90.0}"#);
    let lto = figures(r#"{"work":"read","raw":10.0,"handle":5.0,"IommuMemory":80.0}"#);
    let line = line(&target, &plain, &lto).unwrap();
    assert_eq!(
        (line.base_ns, line.ours_ns, line.ours_lto_ns),
        (10.0, 8.0, 5.0)
    );
    assert_eq!((line.ratio, line.met), (0.8, true));
    assert_eq!(line.peer_ns, Some(90.0));
}

#[test]
fn a_ratio_above_its_target_is_missed() {
    let target = Target {
        work: "two",
        base: "raw",
        ours: "handle",
        limit: Limit::TimesThatOf(1.1, "one"),
    };
    let text = |two: f64| {
        format!(
            "{{\"work\":\"one\",\"raw\":10,\"handle\":5}}\n\
             {{\"work\":\"two\",\"raw\":10,\"handle\":{two}}}\n"
        )
    };
    let judge = |two| {
        let figures = figures(&text(two));
        line(&target, &figures, &figures).unwrap().met
    };
    assert!(judge(5.4));
    assert!(!judge(5.6));
}

#[test]
fn of_several_runs_the_least_figure_counts() {
    let mut seen = figures(r#"{"work":"x","raw":3.0,"handle":2.0}"#);
    merge(&mut seen, r#"{"work":"x","raw":4.0,"handle":1.0}"#).unwrap();
    assert_eq!(seen["x"]["raw"], 3.0);
    assert_eq!(seen["x"]["handle"], 1.0);
}

#[test]
fn a_missing_row_or_column_is_an_error() {
    let plain = figures(r#"{"work":"read 64 B, 64 pages","raw":1.0}"#);
    for target in TARGETS {
        assert!(line(target, &plain, &plain).is_err());
    }
    assert!(merge(&mut Figures::new(), "no row").is_err());
    assert!(merge(&mut Figures::new(), r#"{"raw":1.0}"#).is_err());
}
