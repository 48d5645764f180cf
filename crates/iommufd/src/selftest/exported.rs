//! Memory that a test exports: a file.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ioas::Exported;
use crate::memory::{Backing, BackingId};
use crate::{ContextFile, Errno, PAGE_SIZE, System};

/// The most that a test may export.
const LIMIT: u64 = 512 * PAGE_SIZE;

/// Exported memory.
pub(super) struct TestMemory {
    exported: Arc<Exported>,
}

impl TestMemory {
    pub(super) fn new(system: &System, length: u64) -> Result<Arc<Self>, Errno> {
        let length = length.next_multiple_of(PAGE_SIZE);
        if length == 0 || length > LIMIT {
            return Err(Errno::EINVAL);
        }
        let bytes = Bytes {
            id: BackingId::Exported(system.number()),
            bytes: Mutex::new(vec![0; length as usize]),
        };
        Ok(Arc::new(Self {
            exported: Exported::new(Arc::new(bytes), length),
        }))
    }

    pub(super) fn set_revoked(&self, revoked: bool) {
        self.exported.set_revoked(revoked);
    }
}

impl ContextFile for TestMemory {}

/// The memory that a file exports, if it does.
pub(crate) fn exported(file: &dyn ContextFile) -> Option<Arc<Exported>> {
    let memory = (file as &dyn Any).downcast_ref::<TestMemory>()?;
    Some(Arc::clone(&memory.exported))
}

struct Bytes {
    id: BackingId,
    bytes: Mutex<Vec<u8>>,
}

impl Backing for Bytes {
    fn id(&self) -> BackingId {
        self.id
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes.get(offset as usize..).ok_or(Errno::EFAULT)?;
        buffer.copy_from_slice(bytes.get(..buffer.len()).ok_or(Errno::EFAULT)?);
        Ok(())
    }

    fn write(&self, offset: u64, buffer: &[u8]) -> Result<(), Errno> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes.get_mut(offset as usize..).ok_or(Errno::EFAULT)?;
        bytes
            .get_mut(..buffer.len())
            .ok_or(Errno::EFAULT)?
            .copy_from_slice(buffer);
        Ok(())
    }
}
