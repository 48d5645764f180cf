//! Measuring, and printing what was measured.

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

/// Prints a row as a line of a table, or as an object.
pub fn print(row: &Row, json: bool) {
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
