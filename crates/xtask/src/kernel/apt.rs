//! Debian's archive through apt, with a source list and state folders of our own, so that the
//! machine's are untouched. The mirror is the one that the machine itself is set up with.

use crate::proc;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const TOOL_LIMIT: Duration = Duration::from_secs(60);
const UPDATE_LIMIT: Duration = Duration::from_secs(10 * 60);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(20 * 60);
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// The environment variable that names a mirror, for machines whose own apt has none.
const MIRROR_VARIABLE: &str = "VM_IOMMU_DEBIAN_MIRROR";

/// A file in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its full address.
    pub uri: String,
    /// The name to save it under.
    pub file: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

/// The address of the Debian mirror, without a slash at its end.
pub fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var(MIRROR_VARIABLE) {
        return Ok(mirror.trim_end_matches('/').to_owned());
    }
    let targets = proc::capture(
        Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Identifier: Packages",
        ]),
        TOOL_LIMIT,
    )
    .context("cannot ask apt for this machine's mirror")?;
    let mirror = pick_mirror(&targets).with_context(|| {
        format!(
            "this machine's apt has no Debian main archive: set {MIRROR_VARIABLE} to a mirror's \
             address"
        )
    })?;
    match mirror.strip_prefix("mirror+file:") {
        // A file that lists mirrors, as on Debian's cloud images: its first entry will do.
        Some(list) => first_of_list(Path::new(list)),
        None => Ok(mirror),
    }
}

/// The first main archive among `REPO_URI RELEASE COMPONENT` lines: not a security or updates
/// suite, and not somebody else's repository.
pub(super) fn pick_mirror(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [uri, release, "main"] = fields[..] else {
            return None;
        };
        let suites = [
            "bookworm",
            "trixie",
            "forky",
            "sid",
            "stable",
            "testing",
            "unstable",
            "oldstable",
        ];
        let uri = uri.trim_end_matches('/');
        let is_debian = uri.ends_with("/debian") || uri.ends_with("/debian.list");
        (is_debian && suites.contains(&release)).then(|| uri.to_owned())
    })
}

fn first_of_list(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the mirror list {}", path.display()))?;
    let uri = text.lines().find_map(|line| {
        let uri = line.split_whitespace().next()?;
        uri.starts_with("http").then(|| uri.trim_end_matches('/'))
    });
    uri.map(str::to_owned)
        .with_context(|| format!("no mirror in {}", path.display()))
}

/// The archive's index of some suites.
#[derive(Debug)]
pub struct Index {
    options: Vec<String>,
    state: PathBuf,
}

impl Index {
    /// Sets up the private state in `state` and downloads the index.
    pub fn update(state: &Path, mirror: &str, suites: &[&str]) -> Result<Self> {
        for folder in ["lists/partial", "cache/archives/partial", "preferences.d"] {
            std::fs::create_dir_all(state.join(folder))
                .with_context(|| format!("cannot create {}", state.display()))?;
        }
        let keyring = crate::tools::KEYRING.name;
        let lines: String = suites
            .iter()
            .map(|suite| format!("deb [signed-by={keyring}] {mirror} {suite} main\n"))
            .collect();
        std::fs::write(state.join("sources.list"), lines)?;
        std::fs::write(state.join("status"), "")?;
        let at = |name: &str| state.join(name).display().to_string();
        let index = Index {
            options: vec![
                format!("Dir::State={}", state.display()),
                format!("Dir::State::lists={}", at("lists")),
                format!("Dir::State::status={}", at("status")),
                format!("Dir::Cache={}", at("cache")),
                format!("Dir::Etc::sourcelist={}", at("sources.list")),
                "Dir::Etc::sourceparts=/dev/null".to_owned(),
                "Dir::Etc::preferences=/dev/null".to_owned(),
                format!("Dir::Etc::preferencesparts={}", at("preferences.d")),
                "APT::Architecture=amd64".to_owned(),
                "APT::Architectures=amd64".to_owned(),
                "APT::Sandbox::User=root".to_owned(),
                "Acquire::Languages=none".to_owned(),
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            ],
            state: state.to_path_buf(),
        };
        proc::capture(index.command("apt-get").arg("update"), UPDATE_LIMIT)
            .context("cannot update the package index")?;
        Ok(index)
    }

