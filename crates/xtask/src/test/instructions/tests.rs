use super::*;

fn counts(counts: &[(&str, u64)]) -> Counts {
    let counts = counts.iter();
    counts.map(|(name, n)| ((*name).to_owned(), *n)).collect()
}

#[test]
fn the_total_of_a_profile_is_read() {
    let profile =
        "# callgrind format\nevents: Ir\nsummary: 12\n\nfn=(0)\n0 12\n\ntotals: 4678574\n";
    assert_eq!(total(profile), Some(4_678_574));
    assert_eq!(total("events: Ir\n"), None);
    assert_eq!(total("totals: many\n"), None);
}

#[test]
fn counts_within_the_tolerance_pass() {
    let held = counts(&[("a", 100), ("b", 1000)]);
    let found = counts(&[("a", 102), ("b", 980)]);
    assert_eq!(complaints(&held, &found), [""; 0]);
}

#[test]
fn counts_that_rose_or_fell_are_named() {
    let held = counts(&[("a", 100), ("b", 1000)]);
    let found = counts(&[("a", 103), ("b", 979)]);
    let expected = ["a: 103 instead of 100", "b: 979 instead of 1000"];
    assert_eq!(complaints(&held, &found), expected);
}

#[test]
fn work_on_one_side_only_is_named() {
    let (held, found) = (counts(&[("a", 1)]), counts(&[("b", 2)]));
    let expected = ["b: 2, no count is committed", "a: was not counted"];
    assert_eq!(complaints(&held, &found), expected);
}

#[test]
fn the_committed_counts_can_be_read() {
    assert!(!read().unwrap().is_empty());
}

#[test]
fn the_table_shows_the_change() {
    let (held, found) = (counts(&[("a", 200)]), counts(&[("a", 210), ("b", 1)]));
    let text = render(&held, &found);
    assert!(text.contains("+5.0 %"), "{text}");
    assert!(text.contains("none"), "{text}");
}
