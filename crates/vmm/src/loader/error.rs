//! Why a kernel cannot be loaded.

use std::io;
use std::path::{Path, PathBuf};

use linux_loader::loader;
use vm_memory::{GuestAddress, GuestMemoryError};

/// A kernel or one of its modules that cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The kernel is at fault.
    #[error("kernel {}: {source}", path.display())]
    Kernel {
        /// The kernel's file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
    /// A module is at fault.
    #[error("initrd {}: {source}", path.display())]
    Module {
        /// The module's file.
        path: PathBuf,
        /// What is wrong with it.
        source: ModuleError,
    },
}

/// What is wrong with a kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file cannot be opened.
    #[error("{}", file_trouble("opened", .0))]
    Open(io::Error),
    /// The file cannot be read.
    #[error("{}", file_trouble("read", .0))]
    Read(io::Error),
    /// The content is of no known format.
    #[error(
        "this is no kernel that can be booted; give a bzImage, an x86-64 ELF with a PVH note, or a multiboot image"
    )]
    UnknownFormat,
    /// The content is compressed as a whole.
    #[error("this file is compressed with {with}; decompress it first")]
    Compressed {
        /// The program that compresses so.
        with: &'static str,
    },
    /// An ELF for something other than an x86 PC.
    #[error("this ELF is for machine type {machine}, not for x86; give a kernel built for x86")]
    ForeignElf {
        /// The ELF header's `e_machine`.
        machine: u16,
    },
    /// An x86-64 ELF that cannot be entered.
    #[error("this ELF has no PVH entry note; give the bzImage, or build with CONFIG_PVH=y")]
    NoPvhNote,
    /// A 32-bit ELF that cannot be entered.
    #[error("this 32-bit ELF has no multiboot header in its first 8 KiB; give a multiboot image")]
    NoMultibootHeader,
    /// A bzImage of a boot protocol before 2.12.
    #[error("its boot protocol {}.{:02} is too old; give Linux 3.8 or newer", version >> 8, version & 0xff)]
    BootProtocol {
        /// The version in the setup header.
        version: u16,
    },
    /// A bzImage without the 64-bit entry.
    #[error("it has no 64-bit entry; give a kernel built for x86-64")]
    Not64Bit,
    /// The file ends too early.
    #[error("{what} lies past the end of the file; the file is cut short or damaged")]
    Truncated {
        /// What should have been there.
        what: &'static str,
    },
    /// A field of a header makes no sense.
    #[error("its {field} is {value:#x}, which cannot be; the file is damaged")]
    Field {
        /// The field, in the words of the format.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A multiboot header asks for something that is not there.
    #[error("its multiboot header demands flags {flags:#x}, and only {known:#x} are known")]
    MultibootFlags {
        /// The header's mandatory flags.
        flags: u32,
        /// Those that this loader understands.
        known: u32,
    },
    /// The kernel goes where there is no RAM, or where the machine keeps data.
    #[error(
        "it wants to be at {start:#x} to {end:#x}, outside of usable RAM ({least:#x} to {most:#x}); give more memory"
    )]
    OutsideRam {
        /// First address that the kernel wants.
        start: u64,
        /// First address past the kernel.
        end: u64,
        /// First usable address.
        least: u64,
        /// First address past usable RAM.
        most: u64,
    },
    /// The command line does not fit.
    #[error("the command line has {given} bytes, and {most} are possible; shorten it")]
    CmdlineTooLong {
        /// Its length in bytes.
        given: usize,
        /// The most that fits.
        most: usize,
    },
    /// The command line has a zero byte within.
    #[error("the command line has a zero byte in it; remove it")]
    CmdlineNul,
    /// Data for the kernel does not fit.
    #[error("no room for {what} ({size} bytes); give more memory")]
    NoRoom {
        /// What does not fit.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
    },
    /// Guest memory refused a write.
    #[error("{what} at {:#x} is outside of RAM; give more memory", address.0)]
    Memory {
        /// What was written.
        what: &'static str,
        /// Where.
        address: GuestAddress,
        /// What guest memory said.
        source: GuestMemoryError,
    },
    /// The image did not load.
    #[error("it does not load ({source}); the file is damaged, or memory is too small")]
    Loader {
        /// What the loader said.
        source: loader::Error,
    },
}

/// What is wrong with a module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// The file cannot be opened.
    #[error("{}", file_trouble("opened", .0))]
    Open(io::Error),
    /// The file cannot be read.
    #[error("{}", file_trouble("read", .0))]
    Read(io::Error),
    /// Something whose size is not known beforehand.
    #[error("this is no regular file; copy its content to one")]
    NotAFile,
    /// The file became shorter or memory refused it.
    #[error("it cannot be copied into guest memory; was it changed meanwhile?")]
    Copy(#[source] GuestMemoryError),
    /// There is no room for it.
    #[error("no room for its {size} bytes below {below:#x}; give more memory or a smaller file")]
    NoRoom {
        /// Size in bytes.
        size: u64,
        /// First address that it must not reach.
        below: u64,
    },
}

/// What went wrong while a kernel was loaded, before it is known to whom it belongs.
#[derive(Debug)]
pub(super) enum Trouble {
    Image(ImageError),
    Module(PathBuf, ModuleError),
}

impl Trouble {
    /// The error, `kernel` being the kernel's path.
    pub fn at(self, kernel: &Path) -> LoadError {
        match self {
            Self::Image(source) => LoadError::Kernel {
                path: kernel.to_owned(),
                source,
            },
            Self::Module(path, source) => LoadError::Module { path, source },
        }
    }
}

impl From<ImageError> for Trouble {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

/// One line about a file, with what can be done.
fn file_trouble(done: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file; check the path".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; make the file readable for this user".to_owned()
        }
        io::ErrorKind::IsADirectory => "this is a directory; name a file in it".to_owned(),
        _ => format!("it cannot be {done}: {error}"),
    }
}
