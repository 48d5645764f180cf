//! The kernel's source, from Debian's package: the part of it that its selftests need.

use super::apt::{self, Index, Source};
use super::{fetch, series};
use crate::ui::{say, spinner};
use crate::{proc, tools, workspace};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What a source package's name begins with; the series follows.
const PREFIX: &str = "linux-source-";
/// The series whose iommufd the selftests here know.
const MAJOR: &str = "7.";
const SUITES: &[&str] = &["trixie-backports", "sid"];
const HEADERS_LIMIT: Duration = Duration::from_secs(10 * 60);

/// What is unpacked of the whole: the headers that user space sees with what installs them, and
/// the tests with the harness that they share.
const PARTS: &[&str] = &[
    "Makefile",
    "Kbuild",
    "scripts",
    "include",
    "arch/x86",
    "tools/include",
    "tools/arch/x86/include",
    "tools/testing/selftests/lib.mk",
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/kselftest_harness.h",
    "tools/testing/selftests/iommu",
    "drivers/iommu/iommufd",
];

/// A part of a kernel's source with its user-space headers installed in `usr/include`.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The package's version.
    pub version: String,
    /// The folder.
    pub root: PathBuf,
}

/// The source of the version that is known to work, or of the newest that the mirror has.
pub fn tree(newest: bool) -> Result<Tree> {
    let known = series::known_good("source");
    let version = known.first().and_then(|package| version_of(&package.path));
    if let Some(version) = version
        && !newest
        && let Some(tree) = cached(version)
    {
        return Ok(tree);
    }
    tools::ensure(&[tools::KEYRING])?;
    let mirror = apt::mirror()?;
    if !newest {
        let sources = known
            .iter()
            .map(|package| fetch::known_source(&mirror, package));
        let error = match obtain(&sources.collect::<Vec<_>>()) {
            Ok(tree) => return Ok(tree),
            Err(error) => error,
        };
        say(format!(
            "the known-good source is not to be had ({error:#}): taking the newest"
        ));
    }
    obtain(&[newest_source(&mirror)?])
}

/// The version in a package's file name: `PATH/NAME_VERSION_ARCHITECTURE.deb`.
pub(super) fn version_of(path: &str) -> Option<&str> {
    let file = path.rsplit('/').next()?;
    let version = file.split('_').nth(1)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-+~%".contains(c);
    (version.starts_with(MAJOR) && version.chars().all(is_plain)).then_some(version)
}

/// The newest source package among package names.
pub(super) fn newest_package<'a>(names: &[&'a str]) -> Option<&'a str> {
    let is_series = |name: &&str| {
        name.strip_prefix(PREFIX).is_some_and(|series| {
            series.starts_with(MAJOR) && series.chars().all(|c| c.is_ascii_digit() || c == '.')
        })
    };
    names
        .iter()
        .copied()
        .filter(is_series)
        .max_by(|a, b| series::compare_versions(a, b))
}

fn newest_source(mirror: &str) -> Result<Source> {
    let bar = spinner("updating the package index");
    let index = Index::update(&workspace::cache().join("apt/source"), mirror, SUITES)?;
    bar.finish_and_clear();
    let names = index.names(PREFIX)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let name = newest_package(&names)
        .with_context(|| format!("the mirror has no source of a kernel {MAJOR}x"))?;
    index.source(name)
}

fn folder() -> PathBuf {
    workspace::cache().join("sources")
}

fn cached(version: &str) -> Option<Tree> {
    let root = folder().join(version);
    root.is_dir().then(|| Tree {
        version: version.to_owned(),
        root,
    })
}

/// Gets the tree of a package; it appears in the cache when it is whole.
fn obtain(sources: &[Source]) -> Result<Tree> {
    let [source] = sources else {
        bail!("none is listed");
    };
    let version = version_of(&source.file)
        .with_context(|| format!("{} names no version", source.file))?
        .replace("%7e", "~")
        .replace("%2b", "+");
    if let Some(tree) = cached(&version) {
        return Ok(tree);
    }
    say(format!("fetching the source of Linux {version}"));
    let parent = folder();
    std::fs::create_dir_all(&parent)
        .with_context(|| format!("cannot create {}", parent.display()))?;
    let work = tempfile::tempdir_in(&parent)
        .with_context(|| format!("cannot write to {}", parent.display()))?;
    let package = apt::download(source, work.path())?;
    let root = work.path().join("tree");
    unpack(&package, work.path(), &root)?;
    install_headers(&root)?;
    let place = parent.join(&version);
    if let Err(error) = std::fs::rename(&root, &place)
        && !place.is_dir()
    {
        // Unless somebody else was faster, which is as good.
        return Err(error).with_context(|| format!("cannot write {}", place.display()));
    }
    say(format!("the source of Linux {version} is in the cache"));
    cached(&version).with_context(|| format!("{} went away", place.display()))
}

/// Unpacks the archive that the package holds, as far as it is needed.
fn unpack(package: &Path, work: &Path, root: &Path) -> Result<()> {
    let bar = spinner("unpacking the kernel's source");
    let unpacked = work.join("package");
    let mut dpkg = Command::new("dpkg");
    dpkg.arg("-x").arg(package).arg(&unpacked);
    proc::capture(&mut dpkg, fetch::UNPACK_LIMIT)
        .with_context(|| format!("cannot unpack {}", package.display()))?;
    let sources = unpacked.join("usr/src");
    let mut archives = std::fs::read_dir(&sources)
        .with_context(|| format!("cannot read {}", sources.display()))?
        .flatten()
        .map(|entry| entry.path());
    let archive = archives
        .find(|path| path.to_string_lossy().ends_with(".tar.xz"))
        .context("the package holds no archive")?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let top = name.trim_end_matches(".tar.xz");
    std::fs::create_dir_all(root)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--xz", "--strip-components=1", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(root)
        .args(PARTS.iter().map(|part| format!("{top}/{part}")));
    proc::capture(&mut tar, fetch::UNPACK_LIMIT)
        .with_context(|| format!("cannot unpack {}", archive.display()))?;
    bar.finish_and_clear();
    Ok(())
}

/// Installs the headers that user space sees in `usr/include`.
fn install_headers(root: &Path) -> Result<()> {
    let bar = spinner("installing the kernel's headers");
    let mut make = Command::new("make");
    make.args(["-s", "-j2", "ARCH=x86", "headers"])
        .current_dir(root);
    proc::capture(&mut make, HEADERS_LIMIT).context("cannot install the kernel's headers")?;
    bar.finish_and_clear();
    Ok(())
}
