//! What an access costs, beside the same access without any IOMMU, all in one run.
//!
//! `cargo xtask bench dma` builds this with and without link-time optimisation and prints the
//! table; run alone, it prints its own. `--json` prints one object a row, `--only GROUP` measures
//! a part (access, queue, miss, invalidate, threads), `--short` measures little, for a profile.

mod access;
mod buffer;
mod invalidate;
mod machine;
mod queue;
mod ring;
mod threads;

use std::time::Instant;

/// One line of the table: nanoseconds for one piece of work in each column, medians.
pub struct Row {
    /// What is done.
    pub work: String,
    /// By column, nanoseconds for doing it once; the first column is the basis of ratios.
    pub columns: Vec<(&'static str, f64)>,
}

/// How long to measure.
#[derive(Clone, Copy)]
pub struct Effort {
    /// How often each column takes its turn.
    pub rounds: usize,
    /// How many operations a turn is.
    pub operations: usize,
}

/// Runs the columns in turn, round after round, so that noise meets all alike; yields the median
/// nanoseconds an operation of each.
pub fn measure(
    effort: Effort,
    columns: &mut [(&'static str, &mut dyn FnMut())],
) -> Vec<(&'static str, f64)> {
    let mut times = vec![Vec::with_capacity(effort.rounds); columns.len()];
    for (_, work) in columns.iter_mut() {
        work();
    }
    for _ in 0..effort.rounds {
        for ((_, work), times) in columns.iter_mut().zip(&mut times) {
            let start = Instant::now();
            work();
            times.push(start.elapsed().as_nanos() as f64 / effort.operations as f64);
        }
    }
    let medians = times.into_iter().map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    columns.iter().map(|(name, _)| *name).zip(medians).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    let effort = Effort {
        rounds: if flag("--short") { 1 } else { 101 },
        operations: if flag("--short") { 2_000 } else { 10_000 },
    };
    let only = value("--only");
    let wanted = |group: &str| only.is_none_or(|only| only == group);
    let print = |row: Row| print(&row, flag("--json"));
    if wanted("access") {
        for case in access::CASES {
            for row in access::case(effort, case) {
                print(row);
            }
        }
    }
    if wanted("queue") {
        print(queue::row(effort));
    }
    if wanted("miss") {
        print(access::miss(effort));
    }
    if wanted("invalidate") {
        for case in invalidate::CASES {
            print(invalidate::row(effort, case));
        }
    }
    if wanted("threads") {
        for size in [64, 4096] {
            for row in threads::rows(effort, size) {
                print(row);
            }
        }
    }
}

fn print(row: &Row, json: bool) {
    if json {
        let columns: Vec<String> = row
            .columns
            .iter()
            .map(|(name, nanoseconds)| format!("{name:?}:{nanoseconds:.3}"))
            .collect();
        println!("{{\"work\":{:?},{}}}", row.work, columns.join(","));
    } else {
        let base = row.columns[0].1;
        print!("{:<34}", row.work);
        for (name, nanoseconds) in &row.columns {
            print!("  {name} {nanoseconds:.2} ns ({:.2}×)", nanoseconds / base);
        }
        println!();
    }
}
