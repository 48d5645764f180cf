//! Modules: their files, and where they go.

use std::fs::File;
use std::io;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::error::Trouble;
use super::{ImageError, LoadError, ModuleError};
use crate::config::Module;

/// Modules begin on a page.
pub(super) const PAGE: u64 = 0x1000;

/// A module with its open file.
pub(super) struct ModuleFile<'a> {
    pub path: &'a Path,
    pub cmdline: &'a str,
    pub size: u64,
    file: File,
}

/// Opens the files of `modules`.
pub(super) fn open_modules(modules: &[Module]) -> Result<Vec<ModuleFile<'_>>, LoadError> {
    modules
        .iter()
        .map(|module| {
            let fail = |source| LoadError::Module {
                path: module.path.clone(),
                source,
            };
            let file = File::open(&module.path).map_err(|error| fail(ModuleError::Open(error)))?;
            let metadata = file
                .metadata()
                .map_err(|error| fail(ModuleError::Read(error)))?;
            if metadata.is_dir() {
                return Err(fail(ModuleError::Read(io::ErrorKind::IsADirectory.into())));
            }
            if !metadata.is_file() {
                return Err(fail(ModuleError::NotAFile));
            }
            Ok(ModuleFile {
                path: &module.path,
                cmdline: &module.cmdline,
                size: metadata.len(),
                file,
            })
        })
        .collect()
}

impl ModuleFile<'_> {
    /// Copies the module to `address`.
    pub fn copy(&mut self, memory: &GuestMemoryMmap, address: GuestAddress) -> Result<(), Trouble> {
        let Ok(size) = usize::try_from(self.size) else {
            return Err(self.no_room(u64::MAX));
        };
        if size == 0 {
            return Ok(());
        }
        memory
            .read_exact_volatile_from(address, &mut self.file, size)
            .map_err(|error| Trouble::Module(self.path.to_owned(), ModuleError::Copy(error)))
    }

    /// The error that there is no room for this module below `below`.
    pub fn no_room(&self, below: u64) -> Trouble {
        Trouble::Module(
            self.path.to_owned(),
            ModuleError::NoRoom {
                size: self.size,
                below,
            },
        )
    }
}

/// The highest page-aligned place of `size` bytes within `[floor, ceiling)`.
pub(super) fn place_high(size: u64, floor: u64, ceiling: u64) -> Option<u64> {
    let start = ceiling.checked_sub(size)? & !(PAGE - 1);
    (start >= floor).then_some(start)
}

/// The next page boundary.
pub(super) fn page_up(address: u64) -> Option<u64> {
    address.checked_next_multiple_of(PAGE)
}

/// Checks that a kernel's range `[start, end)` lies within `[least, most)`.
pub(super) fn check_range(start: u64, end: u64, least: u64, most: u64) -> Result<(), ImageError> {
    if start < least || end > most || start > end {
        return Err(ImageError::OutsideRam {
            start,
            end,
            least,
            most,
        });
    }
    Ok(())
}

/// A text with the zero byte that ends it, which must have at most `most` bytes without it.
pub(super) fn c_string(text: &str, most: usize) -> Result<Vec<u8>, ImageError> {
    if text.contains('\0') {
        return Err(ImageError::CmdlineNul);
    }
    if text.len() > most {
        return Err(ImageError::CmdlineTooLong {
            given: text.len(),
            most,
        });
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    Ok(bytes)
}

/// Writes to guest memory what the kernel is to find there.
pub(super) fn write(
    memory: &GuestMemoryMmap,
    what: &'static str,
    address: GuestAddress,
    bytes: &[u8],
) -> Result<(), ImageError> {
    memory
        .write_slice(bytes, address)
        .map_err(|source| ImageError::Memory {
            what,
            address,
            source,
        })
}
