//! A raw image file, or a host's block device.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use super::{BlockBackend, MAX_QUEUES, SECTOR};

/// How much is written at a time where the host cannot zero a range by itself, in bytes.
const ZEROES: usize = 64 * 1024;

/// Why there is no disk.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file cannot be opened or asked for its size.
    #[error(
        "cannot open the disk image {path} (it must exist, be readable, and be writable unless the disk is read-only)"
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// It is a directory, a pipe or the like.
    #[error("{path} is neither a file nor a block device: name an image")]
    Kind {
        /// Which.
        path: PathBuf,
    },
    /// Someone else writes to it, or reads it while this device would write.
    #[error("the disk image {path} is in use: stop its other user, or have both read only")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// Not even one sector.
    #[error("the disk image has {len} bytes, less than one sector of {SECTOR}: make it larger")]
    Empty {
        /// Its size in bytes.
        len: u64,
    },
    /// The number of queues is out of range.
    #[error("{queues} queues, where 1 to {MAX_QUEUES} are possible")]
    Queues {
        /// The number asked for.
        queues: u16,
    },
}

/// A raw image: byte `n` of the disk is byte `n` of the file.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    len: u64,
}

impl RawFile {
    /// Opens an image, and locks it: one writer, or any number of readers.
    ///
    /// # Errors
    /// [`OpenError::Open`], [`OpenError::Kind`] or [`OpenError::InUse`].
    pub fn open(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open {
            path: path.to_owned(),
            source,
        };
        // Asked before opening: opening a pipe would wait for its other end.
        let kind = path.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::Kind {
                path: path.to_owned(),
            });
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(failed)?;
        let locked = if read_only {
            file.try_lock_shared()
        } else {
            file.try_lock()
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => {
                log::info!("{} cannot be locked: {error}", path.display());
            }
        }
        // The metadata of a block device has no length.
        let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { file, len })
    }

    fn fallocate(&self, mode: FallocateMode, offset: u64, len: u64) -> io::Result<bool> {
        match fallocate(&self.file, mode, true, offset, len) {
            Ok(()) => Ok(true),
            Err(error) if [libc::EOPNOTSUPP, libc::ENOSYS].contains(&error.errno()) => Ok(false),
            Err(error) => Err(io::Error::from_raw_os_error(error.errno())),
        }
    }
}

impl BlockBackend for RawFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.fallocate(FallocateMode::PunchHole, offset, len)?;
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        if unmap && self.fallocate(FallocateMode::PunchHole, offset, len)? {
            return Ok(());
        }
        if self.fallocate(FallocateMode::ZeroRange, offset, len)? {
            return Ok(());
        }
        let zeroes = vec![0; ZEROES];
        let mut done = 0;
        while done < len {
            let count = (len - done).min(ZEROES as u64);
            self.write_at(offset + done, &zeroes[..count as usize])?;
            done += count;
        }
        Ok(())
    }
}
