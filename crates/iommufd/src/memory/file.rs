//! Memory that is a file.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::{Backing, BackingId};
use crate::Errno;

/// A memfd, a file of tmpfs or of hugetlbfs: shared by all who map it, and outlives them.
///
/// It is read and written as a file, so that a truncation under a device's access is an error of
/// that access and no signal.
#[derive(Debug)]
pub struct FileBacking {
    file: File,
    id: BackingId,
}

impl FileBacking {
    /// The memory behind a descriptor.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if it is not a regular file; what `fstat` says.
    pub fn new(descriptor: OwnedFd) -> Result<Self, Errno> {
        let file = File::from(descriptor);
        let data = file.metadata().map_err(|error| number(&error))?;
        if !data.is_file() {
            return Err(Errno::EINVAL);
        }
        let id = BackingId::File {
            device: data.dev(),
            inode: data.ino(),
        };
        Ok(Self { file, id })
    }
}

fn number(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl Backing for FileBacking {
    fn id(&self) -> BackingId {
        self.id
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|_| Errno::EFAULT)
    }

    fn write(&self, offset: u64, buffer: &[u8]) -> Result<(), Errno> {
        // A write past the end would make the file longer instead of failing.
        let end = offset
            .checked_add(buffer.len() as u64)
            .ok_or(Errno::EFAULT)?;
        if end > self.length().unwrap_or(0) {
            return Err(Errno::EFAULT);
        }
        self.file
            .write_all_at(buffer, offset)
            .map_err(|_| Errno::EFAULT)
    }

    fn length(&self) -> Option<u64> {
        self.file.metadata().ok().map(|data| data.len())
    }
}
