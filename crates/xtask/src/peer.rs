//! The QEMU that ours is compared with: Debian's newest, with its own loader and libraries, so that
//! it runs on an older Debian as it does on its own.

use crate::hypervisor;
use crate::initramfs::Program;
use crate::kernel::{apt, fetch};
use crate::ui::{percent_bar, say, spinner};
use crate::{libraries, proc, tools, workspace};
use anyhow::{Context, Result, bail};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where the newest is, and where its libraries are.
const SUITES: &[&str] = &["trixie", "trixie-backports"];
const PACKAGE: &str = "qemu-system-x86";
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
/// Where a direct kernel boot looks for its firmware.
const FIRMWARE: &[&str] = &["usr/share/seabios", "usr/share/qemu"];
const FIRMWARE_FILES: &[&str] = &[
    "usr/share/seabios/bios-256k.bin",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot.bin",
    "usr/share/qemu/linuxboot_dma.bin",
];
/// Starts it as a program of an older system is started, whatever its arguments.
const START: &str = "qemu";
const LIMIT: Duration = Duration::from_secs(30);

/// Which QEMU ours is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// The newest that Debian has, fetched once (90 packages, some 40 MB).
    Newest,
    /// The one that is installed on this machine.
    Installed,
}

/// A QEMU, and what it says its version is.
pub fn program(peer: Peer) -> Result<(Program, String)> {
    let program = match peer {
        Peer::Newest => newest()?,
        Peer::Installed => hypervisor::qemu_program()?,
    };
    let version = version(&program.path)?;
    Ok((program, version))
}

/// The first line of `--version`.
pub fn version(program: &Path) -> Result<String> {
    let text = proc::capture(Command::new(program).arg("--version"), LIMIT)?;
    let line = text.lines().next();
    line.map(str::to_owned)
        .with_context(|| format!("{} names no version", program.display()))
}

/// The newest, from the cache when it is there.
fn newest() -> Result<Program> {
    let tree = workspace::cache().join("peer");
    if !tree.is_dir() {
        say(format!(
            "fetching Debian's newest QEMU ({})",
            SUITES.join(", ")
        ));
        tools::ensure(&[tools::KEYRING])?;
        obtain(&tree).context("no newest QEMU to compare with: try --qemu installed")?;
    }
    let start = tree.join(START);
    std::fs::write(&start, start_script(&tree))
        .and_then(|()| std::fs::set_permissions(&start, PermissionsExt::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", start.display()))?;
    let mut data = loaded(&tree)?;
    data.extend([LOADER, PROGRAM].map(|file| tree.join(file)));
    data.extend(FIRMWARE_FILES.iter().map(|file| tree.join(file)));
    data.retain(|path| path.is_file());
    data.sort();
    data.dedup();
    Ok(Program {
        path: start,
        name: tools::QEMU.name,
        data,
    })
}

/// The libraries that it loads.
fn loaded(tree: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new(tree.join(LOADER));
    command
        .arg("--library-path")
        .arg(tree.join(LIBRARIES))
        .arg("--list")
        .arg(tree.join(PROGRAM));
    Ok(libraries::parse(&proc::capture(&mut command, LIMIT)?))
}

fn start_script(tree: &Path) -> String {
    let at = |file: &str| format!("'{}'", tree.join(file).display());
    let firmware: String = FIRMWARE
        .iter()
        .map(|folder| format!(" -L {}", at(folder)))
        .collect();
    format!(
        "#!/bin/sh\nexec {} --library-path {} {}{firmware} \"$@\"\n",
        at(LOADER),
        at(LIBRARIES),
        at(PROGRAM)
    )
}

/// Downloads and unpacks the packages next to `tree`, and moves them there when they are whole.
fn obtain(tree: &Path) -> Result<()> {
    let bar = spinner("updating the package index");
    let state = workspace::cache().join("apt").join("peer");
    let index = apt::Index::update(&state, &apt::mirror()?, SUITES)?;
    bar.finish_and_clear();
    let newest = SUITES.last().context("no suite is named")?;
    let packages = index.with_dependencies(PACKAGE, newest)?;
    fetch::fill(tree, |work, unpacked| {
        let bar = percent_bar("packages", packages.len() as u64);
        for source in &packages {
            bar.set_message(source.file.clone());
            let package = bar.suspend(|| apt::download(source, work))?;
            fetch::unpack(&package, unpacked)?;
            std::fs::remove_file(package).ok();
            bar.inc(1);
        }
        bar.finish_and_clear();
        if !unpacked.join(PROGRAM).is_file() || !unpacked.join(LOADER).is_file() {
            bail!("the packages have no {PROGRAM} or no {LOADER}");
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests;
