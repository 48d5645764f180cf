//! Memory with an identity.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::{Errno, ProcessId};

/// Which memory it is: pages are the same if backing and offset are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum BackingId {
    /// A file; the offset is that in the file.
    File {
        /// `st_dev`.
        device: u64,
        /// `st_ino`.
        inode: u64,
    },
    /// Memory of one process alone; the offset is the virtual address.
    Process(ProcessId),
    /// Memory that a device exports, numbered by this framework.
    Exported(u64),
}

/// Bytes that this process can reach with loads and stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRange {
    /// The first byte.
    pub start: NonNull<u8>,
    /// How many bytes.
    pub length: usize,
}

/// Memory that can be mapped for devices.
///
/// Nothing is really pinned: who unmaps or truncates it while a device uses it is seen to, and an
/// access then fails.
pub trait Backing: Send + Sync {
    /// Which memory it is.
    fn id(&self) -> BackingId;

    /// Where this process reaches `length` bytes at `offset`, if it can at full speed and without
    /// a fault for as long as the backing lives.
    fn host(&self, offset: u64, length: u64) -> Option<HostRange> {
        let _ = (offset, length);
        None
    }

    /// Reads at `offset`.
    ///
    /// # Errors
    /// [`Errno::EFAULT`] if a byte is not there any more.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno>;

    /// Writes at `offset`.
    ///
    /// # Errors
    /// [`Errno::EFAULT`] if a byte is not there any more, or not writable.
    fn write(&self, offset: u64, buffer: &[u8]) -> Result<(), Errno>;

    /// Its size in bytes now, if it has one.
    fn length(&self) -> Option<u64> {
        None
    }
}

/// A piece of memory.
#[derive(Clone)]
pub struct Run {
    /// How many bytes.
    pub length: u64,
    /// Where they are.
    pub backing: Arc<dyn Backing>,
    /// From where in it, in bytes.
    pub offset: u64,
}
