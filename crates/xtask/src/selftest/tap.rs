//! The Test Anything Protocol, as the kernel's harness speaks it.

use serde::Serialize;

/// The most that is kept of what one case says.
const SAID: usize = 40;

/// How a case went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It says that it does not apply.
    Skipped,
    /// It failed.
    Failed,
}

/// One case of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Case {
    /// `FIXTURE.VARIANT.TEST`, or `FIXTURE.TEST` where there are no variants.
    pub name: String,
    /// How it went.
    pub outcome: Outcome,
    /// What it said meanwhile.
    pub said: Vec<String>,
}

/// A reader that is fed line by line.
#[derive(Debug, Default)]
pub struct Reader {
    /// The number of cases that the program says it will run.
    pub planned: Option<usize>,
    /// The cases that came to an end.
    pub cases: Vec<Case>,
    said: Vec<String>,
}

impl Reader {
    /// Takes a line; the answer is the name of the case that it begins, if it begins one.
    pub fn line<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let line = line.trim_end();
        if let Some(plan) = line.strip_prefix("1..") {
            self.planned = plan.trim().parse().ok();
            return None;
        }
        let (outcome, rest) = if let Some(rest) = line.strip_prefix("not ok ") {
            (Outcome::Failed, rest)
        } else if let Some(rest) = line.strip_prefix("ok ") {
            (Outcome::Passed, rest)
        } else {
            let text = line.trim_start_matches('#').trim();
            if let Some(name) = text.strip_prefix("RUN ") {
                self.said.clear();
                return Some(name.trim().trim_end_matches(" ..."));
            }
            if self.said.len() < SAID && !text.is_empty() {
                self.said.push(text.to_owned());
            }
            return None;
        };
        // `NUMBER NAME`, then perhaps `# SKIP why` or another directive.
        let (rest, directive) = match rest.split_once('#') {
            Some((rest, directive)) => (rest, directive.trim()),
            None => (rest, ""),
        };
        let name = rest.split_whitespace().nth(1)?;
        let is_skip = directive
            .get(..4)
            .is_some_and(|word| word.eq_ignore_ascii_case("skip"));
        self.cases.push(Case {
            name: name.to_owned(),
            outcome: if is_skip { Outcome::Skipped } else { outcome },
            said: std::mem::take(&mut self.said),
        });
        None
    }
}
