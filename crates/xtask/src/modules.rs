//! Kernel modules from a package's tree: which files a wanted module needs, in load order.
//! Packages carry no `modules.dep`, so the dependencies are read from the modules themselves.

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// One module, ready to be put into an initramfs.
#[derive(Debug, Clone)]
pub struct Module {
    /// Its name with underscores, as `lsmod` shows it.
    pub name: String,
    /// The uncompressed ELF file.
    pub image: Vec<u8>,
}

/// The modules of one kernel release.
#[derive(Debug)]
pub struct ModuleTree {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl ModuleTree {
    /// Indexes a folder such as `lib/modules/6.1.0-1-amd64`.
    pub fn open(root: &Path) -> Result<Self> {
        let mut tree = ModuleTree {
            files: BTreeMap::new(),
            builtin: BTreeSet::new(),
        };
        let list = root.join("modules.builtin");
        let list = std::fs::read_to_string(&list)
            .with_context(|| format!("cannot read {}", list.display()))?;
        tree.builtin.extend(list.lines().filter_map(name_of));
        let mut folders = vec![root.join("kernel")];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder)
                .with_context(|| format!("cannot read {}", folder.display()))?;
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                } else if let Some(name) = path.to_str().and_then(name_of) {
                    tree.files.insert(name, path);
                }
            }
        }
        Ok(tree)
    }

    /// The modules that must be loaded, dependencies first, for `wanted` to work; those that
    /// are built into the kernel are left out.
    pub fn resolve(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut loaded = BTreeSet::new();
        let mut order = Vec::new();
        for name in wanted {
            self.visit(&canonical(name), &mut loaded, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        loaded: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<()> {
        // Inserted before its dependencies are visited, so that a cycle ends.
        if self.builtin.contains(name) || !loaded.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            bail!("this kernel has no module {name}");
        };
        let image = read(path)?;
        for dependency in dependencies(&image) {
            self.visit(&dependency, loaded, order)?;
        }
        order.push(Module {
            name: name.to_owned(),
            image,
        });
        Ok(())
    }
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The module name of a path such as `kernel/drivers/block/virtio_blk.ko.xz`.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (stem, extension) = file.split_once(".ko")?;
    matches!(extension, "" | ".xz" | ".zst" | ".gz").then(|| canonical(stem))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let decompress = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => ["xz", "-dc"],
        Some("zst") => ["zstd", "-dcq"],
        Some("gz") => ["gzip", "-dc"],
        _ => {
            return std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    // Busybox has xz and gzip, and is needed anyway.
    let command = match (crate::tools::find(decompress[0]), decompress[0]) {
        (Some(program), _) => Command::new(program),
        (None, program) => {
            let mut command = Command::new("busybox");
            command.arg(program);
            command
        }
    };
    let mut command = command;
    command.arg(decompress[1]).arg(path);
    let output = crate::proc::output(&mut command, Duration::from_secs(60))
        .with_context(|| format!("cannot decompress {}", path.display()))?;
    Ok(output.stdout)
}

/// The `depends=` string of the module's `.modinfo` section, which holds NUL-terminated
/// strings.
fn dependencies(image: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = image.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = image.get(at + KEY.len()..).unwrap_or_default();
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect()
}

#[cfg(test)]
mod tests;
