use super::*;

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
    for (kernel, cpus) in GUESTS {
        assert!(matches!(kernel.parse(), Ok(Choice::Series(_))), "{kernel}");
        assert!(*cpus > 0);
    }
}
