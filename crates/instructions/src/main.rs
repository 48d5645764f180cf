//! The work whose instructions `cargo xtask test --only instructions` counts, as a program that
//! is run under callgrind: `list` names each piece of work, and `NAME TIMES` does one so many
//! times.
//!
//! The count of a piece is the difference between two runs, one with twice as many times, so what
//! starts and ends a program is not in it. `counts.json` has the counts that are held.

mod dma;
/// The machine of the bench, for the same accesses.
#[allow(dead_code)]
#[path = "../../dma/benches/dma/machine.rs"]
mod machine;
#[allow(dead_code)]
#[path = "../../dma/benches/dma/pages.rs"]
mod pages;
mod pagetable;
#[path = "../../dma/benches/dma/ring.rs"]
mod ring;

use std::process::ExitCode;

/// A piece of work.
struct Work {
    /// What it is called here, in `counts.json` and in the table.
    name: &'static str,
    /// Does it so many times, after what has to be made ready. Nothing in it may depend on
    /// chance, on the machine or on addresses: maps with random keys are out.
    run: fn(u64),
}

fn all() -> impl Iterator<Item = &'static Work> {
    [pagetable::WORK, dma::WORK].into_iter().flatten()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let known = |name: &str| all().find(|work| work.name == name);
    match arguments.as_slice() {
        [list] if list == "list" => {
            all().for_each(|work| println!("{}", work.name));
            ExitCode::SUCCESS
        }
        [name, times] => match (known(name), times.parse()) {
            (Some(work), Ok(times)) => {
                (work.run)(times);
                ExitCode::SUCCESS
            }
            _ => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: vm-iommu-instructions list | NAME TIMES");
    ExitCode::from(2)
}
