//! A writer of `newc` cpio archives, the format of a Linux initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Component, Path};

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive under construction. Parent directories are added as needed; entries keep the
/// order in which they were added, and carry no time, so equal input gives equal bytes.
#[derive(Debug)]
pub struct Archive<W> {
    out: W,
    inode: u32,
    directories: BTreeSet<String>,
}

struct Entry<'a> {
    path: &'a str,
    mode: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl<W: Write> Archive<W> {
    /// An empty archive that goes to `out`.
    pub fn new(out: W) -> Self {
        Archive {
            out,
            inode: 0,
            directories: BTreeSet::new(),
        }
    }

    /// Adds a regular file with the permission bits `permissions`.
    pub fn file(&mut self, path: &str, permissions: u32, data: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(Entry {
            path: relative(path),
            mode: 0o100_000 | permissions,
            device: (0, 0),
            data,
        })
    }

    /// Adds a copy of a host file.
    pub fn copy(&mut self, path: &str, permissions: u32, from: &Path) -> Result<()> {
        let data =
            std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, permissions, &data)
    }

    /// Adds an empty directory.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.parents(path)?;
        self.one_directory(relative(path))
    }

    /// Adds a symbolic link at `path` that points to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(Entry {
            path: relative(path),
            mode: SYMLINK,
            device: (0, 0),
            data: target.as_bytes(),
        })
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.parents(path)?;
        self.entry(Entry {
            path: relative(path),
            mode: CHARACTER_DEVICE,
            device: (major, minor),
            data: &[],
        })
    }

    /// Writes the trailer and gives the output back.
    pub fn finish(mut self) -> Result<W> {
        self.entry(Entry {
            path: "TRAILER!!!",
            mode: 0,
            device: (0, 0),
            data: &[],
        })?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        let parent = Path::new(relative(path)).parent().unwrap_or(Path::new(""));
        let mut so_far = String::new();
        for component in parent.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            if !so_far.is_empty() {
                so_far.push('/');
            }
            so_far.push_str(&name.to_string_lossy());
            let directory = so_far.clone();
            self.one_directory(&directory)?;
        }
        Ok(())
    }

    fn one_directory(&mut self, path: &str) -> Result<()> {
        if !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        self.entry(Entry {
            path,
            mode: DIRECTORY,
            device: (0, 0),
            data: &[],
        })
    }

    fn entry(&mut self, entry: Entry<'_>) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(entry.data.len())
            .with_context(|| format!("{} is too large for an initramfs", entry.path))?;
        let links = if entry.mode == DIRECTORY { 2 } else { 1 };
        let name_size = entry.path.len() as u32 + 1;
        let fields = [
            self.inode,
            entry.mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            entry.device.0,
            entry.device.1,
            name_size,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(entry.path);
        header.push('\0');
        self.out.write_all(header.as_bytes())?;
        self.pad(header.len())?;
        self.out.write_all(entry.data)?;
        self.pad(entry.data.len())
    }

    fn pad(&mut self, written: usize) -> Result<()> {
        let padding = written.next_multiple_of(4) - written;
        Ok(self.out.write_all(&[0; 3][..padding])?)
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

#[cfg(test)]
mod tests;
