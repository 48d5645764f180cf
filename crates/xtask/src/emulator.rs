//! The emulator that the box runs in: QEMU, the newest that is at hand.

use crate::kernel::{apt, fetch};
use crate::ui::{say, spinner};
use crate::{proc, tools, workspace};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The oldest QEMU, by its major version, that is taken as it is. Newer ones have many corrections
/// to emulated processors; a box that fails now and then was seen with this one, too.
const WANTED: u32 = 10;
/// Where a newer QEMU for an older Debian is.
const SUITE: &str = "bookworm-backports";
/// It reads the firmware of the installed one.
const PACKAGE: &str = "qemu-system-x86";
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
const VERSION_LIMIT: Duration = Duration::from_secs(30);

/// Which QEMU emulates the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The installed one if it is new enough, else the newer one of Debian's backports, else the
    /// installed one after all.
    New,
    /// The installed one.
    Installed,
}

/// The program of a QEMU for the box.
pub fn program(version: Version) -> Result<PathBuf> {
    let installed = tools::require(tools::QEMU)?;
    if version == Version::Installed || major(&installed)? >= WANTED {
        return Ok(installed);
    }
    newer().or_else(|error| {
        say(format!(
            "no newer QEMU for the box ({error:#}): taking the installed one"
        ));
        Ok(installed)
    })
}

/// The newer QEMU, from the cache when it is there.
fn newer() -> Result<PathBuf> {
    let tree = workspace::cache().join("qemu");
    let program = tree.join(PROGRAM);
    if !program.is_file() {
        say(format!("fetching QEMU for the box from {SUITE}"));
        tools::ensure(&[tools::KEYRING])?;
        obtain(&tree)?;
    }
    match major(&program)? {
        version if version >= WANTED => Ok(program),
        version => bail!("{} is of version {version}", program.display()),
    }
}

/// Downloads and unpacks the package next to `tree`, and moves it there when it is whole.
fn obtain(tree: &Path) -> Result<()> {
    let bar = spinner("updating the package index");
    let state = workspace::cache().join("apt").join("qemu");
    let index = apt::Index::update(&state, &apt::mirror()?, &[SUITE])?;
    bar.finish_and_clear();
    fetch::fill(tree, |work, unpacked| {
        let package = apt::download(&index.source(PACKAGE)?, work)?;
        fetch::unpack(&package, unpacked)
    })
}

/// The major version that a QEMU says it has.
fn major(program: &Path) -> Result<u32> {
    let mut command = Command::new(program);
    command.arg("--version");
    let text = proc::capture(&mut command, VERSION_LIMIT)?;
    parse_major(&text).with_context(|| format!("{} names no version", program.display()))
}

/// Reads `QEMU emulator version 10.0.2 (…)`.
fn parse_major(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version ")?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests;
