//! What libFuzzer says about itself, line by line.

use serde::Serialize;
use std::collections::VecDeque;

/// How many lines are kept for a person to look at.
const KEPT: usize = 100;
/// How much of a line is kept, in characters.
const LINE: usize = 400;

/// How far a target is, as its last status line said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Inputs run.
    pub executions: u64,
    /// Edges of the program's control flow that were reached.
    pub coverage: u64,
    /// Those edges told apart by how often they were taken, and the values that were compared.
    pub features: u64,
    /// Inputs that reached something new.
    pub corpus: u64,
    /// The files of the inputs that made the target fail.
    pub findings: Vec<String>,
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} executions, coverage {}, {} inputs",
            self.executions, self.coverage, self.corpus
        )
    }
}

/// What a target has said so far.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// What its status lines told.
    pub progress: Progress,
    /// The last lines, in order.
    pub last: VecDeque<String>,
}

impl Log {
    /// Takes the next line.
    pub fn line(&mut self, line: &str) {
        self.read(line);
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line.chars().take(LINE).collect());
    }

    /// Reads the three kinds of lines that tell something: `#N EVENT cov: N ft: N corp: N/SIZE …`,
    /// `stat::number_of_executed_units: N`, and one with `Test unit written to FILE`.
    fn read(&mut self, line: &str) {
        let progress = &mut self.progress;
        if let Some((_, file)) = line.split_once("Test unit written to ") {
            progress.findings.push(file.trim().to_owned());
        } else if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            progress.executions = count.trim().parse().unwrap_or(progress.executions);
        } else if let Some(status) = line.strip_prefix('#') {
            let mut words = status.split_whitespace();
            let Some(Ok(executions)) = words.next().map(str::parse) else {
                return;
            };
            progress.executions = executions;
            while let Some(word) = words.next() {
                let field = match word {
                    "cov:" => &mut progress.coverage,
                    "ft:" => &mut progress.features,
                    "corp:" => &mut progress.corpus,
                    _ => continue,
                };
                let value = words.next().and_then(|value| value.split('/').next());
                if let Some(Ok(value)) = value.map(str::parse) {
                    *field = value;
                }
            }
        }
    }
}
