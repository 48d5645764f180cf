//! Guest kernels: stock ones from Debian's packages, fetched into the cache, or a file.

pub(crate) mod apt;
pub(crate) mod fetch;
mod series;
pub mod source;
#[cfg(test)]
mod tests;

use crate::modules::ModuleTree;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What `--kernel` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// A Debian kernel series, such as `6.1` or `7`.
    Series(&'static str),
    /// A bzImage.
    File(PathBuf),
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(known) = series::names().into_iter().find(|name| *name == text) {
            return Ok(Choice::Series(known));
        }
        if Path::new(text).is_file() {
            return Ok(Choice::File(PathBuf::from(text)));
        }
        Err(format!(
            "neither a file nor one of {}",
            series::names().join(", ")
        ))
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Choice::Series(name) => write!(f, "{name}"),
            Choice::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A kernel that is on this machine.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its release as `uname -r` gives it; empty if the file does not say.
    pub release: String,
    /// The bzImage.
    pub image: PathBuf,
    modules: Option<PathBuf>,
}

impl Kernel {
    /// Gets the kernel: from the cache, from a mirror, or where the user says it is.
    pub fn get(choice: &Choice) -> Result<Kernel> {
        match choice {
            Choice::Series(name) => fetch::series(name),
            Choice::File(path) => Kernel::from_file(path),
        }
    }

    /// The images and load order of `wanted` modules. A kernel that came without a module
    /// folder is taken to have everything built in.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<crate::modules::Module>> {
        match &self.modules {
            Some(folder) => ModuleTree::open(folder)?
                .resolve(wanted)
                .with_context(|| format!("modules of {}", self.release)),
            None => Ok(Vec::new()),
        }
    }

    fn from_file(path: &Path) -> Result<Kernel> {
        let image = path
            .canonicalize()
            .with_context(|| format!("cannot open {}", path.display()))?;
        let release = bzimage_release(&image)?;
        // `ROOT/boot/vmlinuz-X` has its modules in `ROOT/lib/modules/X`; newer packages keep
        // the image in that folder itself.
        let beside = image.parent().map(Path::to_path_buf);
        let root = beside.as_deref().and_then(Path::parent);
        let modules = root
            .into_iter()
            .flat_map(|root| [root.join("lib/modules"), root.join("usr/lib/modules")])
            .map(|folder| folder.join(&release))
            .chain(beside.clone())
            .find(|folder| !release.is_empty() && folder.join("modules.builtin").is_file());
        if modules.is_none() {
            crate::ui::say(format!(
                "no modules found for {}: taking all drivers as built in",
                image.display()
            ));
        }
        Ok(Kernel {
            release,
            image,
            modules,
        })
    }

    /// Finds the one kernel in an unpacked package tree.
    fn from_tree(root: &Path) -> Result<Kernel> {
        for base in ["lib/modules", "usr/lib/modules"] {
            let Ok(entries) = std::fs::read_dir(root.join(base)) else {
                continue;
            };
            for entry in entries {
                let folder = entry?.path();
                let release = folder
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default();
                let images = [
                    folder.join("vmlinuz"),
                    root.join("boot").join(format!("vmlinuz-{release}")),
                ];
                let image = images.into_iter().find(|image| image.is_file());
                if let Some(image) = image
                    && folder.join("modules.builtin").is_file()
                {
                    return Ok(Kernel {
                        release,
                        image,
                        modules: Some(folder),
                    });
                }
            }
        }
        bail!("no kernel with its modules in {}", root.display())
    }
}

/// Reads the release out of a bzImage's header (Documentation/arch/x86/boot.rst): the magic
/// `HdrS` is at 0x202, and the 16-bit field at 0x20e holds the version string's place, less
/// 0x200.
fn bzimage_release(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut head = [0; 0x210];
    let is_bzimage = file.read_exact(&mut head).is_ok() && &head[0x202..0x206] == b"HdrS";
    if !is_bzimage {
        bail!(
            "{} is not a bzImage: give a file such as /boot/vmlinuz-*",
            path.display()
        );
    }
    let pointer = u64::from(u16::from_le_bytes([head[0x20e], head[0x20f]]));
    if pointer == 0 {
        return Ok(String::new());
    }
    file.seek(SeekFrom::Start(pointer + 0x200))?;
    let mut text = Vec::new();
    file.take(256).read_to_end(&mut text)?;
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let release = text.split_whitespace().next().unwrap_or_default();
    Ok(release.to_owned())
}
