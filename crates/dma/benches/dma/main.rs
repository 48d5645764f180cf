//! What an access costs, beside the same access without any IOMMU, all in one run.
//!
//! `cargo xtask bench dma` builds this with and without link-time optimisation and prints the
//! table; run alone, it prints its own. `--json` prints one object a row, `--only GROUP` measures
//! a part (access, queue, miss, invalidate, threads), `--short` measures little, for a profile.

mod access;
mod buffer;
mod invalidate;
mod machine;
mod measure;
mod pages;
mod queue;
mod ring;
mod threads;

pub use self::measure::{Effort, Row, measure};

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
    let print = |row: Row| measure::print(&row, flag("--json"));
    if wanted("access") {
        for case in pages::CASES {
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
