//! Telling the story: line by line to a person, or as one JSON object to a program.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::Failure;
use super::facts::Facts;

/// Tells steps as they happen.
pub struct Telling<'a> {
    output: &'a mut dyn Write,
    json: bool,
    steps: Vec<Told>,
}

#[derive(Serialize)]
struct Told {
    step: &'static str,
    #[serde(flatten)]
    facts: Facts,
}

#[derive(Serialize)]
struct Whole<'a> {
    ok: bool,
    steps: &'a [Told],
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_step: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    milliseconds: u64,
}

impl<'a> Telling<'a> {
    /// Tells to `output`.
    pub fn new(output: &'a mut dyn Write, json: bool) -> Self {
        Self {
            output,
            json,
            steps: Vec::new(),
        }
    }

    /// Says what is about to happen.
    pub fn begin(&mut self, unit: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        writeln!(
            self.output,
            "A bare-metal guest drives the emulated {unit} unit in front of an edu device:"
        )?;
        self.output.flush()
    }

    /// Tells a step that succeeded.
    pub fn tell(&mut self, step: &'static str, facts: &Facts) -> io::Result<()> {
        if !self.json {
            writeln!(self.output, "  \u{2713} {facts}")?;
            self.output.flush()?;
        }
        self.steps.push(Told {
            step,
            facts: facts.clone(),
        });
        Ok(())
    }

    /// Says how it ended.
    pub fn end(&mut self, failure: Option<&Failure>, elapsed: Duration) -> io::Result<()> {
        if self.json {
            let whole = Whole {
                ok: failure.is_none(),
                steps: &self.steps,
                failed_step: failure
                    .and_then(|failure| failure.step)
                    .map(|step| step.name()),
                failure: failure.map(Failure::to_string),
                milliseconds: elapsed.as_millis() as u64,
            };
            serde_json::to_writer_pretty(&mut *self.output, &whole)?;
            writeln!(self.output)?;
        } else {
            match failure {
                None => writeln!(self.output, "Done in {} ms.", elapsed.as_millis())?,
                Some(failure) => writeln!(self.output, "  \u{2717} {failure}")?,
            }
        }
        self.output.flush()
    }
}
