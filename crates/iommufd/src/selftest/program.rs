//! A program of a test, with memory that is none.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::caller::{PAGE_SIZE, Place};
use crate::memory::{Backing, BackingId, Run};
use crate::uapi::Plain;
use crate::{Caller, CallerFile, Capability, Context, ContextFile, Errno, Process, ProcessId};

/// Where the structures of calls are.
const SCRATCH: u64 = 0x7000_0000;
/// How many bytes there are for them.
const SCRATCH_LENGTH: u64 = 4 * PAGE_SIZE;
/// The first descriptor.
const FIRST_FILE: i32 = 100;

/// A program that makes calls. Its memory is kept in pages, so that any access is safe, and any
/// access can be made to fail.
pub struct Program {
    memory: Arc<Memory>,
    files: Mutex<HashMap<i32, File>>,
    capable: AtomicBool,
}

enum File {
    Ours(Arc<dyn ContextFile>),
    Os(OwnedFd),
}

/// Its address space.
struct Memory {
    this: Weak<Self>,
    id: ProcessId,
    pages: Mutex<BTreeMap<u64, Page>>,
    alive: AtomicBool,
    limit: AtomicU64,
    /// How many more events succeed before one fails; negative for all.
    fuse: Arc<AtomicI64>,
}

struct Page {
    bytes: Box<[u8]>,
    writable: bool,
}

impl Program {
    /// A program without memory but for structures; no two have the same `id`.
    pub fn new(id: u64) -> Self {
        let memory = Arc::new_cyclic(|this| Memory {
            this: Weak::clone(this),
            id: ProcessId(id),
            pages: Mutex::default(),
            alive: AtomicBool::new(true),
            limit: AtomicU64::new(u64::MAX),
            fuse: Arc::new(AtomicI64::new(-1)),
        });
        let program = Self {
            memory,
            files: Mutex::default(),
            capable: AtomicBool::new(true),
        };
        program.add_memory(SCRATCH, SCRATCH_LENGTH, true);
        program
    }

    /// Which address space it has.
    pub fn id(&self) -> ProcessId {
        self.memory.id
    }

    /// Adds memory, whole pages, of zeros.
    pub fn add_memory(&self, address: u64, length: u64, writable: bool) {
        let mut pages = self.memory.lock();
        for page in (address..address + length).step_by(PAGE_SIZE as usize) {
            let bytes = vec![0; PAGE_SIZE as usize].into_boxed_slice();
            pages.insert(page, Page { bytes, writable });
        }
    }

    /// The program ends: its memory is gone.
    pub fn end(&self) {
        self.memory.alive.store(false, Ordering::Relaxed);
    }

    /// How many bytes it may lock.
    pub fn limit_memlock(&self, bytes: u64) {
        self.memory.limit.store(bytes, Ordering::Relaxed);
    }

    /// Whether it has all capabilities, or none.
    pub fn set_capable(&self, capable: bool) {
        self.capable.store(capable, Ordering::Relaxed);
    }

    /// What counts down with each event that can fail: the write of an answer and the resolution
    /// of memory. The one that brings it to 0 fails; below, none does.
    pub fn fuse(&self) -> Arc<AtomicI64> {
        Arc::clone(&self.memory.fuse)
    }

    /// Makes a call with a structure, which is what it was made to be afterwards.
    ///
    /// # Errors
    /// What the call says.
    pub fn call<T: Plain>(
        &self,
        context: &Arc<Context>,
        request: u32,
        structure: &mut T,
    ) -> Result<i32, Errno> {
        let result = self.call_with(context, request, &structure.to_bytes());
        let mut bytes = vec![0; size_of::<T>()];
        self.memory.read_bytes(SCRATCH, &mut bytes)?;
        *structure = T::from_bytes(&bytes);
        result
    }

    /// Makes a call with a structure as bytes.
    ///
    /// # Errors
    /// What the call says.
    pub fn call_with(
        &self,
        context: &Arc<Context>,
        request: u32,
        structure: &[u8],
    ) -> Result<i32, Errno> {
        self.poke(SCRATCH, structure)?;
        self.call_at(context, request, SCRATCH)
    }

    /// Makes a call with its third argument as it is.
    ///
    /// # Errors
    /// What the call says.
    pub fn call_at(
        &self,
        context: &Arc<Context>,
        request: u32,
        argument: u64,
    ) -> Result<i32, Errno> {
        let reply = context.ioctl(self, request, argument)?;
        let mut value = reply.value;
        for new in reply.files {
            let number = self.add_file(File::Ours(new.file));
            match new.place {
                Place::Value => value = number,
                Place::At(address) => self.poke(address, &number.to_le_bytes())?,
            }
        }
        Ok(value)
    }

    /// Gives the program a file of the operating system; yields its number.
    pub fn open(&self, file: OwnedFd) -> i32 {
        self.add_file(File::Os(file))
    }

