//! The two initramfs images: the test guest's, and the box's.

use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::libraries;
use crate::modules::Module;
use crate::tools;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const GUEST_INIT: &str = include_str!("../../../tests/guest/init.sh");
const BOX_INIT: &str = include_str!("../../../tests/guest/box-init.sh");

/// What the guest's disk needs.
const GUEST_MODULES: &[&str] = &["virtio_pci", "virtio_blk"];
/// KVM, and the folder that is shared with the host.
const BOX_MODULES: &[&str] = &[
    "irqbypass",
    "kvm",
    "kvm_amd",
    "virtio_pci",
    "9pnet_virtio",
    "9p",
];

const APPLETS: &[&str] = &[
    "awk",
    "basename",
    "cat",
    "cut",
    "dd",
    "devmem",
    "dmesg",
    "echo",
    "grep",
    "head",
    "insmod",
    "ls",
    "mkdir",
    "mount",
    "nproc",
    "poweroff",
    "printf",
    "readlink",
    "sed",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stty",
    "sync",
    "tail",
    "taskset",
    "umount",
    "uname",
    "wc",
];

/// A program to put into an image.
#[derive(Debug, Clone)]
pub struct Program {
    /// Where it is on the host.
    pub path: PathBuf,
    /// Its name; in the box, in `/usr/bin`, beside which QEMU looks for its firmware.
    pub name: &'static str,
    /// Files or folders that it reads at the same place as on the host.
    pub data: Vec<PathBuf>,
}

/// Writes the test guest's initramfs for `kernel`, with `programs`, which are linked statically,
/// in `/bin`.
pub fn guest(kernel: &Kernel, programs: &[Program], to: &Path) -> Result<()> {
    let mut archive = start(to, GUEST_INIT)?;
    add_modules(&mut archive, &kernel.modules(GUEST_MODULES)?)?;
    for program in programs {
        archive.copy(&format!("bin/{}", program.name), 0o755, &program.path)?;
    }
    archive.finish()?;
    Ok(())
}

/// Writes the box's initramfs for `kernel`, with `programs` and the libraries they load.
pub fn boxed(kernel: &Kernel, programs: &[Program], to: &Path) -> Result<()> {
    let mut archive = start(to, BOX_INIT)?;
    add_modules(&mut archive, &kernel.modules(BOX_MODULES)?)?;
    let mut libraries = BTreeSet::new();
    for program in programs {
        archive.copy(&format!("usr/bin/{}", program.name), 0o755, &program.path)?;
        libraries.extend(libraries::of(&program.path)?);
        for data in &program.data {
            add_tree(&mut archive, data)?;
        }
    }
    for library in libraries {
        archive.copy(&library.to_string_lossy(), 0o755, &library)?;
    }
    archive.finish()?;
    Ok(())
}

/// Begins an archive with the static shell and its commands.
fn start(to: &Path, init: &str) -> Result<Archive<BufWriter<File>>> {
    let file = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    archive.file("init", 0o755, init.as_bytes())?;
    archive.copy("bin/busybox", 0o755, &tools::require(tools::BUSYBOX)?)?;
    for applet in APPLETS {
        archive.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    for folder in ["proc", "sys", "dev"] {
        archive.directory(folder)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    Ok(archive)
}

fn add_modules<W: Write>(archive: &mut Archive<W>, modules: &[Module]) -> Result<()> {
    let mut order = String::new();
    for module in modules {
        archive.file(&format!("modules/{}.ko", module.name), 0o644, &module.image)?;
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes())
}

/// Adds a file, or the files of a folder, at its own path. Links are followed; what may be executed
/// may be so there.
fn add_tree<W: Write>(archive: &mut Archive<W>, path: &Path) -> Result<()> {
    if path.is_file() {
        let permissions = std::fs::metadata(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .permissions();
        let mode = 0o644 | permissions.mode() & 0o111;
        return archive.copy(&path.to_string_lossy(), mode, path);
    }
    let entries =
        std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut entries: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries.iter().filter(|entry| entry.is_file()) {
        add_tree(archive, entry)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
