//! Kernels: from a file to guest memory and a way in.
//!
//! The format is seen from the file's content. What a file says about itself is a stranger's
//! word: every size, offset and address is checked against the file and the machine's RAM before
//! it is used.

mod bzimage;
mod elf;
mod error;
mod format;
mod multiboot;
mod place;
mod pvh;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{Read, Seek};

use vm_memory::{GuestAddress, GuestMemoryMmap, ReadVolatile};

pub use error::{ImageError, LoadError, ModuleError};
pub use format::Format;

use crate::boot::Entry;
use crate::config::KernelConfig;
use place::{ModuleFile, open_modules};

/// What a kernel is read from.
pub trait Image: Read + Seek + ReadVolatile {}

impl<T: Read + Seek + ReadVolatile> Image for T {}

/// Puts a kernel, its modules and its command line into guest memory, with the description of
/// the machine that its protocol prescribes; `rsdp` is where the ACPI tables begin.
///
/// # Errors
///
/// A file cannot be read, is of no known format, contradicts itself, or has no room in memory.
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &KernelConfig,
    rsdp: GuestAddress,
) -> Result<Entry, LoadError> {
    let in_kernel = |source| LoadError::Kernel {
        path: kernel.path.clone(),
        source,
    };
    let mut image = File::open(&kernel.path).map_err(|error| in_kernel(ImageError::Open(error)))?;
    let format = Format::detect(&mut image).map_err(in_kernel)?;
    log::info!("{} is {format}", kernel.path.display());
    let mut modules = open_modules(&kernel.initrds)?;
    let request = Request {
        memory,
        name: kernel.path.to_string_lossy().into_owned(),
        cmdline: &kernel.cmdline,
        rsdp,
    };
    match format {
        Format::BzImage => bzimage::load(&request, &mut image, &mut modules),
        Format::PvhElf => pvh::load(&request, &mut image, &mut modules),
        Format::Multiboot => multiboot::load(&request, &mut image, &mut modules),
    }
    .map_err(|error| error.at(&kernel.path))
}

/// What the loaders of all formats are told.
struct Request<'a> {
    memory: &'a GuestMemoryMmap,
    /// The kernel's path, as multiboot kernels see it.
    name: String,
    cmdline: &'a str,
    rsdp: GuestAddress,
}

/// Modules with their files, as loaders take them.
type Modules<'a> = [ModuleFile<'a>];