    /// A file that a call gave it.
    ///
    /// # Errors
    /// [`Errno::EBADF`].
    pub fn context_file(&self, number: i32) -> Result<Arc<dyn ContextFile>, Errno> {
        match self.lock_files().get(&number) {
            Some(File::Ours(file)) => Ok(Arc::clone(file)),
            _ => Err(Errno::EBADF),
        }
    }

    /// Closes a file.
    pub fn close(&self, number: i32) {
        let file = self.lock_files().remove(&number);
        drop(file);
    }

    /// Writes memory as the program itself does.
    ///
    /// # Errors
    /// [`Errno::EFAULT`].
    pub fn poke(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.memory.write_bytes(address, bytes)
    }

    /// Reads memory as the program itself does.
    ///
    /// # Errors
    /// [`Errno::EFAULT`].
    pub fn peek(&self, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        self.memory.read_bytes(address, bytes)
    }

    fn add_file(&self, file: File) -> i32 {
        let mut files = self.lock_files();
        let mut number = FIRST_FILE;
        while files.contains_key(&number) {
            number += 1;
        }
        files.insert(number, file);
        number
    }

    fn lock_files(&self) -> MutexGuard<'_, HashMap<i32, File>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller for Program {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.memory.read_bytes(address, buffer)
    }

    fn write(&self, address: u64, buffer: &[u8]) -> Result<(), Errno> {
        self.memory.burn()?;
        self.memory.write_bytes(address, buffer)
    }

    fn process(&self) -> Arc<dyn Process> {
        Arc::clone(&self.memory) as _
    }

    fn file(&self, descriptor: i32) -> Result<CallerFile, Errno> {
        match self.lock_files().get(&descriptor) {
            Some(File::Ours(file)) => Ok(CallerFile::Ours(Arc::clone(file))),
            Some(File::Os(file)) => file
                .try_clone()
                .map(CallerFile::Os)
                .map_err(|_| Errno::EBADF),
            None => Err(Errno::EBADF),
        }
    }

    fn capable(&self, _: Capability) -> bool {
        self.capable.load(Ordering::Relaxed)
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn burn(&self) -> Result<(), Errno> {
        if self.fuse.fetch_sub(1, Ordering::Relaxed) == 0 {
            Err(Errno::EFAULT)
        } else {
            Ok(())
        }
    }

    /// Does something with each piece of memory that is in one page.
    fn pieces(
        &self,
        address: u64,
        length: usize,
        mut event: impl FnMut(&mut Page, usize, std::ops::Range<usize>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut pages = self.lock();
        let mut done = 0;
        while done < length {
            let at = address.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            let offset = (at % PAGE_SIZE) as usize;
            let part = (PAGE_SIZE as usize - offset).min(length - done);
            let page = pages.get_mut(&(at - offset as u64)).ok_or(Errno::EFAULT)?;
            event(page, offset, done..done + part)?;
            done += part;
        }
        Ok(())
    }

    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.pieces(address, buffer.len(), |page, offset, part| {
            let from = page
                .bytes
                .get(offset..offset + part.len())
                .ok_or(Errno::EFAULT)?;
            buffer
                .get_mut(part)
                .ok_or(Errno::EFAULT)?
                .copy_from_slice(from);
            Ok(())
        })
    }

    fn write_bytes(&self, address: u64, buffer: &[u8]) -> Result<(), Errno> {
        self.pieces(address, buffer.len(), |page, offset, part| {
            if !page.writable {
                return Err(Errno::EFAULT);
            }
            let to = page
                .bytes
                .get_mut(offset..offset + part.len())
                .ok_or(Errno::EFAULT)?;
            to.copy_from_slice(buffer.get(part).ok_or(Errno::EFAULT)?);
            Ok(())
        })
    }
}

impl Process for Memory {
    fn id(&self) -> ProcessId {
        self.id
    }

    fn user(&self) -> u32 {
        1000
    }

    fn memlock_limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    fn resolve(&self, address: u64, length: u64, write: bool) -> Result<Vec<Run>, Errno> {
        self.burn()?;
        if !self.alive.load(Ordering::Relaxed) {
            return Err(Errno::EFAULT);
        }
        let end = address.checked_add(length).ok_or(Errno::EFAULT)?;
        let pages = self.lock();
        let mut at = address;
        for (&start, page) in pages.range(address..end) {
            if start != at || (write && !page.writable) {
                return Err(Errno::EFAULT);
            }
            at += PAGE_SIZE;
        }
        if at < end {
            return Err(Errno::EFAULT);
        }
        let backing = self.this.upgrade().ok_or(Errno::EFAULT)?;
        Ok(vec![Run {
            length,
            backing,
            offset: address,
        }])
    }
}

impl Backing for Memory {
    fn id(&self) -> BackingId {
        BackingId::Process(self.id)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.read_bytes(offset, buffer)
    }

    fn write(&self, offset: u64, buffer: &[u8]) -> Result<(), Errno> {
        self.write_bytes(offset, buffer)
    }
}
