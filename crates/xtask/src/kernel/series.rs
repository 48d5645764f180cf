//! The Debian kernel series that guests are taken from, and how their packages are named.

use serde::Deserialize;
use std::cmp::Ordering;
use std::sync::OnceLock;

/// Where a series lives in Debian's archive.
#[derive(Debug, Clone, Copy)]
pub struct Series {
    /// What a person calls it.
    pub name: &'static str,
    /// The suites that carry it.
    pub suites: &'static [&'static str],
    /// The prefixes of the packages that together hold the kernel and its modules; what
    /// follows the prefix is the kernel's release.
    pub packages: &'static [&'static str],
}

const SERIES: &[Series] = &[
    Series {
        name: "6.1",
        suites: &["bookworm"],
        packages: &["linux-image-"],
    },
    Series {
        name: "6.12",
        suites: &["trixie", "bookworm-backports"],
        packages: &["linux-image-"],
    },
    Series {
        name: "7",
        suites: &["trixie-backports", "sid"],
        packages: &["linux-binary-", "linux-modules-", "linux-base-"],
    },
];

/// The names of all series.
pub fn names() -> Vec<&'static str> {
    SERIES.iter().map(|series| series.name).collect()
}

/// The series of that name.
pub fn find(name: &str) -> Option<&'static Series> {
    SERIES.iter().find(|series| series.name == name)
}

/// A package whose content is known beforehand.
#[derive(Debug, Clone, Deserialize)]
pub struct KnownPackage {
    /// Its path below the mirror's root.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

#[derive(Debug, Deserialize)]
struct KnownGood {
    series: String,
    packages: Vec<KnownPackage>,
}

/// The packages of the version of `series` that is known to work; `source` is the kernel's source.
pub fn known_good(series: &str) -> &'static [KnownPackage] {
    static LIST: OnceLock<Vec<KnownGood>> = OnceLock::new();
    let list = LIST.get_or_init(|| {
        // Committed with this file, and parsed by a test.
        serde_json::from_str(include_str!("../../known-kernels.json")).unwrap_or_default()
    });
    list.iter()
        .find(|known| known.series == series)
        .map_or(&[], |known| &known.packages)
}

/// The newest release of `series` that all of its packages exist for, among package names.
pub fn newest<'a>(series: &Series, names: &[&'a str]) -> Option<&'a str> {
    let (first, others) = series.packages.split_first()?;
    names
        .iter()
        .filter_map(|name| name.strip_prefix(first))
        .filter(|release| is_release_of(series.name, release))
        .filter(|release| {
            let has = |prefix: &&str| names.contains(&format!("{prefix}{release}").as_str());
            others.iter().all(has)
        })
        .max_by(|a, b| compare_versions(a, b))
}

/// Whether `release` is an ordinary amd64 kernel of the series, not a special flavour.
fn is_release_of(series: &str, release: &str) -> bool {
    let Some(version) = release.strip_suffix("-amd64") else {
        return false;
    };
    let flavours = ["cloud", "rt", "unsigned", "dbg"];
    version
        .strip_prefix(series)
        .is_some_and(|rest| rest.starts_with('.') && rest.contains(|c: char| c.is_ascii_digit()))
        && !version.split('-').any(|part| flavours.contains(&part))
}

/// Orders versions by comparing their runs of digits as numbers.
pub(super) fn compare_versions(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit())
            .filter_map(|run| run.parse().ok())
            .collect()
    };
    numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b))
}
