//! The shared libraries that a host binary needs, so that it can run in the box.

use crate::proc;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The absolute paths of all libraries that `binary` loads, its loader included; none for a
/// static binary.
pub fn of(binary: &Path) -> Result<Vec<PathBuf>> {
    match proc::capture(
        Command::new("ldd").arg(binary).env("LC_ALL", "C"),
        Duration::from_secs(30),
    ) {
        Ok(text) => Ok(parse(&text)),
        // A static binary is an error to ldd, and says so.
        Err(error) if format!("{error:#}").contains("not a dynamic executable") => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Reads ldd's lines: `name => /path (address)`, `/path (address)`, or `name (address)` for
/// the kernel's own, which has no file.
pub fn parse(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| {
            let path = match line.split_once("=>") {
                Some((_, right)) => right,
                None => line,
            };
            let path = path.split_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests;
