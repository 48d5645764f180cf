use super::*;
use crate::job::Mark;
use crate::proc::Ending;

#[test]
fn the_median_is_of_the_sorted_values() {
    assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
    assert_eq!(median(vec![4.0, 1.0]), 2.5);
    assert!(median(vec![]).is_nan());
}

#[test]
fn the_kernels_start_is_the_guests_clock_taken_back() {
    let mark = |at_ms, key: &str, value: &str| Mark {
        at_ms,
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let result = JobResult {
        name: "x".to_owned(),
        ending: Ending::Exited(0),
        wall_ms: 9000.0,
        marks: vec![
            mark(5000.0, "userspace", "1"),
            mark(6000.0, "clock", "4.50"),
            mark(7000.0, "done", "1"),
        ],
    };
    let times = times(&result).unwrap();
    assert_eq!(times.kernel_ms, 1500.0);
    assert_eq!(times.userspace_ms, 5000.0);
    assert_eq!(times.poweroff_ms, 9000.0);
}
