//! Whether a program can run under the preload library.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs;
use thiserror::Error;

/// The dynamic linker of the C library that the preload library is for.
const LINKER: &[u8] = b"ld-linux-x86-64.so.2";
/// Interpreters of interpreters, as the kernel follows them.
const DEPTH: usize = 5;
/// More program headers than this are not looked through.
const HEADERS: u16 = 256;

/// Why a program cannot run under the preload library.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It cannot be read.
    #[error("{}: it cannot be read", path.display())]
    Read {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It changes the user or the group.
    #[error("{}: it is set-uid or set-gid, and such programs take no preload library", path.display())]
    SetId {
        /// The program.
        path: PathBuf,
    },
    /// It gets capabilities from its file.
    #[error("{}: its file has capabilities, and such programs take no preload library", path.display())]
    FileCapabilities {
        /// The program.
        path: PathBuf,
    },
    /// It has no dynamic linker.
    #[error("{}: it is static, and only dynamic programs take a preload library", path.display())]
    Static {
        /// The program.
        path: PathBuf,
    },
    /// It is linked with another C library, or is for another machine.
    #[error("{}: it is not a program for the GNU C library on x86-64", path.display())]
    Foreign {
        /// The program.
        path: PathBuf,
    },
}

/// Looks whether the program at `path`, or the interpreter of the script there, takes the preload
/// library.
///
/// # Errors
/// See [`ProgramError`].
pub fn check_program(path: &Path) -> Result<(), ProgramError> {
    let mut path = path.to_path_buf();
    for _ in 0..DEPTH {
        match check_one(&path)? {
            Some(interpreter) => path = interpreter,
            None => return Ok(()),
        }
    }
    Err(ProgramError::Foreign { path })
}

/// Checks one file; the answer is the interpreter if it is a script.
fn check_one(path: &Path) -> Result<Option<PathBuf>, ProgramError> {
    let (file, head, mode) = open(path).map_err(|source| ProgramError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    if let Some(line) = head.strip_prefix(b"#!") {
        return Ok(Some(interpreter_of(line)));
    }
    let path = path.to_path_buf();
    if mode & 0o6000 != 0 {
        return Err(ProgramError::SetId { path });
    }
    let mut capabilities = [0; 64];
    if fs::getxattr(&path, "security.capability", &mut capabilities[..]).is_ok() {
        return Err(ProgramError::FileCapabilities { path });
    }
    match linker_of(&file, &head) {
        Some(Some(linker)) if linker.ends_with(LINKER) => Ok(None),
        Some(None) => Err(ProgramError::Static { path }),
        _ => Err(ProgramError::Foreign { path }),
    }
}

/// The file, how it begins, and its mode.
fn open(path: &Path) -> io::Result<(File, Vec<u8>, u32)> {
    let file = File::open(path)?;
    let mut head = vec![0; 256];
    let length = file.read_at(&mut head, 0)?;
    head.truncate(length);
    let mode = file.metadata()?.mode();
    Ok((file, head, mode))
}

/// The interpreter in a script's first line.
fn interpreter_of(line: &[u8]) -> PathBuf {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    PathBuf::from(text.split_whitespace().next().unwrap_or_default())
}

/// The dynamic linker that an x86-64 ELF program names: `Some(None)` if it names none, `None` if
/// it is no such program.
fn linker_of(file: &File, head: &[u8]) -> Option<Option<Vec<u8>>> {
    const X86_64: u16 = 62;
    const SEGMENT_INTERPRETER: u32 = 3;
    // The class is 64 bits, the order little-endian.
    if !head.starts_with(b"\x7fELF\x02\x01") || half(head, 18)? != X86_64 {
        return None;
    }
    let (start, size, count) = (word(head, 32)?, half(head, 54)?, half(head, 56)?);
    for index in 0..count.min(HEADERS) {
        let offset = start.checked_add(u64::from(index) * u64::from(size))?;
        let mut header = [0; 56];
        file.read_exact_at(&mut header, offset).ok()?;
        if u32::from_le_bytes(header.get(..4)?.try_into().ok()?) != SEGMENT_INTERPRETER {
            continue;
        }
        let (offset, length) = (word(&header, 8)?, word(&header, 32)?);
        let mut name = vec![
            0;
            usize::try_from(length)
                .ok()
                .filter(|length| *length <= 4096)?
        ];
        file.read_exact_at(&mut name, offset).ok()?;
        let end = name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(name.len());
        name.truncate(end);
        return Some(Some(name));
    }
    Some(None)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