    /// The names of all packages that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = proc::capture(
            self.command("apt-cache").args(["pkgnames", prefix]),
            TOOL_LIMIT,
        )?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Where the newest version of a package is.
    pub fn source(&self, package: &str) -> Result<Source> {
        let text = proc::capture(
            self.command("apt-get")
                .args(["download", "--print-uris", package])
                .current_dir(&self.state),
            TOOL_LIMIT,
        )?;
        text.lines()
            .find_map(parse_print_uris)
            .with_context(|| format!("apt names no file with a SHA-256 for {package}"))
    }

    /// Where a package of a suite is, and all that it needs, from nothing.
    pub fn with_dependencies(&self, package: &str, suite: &str) -> Result<Vec<Source>> {
        let text = proc::capture(
            self.command("apt-get")
                // An index of several hashes would have it name the weakest otherwise.
                .args(["-o", "Acquire::ForceHash=SHA256"])
                .args(["install", "--print-uris", "-qq", "--no-install-recommends"])
                .args(["-t", suite, package])
                .current_dir(&self.state),
            TOOL_LIMIT,
        )?;
        let sources: Vec<Source> = text.lines().filter_map(parse_print_uris).collect();
        if sources.is_empty() {
            bail!("apt names no file with a SHA-256 for {package} of {suite}");
        }
        Ok(sources)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

/// Reads a line of `apt-get download --print-uris`: `'URI' FILE SIZE SHA256:HASH`.
pub(super) fn parse_print_uris(line: &str) -> Option<Source> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [uri, file, size, hash] = fields[..] else {
        return None;
    };
    Some(Source {
        uri: uri.trim_matches('\'').to_owned(),
        // The name may have its odd characters escaped; it is only ours to save under.
        file: file.replace('/', "_"),
        size: size.parse().ok()?,
        sha256: hash.strip_prefix("SHA256:")?.to_owned(),
    })
}

/// Downloads one file with apt's own helper, which checks the hash and knows the machine's
/// proxies; shows a bar.
pub fn download(source: &Source, folder: &Path) -> Result<PathBuf> {
    if !Path::new(HELPER).is_file() {
        bail!("{HELPER} is missing: fetching kernels needs Debian's apt");
    }
    let to = folder.join(&source.file);
    let mut command = Command::new(HELPER);
    command
        .args(["-o", "APT::Sandbox::User=root", "download-file"])
        .arg(&source.uri)
        .arg(&to)
        .arg(format!("SHA256:{}", source.sha256))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let bar = crate::ui::byte_bar(&source.file, source.size);
    let mut running = proc::Bounded::spawn(&mut command, DOWNLOAD_LIMIT)
        .with_context(|| format!("cannot start {HELPER}"))?;
    let stdout = running.child().stdout.take();
    let ending = running.wait(|| {
        if let Ok(data) = std::fs::metadata(&to) {
            bar.set_position(data.len());
        }
    })?;
    bar.finish_and_clear();
    if ending.is_success() && to.is_file() {
        return Ok(to);
    }
    let mut text = String::new();
    // Without a terminal it prints a few lines, which the pipe holds.
    if let Some(mut stdout) = stdout {
        let _ = std::io::Read::read_to_string(&mut stdout, &mut text);
    }
    bail!(
        "cannot download {}: {}",
        source.file,
        reason(&text).unwrap_or("apt-helper failed")
    )
}

/// The reason that apt gives on the line after `Err:`.
pub(super) fn reason(text: &str) -> Option<&str> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("Err:"));
    lines.next()?;
    let line = lines.next()?.trim();
    Some(line.split(" [IP").next().unwrap_or(line))
}
