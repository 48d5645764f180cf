//! The least time of each bench, which the machine's other work disturbed least, and how many
//! times that of another it is.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use criterion::Criterion;

/// Nanoseconds for one time, by the name of the bench.
static LEAST: Mutex<BTreeMap<&'static str, f64>> = Mutex::new(BTreeMap::new());

/// Measures `run`, which does the work so many times and says how long that took.
pub fn bench(c: &mut Criterion, name: &'static str, mut run: impl FnMut(u64) -> Duration) {
    c.bench_function(name, |b| {
        b.iter_custom(|times| {
            let time = run(times);
            let nanoseconds = time.as_secs_f64() * 1e9 / times as f64;
            let mut least = LEAST.lock().unwrap_or_else(PoisonError::into_inner);
            let known = least.entry(name).or_insert(nanoseconds);
            *known = known.min(nanoseconds);
            time
        })
    });
}

/// What a figure is held against.
pub enum Base {
    /// Another bench of this run.
    Bench(&'static str),
    /// A figure that others published, in nanoseconds, and what it is of.
    Published(&'static str, f64),
}

/// Prints ratios of what was measured; those of benches that did not run are left out.
pub fn print(ratios: &[(&'static str, Base)]) {
    let least = LEAST.lock().unwrap_or_else(PoisonError::into_inner);
    println!("\nleast times of this run:");
    for (name, base) in ratios {
        let (base, of) = match base {
            Base::Bench(base) => (least.get(base).copied(), base),
            Base::Published(of, nanoseconds) => (Some(*nanoseconds), of),
        };
        if let (Some(time), Some(base)) = (least.get(name), base) {
            let ratio = time / base;
            println!("  {name}: {time:.1} ns, {ratio:.2} times {of} ({base:.1} ns)");
        }
    }
}
