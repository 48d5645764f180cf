//! Memory that callers map through the descriptor of a context.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vm_iommu_driver::iommu::{IommuError, SharedPages};

use super::Context;
use crate::Errno;
use crate::caller::PAGE_SIZE;

/// Memory for callers, by the offset at which they map it.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    regions: BTreeMap<u64, Region>,
}

#[derive(Debug)]
struct Region {
    length: u64,
    file: Arc<File>,
    /// The vIOMMU that it belongs to, once that is an object.
    owner: Option<u32>,
}

/// A region by its offset.
pub(crate) type Memory = u64;

/// A mapping of a region. While it lives, what the region belongs to cannot be destroyed, and the
/// context lives.
#[derive(Debug)]
pub struct Mapping {
    context: Arc<Context>,
    owner: u32,
    file: Arc<File>,
    length: u64,
}

#[derive(Debug)]
struct Pages {
    file: Arc<File>,
    offset: u64,
    length: u64,
}

impl SharedPages for Pages {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), IommuError> {
        let end = at
            .checked_add(bytes.len() as u64)
            .ok_or(IommuError::Invalid)?;
        if end > self.length {
            return Err(IommuError::Invalid);
        }
        self.file
            .write_all_at(bytes, at)
            .map_err(|_| IommuError::Io)
    }
}

impl Regions {
    /// Makes memory of so many bytes.
    pub(super) fn allocate(
        &mut self,
        length: u64,
    ) -> Result<(Box<dyn SharedPages>, Memory), IommuError> {
        if length == 0 || !length.is_multiple_of(PAGE_SIZE) {
            return Err(IommuError::Invalid);
        }
        let file = Arc::new(memfd(length).map_err(|_| IommuError::NoMemory)?);
        // The first free place; offset 0 is left out.
        let mut offset = PAGE_SIZE;
        for (start, region) in &self.regions {
            if start - offset >= length {
                break;
            }
            offset = start + region.length;
        }
        offset.checked_add(length).ok_or(IommuError::NoMemory)?;
        let region = Region {
            length,
            file: Arc::clone(&file),
            owner: None,
        };
        self.regions.insert(offset, region);
        Ok((
            Box::new(Pages {
                file,
                offset,
                length,
            }),
            offset,
        ))
    }

    pub(super) fn give_back(&mut self, memory: &[Memory]) {
        for offset in memory {
            self.regions.remove(offset);
        }
    }

    pub(super) fn own(&mut self, owner: u32, memory: Vec<Memory>) {
        for offset in memory {
            if let Some(region) = self.regions.get_mut(&offset) {
                region.owner = Some(owner);
            }
        }
    }

    /// Forgets what belonged to a vIOMMU.
    pub(super) fn remove(&mut self, owner: u32) {
        self.regions.retain(|_, region| region.owner != Some(owner));
    }
}

impl Context {
    /// Maps memory that the context handed out, as `mmap` of its descriptor with `MAP_SHARED`.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] unless both are whole pages, [`EPERM`](Errno::EPERM) for execution,
    /// [`ENXIO`](Errno::ENXIO) unless exactly this was handed out.
    pub fn mmap(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        execute: bool,
    ) -> Result<Mapping, Errno> {
        if !length.is_multiple_of(PAGE_SIZE) || !offset.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        if execute {
            return Err(Errno::EPERM);
        }
        let mut state = self.lock();
        let region = state.regions.regions.get(&offset).ok_or(Errno::ENXIO)?;
        let owner = region.owner.ok_or(Errno::ENXIO)?;
        if region.length != length {
            return Err(Errno::ENXIO);
        }
        let file = Arc::clone(&region.file);
        state.objects.hold(owner);
        drop(state);
        Ok(Mapping {
            context: Arc::clone(self),
            owner,
            file,
            length,
        })
    }
}

impl Mapping {
    /// The memory, from its first byte on.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How many bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl Clone for Mapping {
    /// As a process that forks has its mappings twice.
    fn clone(&self) -> Self {
        self.context.lock().objects.hold(self.owner);
        Self {
            context: Arc::clone(&self.context),
            owner: self.owner,
            file: Arc::clone(&self.file),
            length: self.length,
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.context.shared.release(self.owner);
    }
}

fn memfd(length: u64) -> std::io::Result<File> {
    // SAFETY: the name is a C string; nothing else is passed.
    let descriptor = unsafe { libc::memfd_create(c"iommufd".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    let file = unsafe { File::from_raw_fd(descriptor) };
    file.set_len(length)?;
    Ok(file)
}
