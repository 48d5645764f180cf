//! Getting a series' kernel into the cache: the known-good version first, else the newest.

use super::Kernel;
use super::apt::{self, Index, Source};
use super::series::{self, KnownPackage, Series};
use crate::ui::{say, spinner};
use crate::{proc, tools, workspace};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(super) const UNPACK_LIMIT: Duration = Duration::from_secs(10 * 60);

/// The kernel of a series, from the cache when it is there.
pub fn series(name: &str) -> Result<Kernel> {
    let series = series::find(name).with_context(|| format!("no kernel series {name}"))?;
    let tree = workspace::cache().join("kernels").join(name);
    if tree.is_dir() {
        return Kernel::from_tree(&tree)
            .with_context(|| format!("the cache is damaged: remove {}", tree.display()));
    }
    tools::ensure(&[tools::KEYRING])?;
    let mirror = apt::mirror()?;
    say(format!("fetching Debian's Linux {name}"));
    let known = series::known_good(name);
    let known_sources: Vec<Source> = known.iter().map(|p| known_source(&mirror, p)).collect();
    let kernel = match obtain(&known_sources, &tree) {
        Ok(kernel) => kernel,
        Err(error) => {
            say(format!(
                "the known-good version is not to be had ({error:#})"
            ));
            let sources = newest(&mirror, series)?;
            let kernel = obtain(&sources, &tree)?;
            say(format!(
                "taking the newest of the {name} series instead: {}",
                kernel.release
            ));
            kernel
        }
    };
    Ok(kernel)
}

pub(super) fn known_source(mirror: &str, package: &KnownPackage) -> Source {
    let file = package.path.rsplit('/').next().unwrap_or(&package.path);
    Source {
        uri: format!("{mirror}/{}", package.path),
        file: file.to_owned(),
        size: package.size,
        sha256: package.sha256.clone(),
    }
}

fn newest(mirror: &str, series: &Series) -> Result<Vec<Source>> {
    let bar = spinner("updating the package index");
    let state = workspace::cache().join("apt").join(series.name);
    let index = Index::update(&state, mirror, series.suites)?;
    bar.finish_and_clear();
    let mut names = Vec::new();
    for prefix in series.packages {
        names.extend(index.names(prefix)?);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let release = series::newest(series, &names)
        .with_context(|| format!("the mirror has no kernel of the {} series", series.name))?;
    series
        .packages
        .iter()
        .map(|prefix| index.source(&format!("{prefix}{release}")))
        .collect()
}

/// Downloads and unpacks packages next to `tree`, and moves the result there when it is whole.
fn obtain(sources: &[Source], tree: &Path) -> Result<Kernel> {
    if sources.is_empty() {
        bail!("none is listed");
    }
    fill(tree, |work, unpacked| {
        for source in sources {
            let file = apt::download(source, work)?;
            unpack(&file, unpacked)?;
        }
        Kernel::from_tree(unpacked).map(drop)
    })?;
    let kernel = Kernel::from_tree(tree)?;
    say(format!("Linux {} is in the cache", kernel.release));
    Ok(kernel)
}

/// Makes the folder `tree`, which appears only when it is whole: `make` gets a folder to work in and
/// the one to fill, both beside it.
pub(crate) fn fill(tree: &Path, make: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
    let parent = tree.parent().context("the cache has no parent folder")?;
    std::fs::create_dir_all(parent)
        .with_context(|| format!("cannot create {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent)
        .with_context(|| format!("cannot write to {}", parent.display()))?;
    let filled = work.path().join("tree");
    make(work.path(), &filled)?;
    if let Err(error) = std::fs::rename(&filled, tree)
        && !tree.is_dir()
    {
        // Unless somebody else was faster, which is as good.
        return Err(error).with_context(|| format!("cannot write {}", tree.display()));
    }
    Ok(())
}

/// Unpacks a package's files into `tree`.
pub(crate) fn unpack(package: &Path, tree: &Path) -> Result<()> {
    let bar = spinner("unpacking");
    let mut unpack = Command::new("dpkg");
    unpack.arg("-x").arg(package).arg(tree);
    proc::capture(&mut unpack, UNPACK_LIMIT)
        .with_context(|| format!("cannot unpack {}", package.display()))?;
    bar.finish_and_clear();
    Ok(())
}
