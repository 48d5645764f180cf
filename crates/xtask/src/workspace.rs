//! Where things are: the checkout, the target folder, the cache; and how its binary is built.

use crate::proc::Bounded;
use anyhow::{Context, Result, bail};
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A build from nothing on two cores takes a few minutes.
const BUILD_LIMIT: Duration = Duration::from_secs(25 * 60);

/// What guests run.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The root of the checkout.
pub fn root() -> PathBuf {
    // xtask runs from the checkout that it was built in.
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .unwrap_or(manifest)
        .to_path_buf()
}

/// The folder that build products go to.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The folder of what was downloaded: `$XDG_CACHE_HOME/vm-iommu`, else in the target folder.
pub fn cache() -> PathBuf {
    match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) if Path::new(&dir).is_absolute() => Path::new(&dir).join("vm-iommu"),
        _ => target().join("vm-iommu-cache"),
    }
}

/// A `cargo` command in the checkout.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Builds the VMM with optimisation and returns the path of its binary.
pub fn build_vmm() -> Result<PathBuf> {
    crate::ui::say("building the VMM");
    let mut command = cargo();
    command
        .args(["build", "--release", "--package", "vm-iommu-vmm"])
        .args(["--bin", "vm-iommu"]);
    build(command, "vm-iommu")
}

/// Builds a program for guests that have no libraries: linked statically, apart from what is built
/// for the host.
pub fn build_static(package: &'static str) -> Result<PathBuf> {
    crate::ui::say(format!("building {package} for guests"));
    let mut command = cargo();
    command
        .args(["build", "--release", "--package", package])
        // Named, so that the flags are not those of build scripts too.
        .args(["--target", STATIC_TARGET])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_TARGET_DIR", target().join("guest"));
    build(command, package)
}

/// Builds the preload library with optimisation and returns its path.
pub fn build_preload() -> Result<PathBuf> {
    crate::ui::say("building the preload library");
    let mut command = cargo();
    command.args(["build", "--release", "--package", "vm-iommufd-shim"]);
    build(command, "vm_iommufd_shim")
}

/// Runs a build and returns the path of the program or library that it made of the target `name`.
pub fn build(command: Command, name: &'static str) -> Result<PathBuf> {
    let programs = build_all(command, name)?;
    let mut named = programs
        .into_iter()
        .filter(|program| program.target == name);
    let program = named.next_back();
    let program = program.with_context(|| format!("cargo built {name} but named no program"))?;
    Ok(program.path)
}

/// A program, or a library that C programs load, that cargo built.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// The name of its target.
    pub target: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Runs a build of `what` and returns all programs that it made or that were there already.
pub fn build_all(mut command: Command, what: &str) -> Result<Vec<Program>> {
    command
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut running = Bounded::spawn(&mut command, BUILD_LIMIT).context("cannot start cargo")?;
    let stdout = running
        .child()
        .stdout
        .take()
        .context("cargo has no output pipe")?;
    let reader = std::thread::spawn(move || {
        let lines = std::io::BufReader::new(stdout).lines();
        let programs = lines
            .map_while(Result::ok)
            .filter_map(|line| program(&line));
        programs.collect::<Vec<Program>>()
    });
    let ending = running.wait(|| {})?;
    let programs = reader.join().unwrap_or_default();
    if !ending.is_success() {
        bail!("building {what} failed ({ending}); its errors are above");
    }
    Ok(programs)
}

/// The program, or the library that C programs load, that a line of cargo's JSON messages says was
/// built.
fn program(line: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let target = &message["target"];
    let path = match message["executable"].as_str() {
        Some(program) => program,
        None if target["kind"][0] == "cdylib" => message["filenames"]
            .as_array()?
            .iter()
            .filter_map(serde_json::Value::as_str)
            .find(|file| file.ends_with(".so"))?,
        None => return None,
    };
    Some(Program {
        target: target["name"].as_str()?.to_owned(),
        path: path.into(),
    })
}

/// A fresh folder in the target folder for one run's inputs and results, so that no run of this
/// process reads what an earlier one wrote. Folders that earlier processes left for a look at
/// their consoles are removed.
pub fn run_folder(name: &str) -> Result<PathBuf> {
    static RUNS: AtomicU32 = AtomicU32::new(1);
    let runs = target().join("vm-iommu-runs");
    remove_left_over(&runs);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let dir = runs.join(format!("{name}-{run}-{}", std::process::id()));
    // A process that had this number before may have left one.
    std::fs::remove_dir_all(&dir).ok();
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Removes the run folders of processes that are gone, as far as that can be done.
fn remove_left_over(runs: &Path) {
    let Ok(entries) = std::fs::read_dir(runs) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .rsplit('-')
            .next()
            .and_then(|id| id.parse::<u32>().ok());
        if owner.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests;
