//! The targets' binaries: instrumented for libFuzzer, with the address sanitizer.

use crate::proc::{self, Bounded};
use crate::tools;
use crate::ui::say;
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const PROBE_LIMIT: Duration = Duration::from_secs(60);
const BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);
const TOOLCHAIN: &str = "nightly";

/// What makes rustc count edges and comparisons as libFuzzer reads them.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
    // Overflow and internal contradictions are findings too.
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "--cfg",
    "fuzzing",
];

/// libFuzzer itself is C++.
const CXX: tools::Tool = tools::Tool {
    name: "c++",
    package: "g++",
};

/// Builds all targets, and returns the folder that their binaries are in.
pub fn all() -> Result<PathBuf> {
    let host = host()?;
    tools::ensure(&[CXX])?;
    say(format!("building the fuzz targets with {TOOLCHAIN} rust"));
    let target = workspace::target().join("fuzz");
    let mut command = nightly("cargo");
    command
        .args(["build", "--release", "--bins"])
        // With a target named, the flags are not the build scripts'.
        .args(["--target", &host])
        .current_dir(super::folder())
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .stdin(Stdio::null())
        .stdout(std::io::stderr());
    let mut running = Bounded::spawn(&mut command, BUILD_LIMIT).context("cannot start rustup")?;
    let ending = running.wait(|| {})?;
    if !ending.is_success() {
        bail!("building the fuzz targets failed ({ending}); its errors are above");
    }
    Ok(target.join(host).join("release"))
}

/// A tool of the nightly toolchain, free of what cargo tells programs that it runs.
fn nightly(tool: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", TOOLCHAIN, tool]);
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command
}

/// The host's target triple, as the nightly compiler calls it.
fn host() -> Result<String> {
    let text = proc::capture(nightly("rustc").arg("-vV"), PROBE_LIMIT).with_context(|| {
        format!("fuzzing needs a {TOOLCHAIN} toolchain: run `rustup toolchain install {TOOLCHAIN}`")
    })?;
    host_of(&text).context("rustc did not tell its host")
}

/// The host in what `rustc -vV` prints.
pub fn host_of(version: &str) -> Option<String> {
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(|host| host.trim().to_owned())
}
