//! A process image: what a process is from one `exec` to the next.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::files::Files;
use super::maps::Maps;
use crate::memory::{Backing, BackingId, Run};
use crate::{Errno, Mapping, PAGE_SIZE, Process, ProcessId};

/// An image, and its memory as far as that is its own.
#[derive(Debug)]
pub(super) struct Image {
    this: Weak<Image>,
    number: u64,
    process: u32,
    user: u32,
    memory: File,
    maps: Maps,
    files: Arc<Files>,
    lockable: AtomicU64,
    connections: AtomicUsize,
    mappings: Mutex<HashMap<u64, Mapping>>,
}

impl Image {
    /// A new image; `memory` and `maps` are its `/proc/self/mem` and `/proc/self/maps`. As a fork
    /// of `parent` it has the same mappings.
    pub(super) fn new(
        number: u64,
        (process, user): (u32, u32),
        (memory, maps): (File, File),
        files: Arc<Files>,
        parent: Option<&Image>,
    ) -> Arc<Self> {
        let mappings = parent.map(|parent| parent.mappings().clone());
        Arc::new_cyclic(|this| Image {
            this: Weak::clone(this),
            number,
            process,
            user,
            memory,
            maps: Maps::new(maps),
            files,
            lockable: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            mappings: Mutex::new(mappings.unwrap_or_default()),
        })
    }

    /// Its number, never used again.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The process and the user that it is of.
    pub(super) fn who(&self) -> (u32, u32) {
        (self.process, self.user)
    }

    pub(super) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Notes its limit of locked memory, in bytes.
    pub(super) fn set_lockable(&self, bytes: u64) {
        self.lockable.store(bytes, Ordering::Relaxed);
    }

    /// Counts a connection.
    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a connection that is gone; with the last its mappings go.
    pub(super) fn disconnected(&self) {
        if self.connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mappings = std::mem::take(&mut *self.mappings());
            drop(mappings);
        }
    }

    /// Whether it has connections: it is its process's present one then.
    pub(super) fn is_connected(&self) -> bool {
        self.connections.load(Ordering::Acquire) > 0
    }

    /// Keeps a mapping that it made.
    pub(super) fn keep(&self, number: u64, mapping: Mapping) {
        self.mappings().insert(number, mapping);
    }

    /// A mapping that it has no more.
    pub(super) fn unmapped(&self, number: u64) {
        let gone = self.mappings().remove(&number);
        // The lock is open again before what the mapping holds goes.
        drop(gone);
    }

    fn mappings(&self) -> MutexGuard<'_, HashMap<u64, Mapping>> {
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads its memory.
    pub(super) fn read_memory(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.memory
            .read_exact_at(buffer, address)
            .map_err(|_| Errno::EFAULT)
    }

    /// Writes its memory. The kernel would write through this descriptor to what the process
    /// itself may not write, so that is looked at first.
    pub(super) fn write_memory(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let end = end_of(address, bytes.len() as u64)?;
        let areas = self.maps.areas(address, end)?;
        if !areas.iter().all(|area| area.write) {
            return Err(Errno::EFAULT);
        }
        self.memory
            .write_all_at(bytes, address)
            .map_err(|_| Errno::EFAULT)
    }
}

fn end_of(address: u64, length: u64) -> Result<u64, Errno> {
    address.checked_add(length).ok_or(Errno::EFAULT)
}

impl Process for Image {
    fn id(&self) -> ProcessId {
        ProcessId(self.number)
    }

    fn user(&self) -> u32 {
        self.user
    }

    fn memlock_limit(&self) -> u64 {
        self.lockable.load(Ordering::Relaxed)
    }

    fn resolve(&self, address: u64, length: u64, write: bool) -> Result<Vec<Run>, Errno> {
        let end = end_of(address, length)?;
        let own: Arc<dyn Backing> = self.this.upgrade().ok_or(Errno::EFAULT)?;
        let mut runs = Vec::new();
        for area in self.maps.areas(address, end)? {
            if !area.read || write && !area.write {
                return Err(Errno::EFAULT);
            }
            let start = area.start.max(address);
            let length = area.end.min(end) - start;
            let known = area.shared.and_then(|file| self.files.get(file));
            runs.push(match known {
                Some(backing) => {
                    let offset = end_of(area.offset, start - area.start)?;
                    let size = backing.length().unwrap_or(u64::MAX);
                    // Past the end of the file there is no page.
                    if end_of(offset, length)? > size.next_multiple_of(PAGE_SIZE) {
                        return Err(Errno::EFAULT);
                    }
                    Run {
                        length,
                        backing,
                        offset,
                    }
                }
                None => Run {
                    length,
                    backing: Arc::clone(&own),
                    offset: start,
                },
            });
        }
        Ok(runs)
    }
}

/// Memory of this image alone; the offset is the address. Copied only, since nobody else can map
/// it.
impl Backing for Image {
    fn id(&self) -> BackingId {
        BackingId::Process(ProcessId(self.number))
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.read_memory(offset, buffer)
    }

    fn write(&self, offset: u64, buffer: &[u8]) -> Result<(), Errno> {
        self.write_memory(offset, buffer)
    }
}
