//! Memory files that programs have mapped, shared: the server has them too.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, OFlags};

use super::area::FileId;
use crate::Errno;
use crate::memory::{Backing, FileBacking};

/// Fewer files than this are kept without a look at whether they are still in use.
const FEW: usize = 32;
/// And less memory than this, in bytes.
const LITTLE: u64 = 256 << 20;

#[derive(Debug)]
struct Known {
    backing: Arc<FileBacking>,
    writable: bool,
    length: u64,
}

/// The files by what the kernel calls them.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    files: HashMap<FileId, Known>,
    /// How many there were, and of how many bytes, after unused ones were last looked for.
    after: (usize, u64),
}

impl Table {
    fn bytes(&self) -> u64 {
        let lengths = self.files.values().map(|known| known.length);
        lengths.fold(0, u64::saturating_add)
    }

    fn is_due(&self) -> bool {
        self.files.len() > FEW.max(self.after.0.saturating_mul(2))
            || self.bytes() > LITTLE.max(self.after.1.saturating_mul(2))
    }
}

impl Files {
    /// Keeps a file that a program mapped, `length` bytes of it. The answer is whether it is time
    /// to look for those that are not in use any more.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if it is not a file in memory.
    pub(super) fn add(&self, file: OwnedFd, length: u64) -> Result<bool, Errno> {
        // Files in memory have seals. A file elsewhere could make an access wait without bound.
        fs::fcntl_get_seals(&file).map_err(|_| Errno::EINVAL)?;
        let data = fs::fstat(&file).map_err(|_| Errno::EINVAL)?;
        let flags = fs::fcntl_getfl(&file).map_err(|_| Errno::EINVAL)?;
        let id = FileId {
            device: data.st_dev,
            inode: data.st_ino,
        };
        let writable = flags & OFlags::RWMODE == OFlags::RDWR;
        let mut table = self.lock();
        if let Some(known) = table.files.get_mut(&id)
            && known.writable >= writable
        {
            known.length = known.length.max(length);
            return Ok(false);
        }
        let known = Known {
            backing: Arc::new(FileBacking::new(file)?),
            writable,
            length,
        };
        table.files.insert(id, known);
        Ok(table.is_due())
    }

    /// The memory of a file that is known.
    pub(super) fn get(&self, id: FileId) -> Option<Arc<dyn Backing>> {
        let table = self.lock();
        let known = table.files.get(&id)?;
        Some(Arc::clone(&known.backing) as Arc<dyn Backing>)
    }

    /// Forgets the files that are not among those `mapped`, nor pinned.
    pub(super) fn retain(&self, mapped: &HashSet<FileId>) {
        let mut table = self.lock();
        table
            .files
            .retain(|id, known| mapped.contains(id) || Arc::strong_count(&known.backing) > 1);
        table.after = (table.files.len(), table.bytes());
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().files.len()
    }
}
