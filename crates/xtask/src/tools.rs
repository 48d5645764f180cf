//! The host's own tools, and how to get those that are missing.

use crate::proc;
use crate::ui::{say, spinner};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const APT_LIMIT: Duration = Duration::from_secs(15 * 60);

/// A file that is needed, and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// A program looked for on the search path, or an absolute path.
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
}

/// A static busybox: the guest's and the box's user space.
pub const BUSYBOX: Tool = Tool {
    name: "busybox",
    package: "busybox-static",
};

/// QEMU: runs the box, and is the VMM that ours is compared with.
pub const QEMU: Tool = Tool {
    name: "qemu-system-x86_64",
    package: "qemu-system-x86",
};

/// The keys that Debian's archive is signed with.
pub const KEYRING: Tool = Tool {
    name: "/usr/share/keyrings/debian-archive-keyring.gpg",
    package: "debian-archive-keyring",
};

/// What it takes to unpack a kernel's source and to build its selftests.
pub const SELFTEST_BUILD: &[Tool] = &[
    Tool {
        name: "gcc",
        package: "gcc",
    },
    Tool {
        name: "make",
        package: "make",
    },
    Tool {
        name: "xz",
        package: "xz-utils",
    },
    Tool {
        name: "/usr/include/stdio.h",
        package: "libc6-dev",
    },
    Tool {
        name: "/usr/include/sys/capability.h",
        package: "libcap-dev",
    },
];

/// The path of a program, looked for as a shell would and in the `sbin` folders too.
pub fn find(name: &str) -> Option<PathBuf> {
    if name.starts_with('/') {
        let path = Path::new(name);
        return path.is_file().then(|| path.to_path_buf());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), "/usr/bin".into()])
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// A program that is known to be there since [`ensure`] asked for it.
pub fn require(tool: Tool) -> Result<PathBuf> {
    find(tool.name).with_context(|| {
        format!(
            "{} is missing: run `apt-get install {}`",
            tool.name, tool.package
        )
    })
}

/// Sees to it that all of `tools` are here: installs the missing ones when that is allowed,
/// else names them in one line.
pub fn ensure(tools: &[Tool]) -> Result<()> {
    let missing = missing_packages(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    // SAFETY: geteuid takes nothing, changes nothing and cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root || find("apt-get").is_none() {
        bail!("missing packages: run `apt-get update && apt-get install {list}` as root");
    }
    say(format!("installing missing packages: {list}"));
    let bar = spinner(format!("apt-get install {list}"));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
        command
    };
    proc::capture(apt().arg("update"), APT_LIMIT).context("apt-get update failed")?;
    proc::capture(
        apt()
            .args(["install", "-y", "--no-install-recommends"])
            .args(&missing),
        APT_LIMIT,
    )
    .with_context(|| format!("apt-get install {list} failed"))?;
    bar.finish_and_clear();
    let still = missing_packages(tools);
    if !still.is_empty() {
        bail!("installed, but still not found: {}", still.join(" "));
    }
    Ok(())
}

fn missing_packages(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<&'static str> = tools
        .iter()
        .filter(|tool| find(tool.name).is_none() || !is_right_kind(tool))
        .map(|tool| tool.package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Debian's `busybox` and `busybox-static` bring the same path; only the latter runs in an
/// initramfs that has no shared libraries.
fn is_right_kind(tool: &Tool) -> bool {
    tool.name != BUSYBOX.name
        || find(tool.name).is_some_and(|path| {
            crate::libraries::of(&path).is_ok_and(|libraries| libraries.is_empty())
        })
}

#[cfg(test)]
mod tests;
