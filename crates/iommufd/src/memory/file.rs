//! Memory that is a file.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::ptr;
use std::sync::OnceLock;

use super::guard::Window;
use super::{Backing, BackingId, HostRange};
use crate::Errno;

/// A memfd, a file of tmpfs or of hugetlbfs: shared by all who map it, and outlives them.
///
/// It is read and written as a file, so that a truncation under an access is an error of that
/// access and no signal. In a process that guards itself ([`guard_truncation`]) it is mapped as
/// well when it is first asked where it is; a truncation under an access there loses the file: the
/// access is to memory that nobody else has, and every later one fails.
///
/// [`guard_truncation`]: super::guard_truncation
#[derive(Debug)]
pub struct FileBacking {
    file: File,
    id: BackingId,
    window: OnceLock<Option<Window>>,
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
        Ok(Self {
            file,
            id,
            window: OnceLock::new(),
        })
    }

    /// Whether it is memory alone: a memfd, or a file of tmpfs or hugetlbfs.
    pub(crate) fn is_memory(&self) -> bool {
        const TMPFS: u64 = 0x0102_1994;
        const HUGETLBFS: u64 = 0x9584_58f6;
        let system = rustix::fs::fstatfs(&self.file);
        system.is_ok_and(|system| [TMPFS, HUGETLBFS].contains(&(system.f_type as u64)))
    }

    /// The file as it was long when it was first asked for, mapped.
    fn window(&self) -> Option<&Window> {
        let make = || {
            let length = usize::try_from(self.length()?).ok()?;
            Window::new(&self.file, length)
        };
        self.window.get_or_init(make).as_ref()
    }

    /// Whether the mapped file was truncated under an access.
    fn is_lost(&self) -> bool {
        let window = self.window.get().and_then(Option::as_ref);
        window.is_some_and(Window::is_lost)
    }
}

fn number(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl Backing for FileBacking {
    fn id(&self) -> BackingId {
        self.id
    }

    fn host(&self, offset: u64, length: u64) -> Option<HostRange> {
        let length = usize::try_from(length).ok()?;
        let window = self.window().filter(|window| !window.is_lost())?;
        let start = window.at(offset, length)?;
        Some(HostRange { start, length })
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        if self.is_lost() {
            return Err(Errno::EFAULT);
        }
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|_| Errno::EFAULT)
    }

    fn write(&self, offset: u64, buffer: &[u8]) -> Result<(), Errno> {
        // A write past the end would make the file longer instead of failing.
        let end = offset
            .checked_add(buffer.len() as u64)
            .ok_or(Errno::EFAULT)?;
        if self.is_lost() || end > self.length().unwrap_or(0) {
            return Err(Errno::EFAULT);
        }
        if self.file.write_all_at(buffer, offset).is_ok() {
            return Ok(());
        }
        // Files of huge pages are only written where they are mapped.
        let window = self.window().ok_or(Errno::EFAULT)?;
        let start = window.at(offset, buffer.len()).ok_or(Errno::EFAULT)?;
        // SAFETY: the bytes are in the window, which no reference is to.
        unsafe { ptr::copy_nonoverlapping(buffer.as_ptr(), start.as_ptr(), buffer.len()) };
        if window.is_lost() {
            return Err(Errno::EFAULT);
        }
        Ok(())
    }

    fn length(&self) -> Option<u64> {
        self.file.metadata().ok().map(|data| data.len())
    }
}
