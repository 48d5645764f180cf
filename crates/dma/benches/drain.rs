//! A million invalidations under devices that do not pause: whether a byte passes late, and what
//! a drain costs.
//!
//! Prints one line, or with `--json` one object. `--invalidations <n>` and `--devices <n>` set how
//! much is done.

mod stress;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1))
            .and_then(|value| value.parse().ok())
            .unwrap_or(default)
    };
    let devices = value("--devices", 2);
    let outcome = stress::run(value("--invalidations", 1_000_000), devices);
    let nanoseconds = |time: std::time::Duration| time.as_nanos();
    let (median, longest) = outcome.drain;
    let each = nanoseconds(outcome.elapsed) / u128::from(outcome.invalidations.max(1));
    if arguments.iter().any(|argument| argument == "--json") {
        println!(
            "{{\"work\":\"drain\",\"devices\":{devices},\"invalidations\":{},\"drains\":{},\
             \"accesses\":{},\"refused\":{},\"elapsed_ns\":{},\"invalidation_ns\":{each},\
             \"drain_median_ns\":{},\"drain_longest_ns\":{}}}",
            outcome.invalidations,
            outcome.drains,
            outcome.accesses,
            outcome.refused,
            nanoseconds(outcome.elapsed),
            nanoseconds(median),
            nanoseconds(longest),
        );
    } else {
        println!(
            "{} invalidations in {:.2?} ({each} ns each), {} drains (median {median:.2?}, longest \
             {longest:.2?}), {} accesses of {devices} devices ({} refused): no late byte",
            outcome.invalidations,
            outcome.elapsed,
            outcome.drains,
            outcome.accesses,
            outcome.refused,
        );
    }
}
