//! The cases that are known, and how each should go.

use super::tap::{Case, Outcome};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The cases of one test program.
#[derive(Debug, Deserialize)]
pub struct List {
    fixtures: Vec<Fixture>,
    /// The cases that say themselves that they do not apply.
    skipped: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Fixture {
    name: String,
    variants: Vec<String>,
    tests: Vec<String>,
}

/// The cases of one fixture, counted.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Known cases.
    pub cases: usize,
    /// Of these, those that passed.
    pub passed: usize,
    /// Those that were skipped.
    pub skipped: usize,
    /// Those that failed, did not run though all were to, or were skipped and should not be.
    pub failed: usize,
}

/// A run held against the list.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// By fixture, in the list's order.
    pub fixtures: Vec<(String, Count)>,
    /// All fixtures together.
    pub total: Count,
    /// The known cases that went wrong, with what each said.
    pub wrong: Vec<Wrong>,
    /// The cases of the run that the list does not have.
    pub new: Vec<Case>,
}

/// A known case that went wrong.
#[derive(Debug, Serialize)]
pub struct Wrong {
    /// Its name.
    pub name: String,
    /// What is wrong.
    pub found: String,
    /// What it said itself.
    pub said: Vec<String>,
}

impl List {
    /// The cases of the iommufd test of Linux 7.3.
    pub fn iommufd() -> Result<List> {
        serde_json::from_str(include_str!("../../selftests/iommufd.json"))
            .context("the list of cases is damaged")
    }

    /// The names of all cases of each fixture.
    pub fn cases(&self) -> impl Iterator<Item = (&str, Vec<String>)> {
        self.fixtures.iter().map(|fixture| {
            let name = &fixture.name;
            let prefixes: Vec<String> = if fixture.variants.is_empty() {
                vec![name.clone()]
            } else {
                let variants = fixture.variants.iter();
                variants
                    .map(|variant| format!("{name}.{variant}"))
                    .collect()
            };
            let cases = prefixes.iter().flat_map(|prefix| {
                let tests = fixture.tests.iter();
                tests.map(move |test| format!("{prefix}.{test}"))
            });
            (name.as_str(), cases.collect())
        })
    }

    /// Holds a run against the list; unless it was a `part` of the whole, each case must be in it.
    pub fn compare(&self, run: Vec<Case>, part: bool) -> Comparison {
        let mut run: BTreeMap<String, Case> = run
            .into_iter()
            .map(|case| (case.name.clone(), case))
            .collect();
        let mut comparison = Comparison {
            fixtures: Vec::new(),
            total: Count::default(),
            wrong: Vec::new(),
            new: Vec::new(),
        };
        for (fixture, names) in self.cases() {
            let mut count = Count::default();
            for name in names {
                let case = run.remove(&name);
                if case.is_none() && part {
                    continue;
                }
                count.cases += 1;
                let may_skip = self.skipped.contains(&name);
                let found = match case.as_ref().map(|case| case.outcome) {
                    Some(Outcome::Passed) => {
                        count.passed += 1;
                        continue;
                    }
                    Some(Outcome::Skipped) if may_skip => {
                        count.skipped += 1;
                        continue;
                    }
                    Some(Outcome::Skipped) => "skipped, though it applies",
                    Some(Outcome::Failed) => "failed",
                    None => "did not run",
                };
                count.failed += 1;
                comparison.wrong.push(Wrong {
                    name,
                    found: found.to_owned(),
                    said: case.map(|case| case.said).unwrap_or_default(),
                });
            }
            comparison.total.cases += count.cases;
            comparison.total.passed += count.passed;
            comparison.total.skipped += count.skipped;
            comparison.total.failed += count.failed;
            comparison.fixtures.push((fixture.to_owned(), count));
        }
        comparison.new = run.into_values().collect();
        comparison
    }
}
