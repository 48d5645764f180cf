//! Who calls, and where its memory is.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::Errno;
use crate::memory::Run;

/// The size in bytes of a processor's page, in which memory is resolved, pinned and accounted.
pub const PAGE_SIZE: u64 = 4096;

/// What a caller may do beyond others (Linux capabilities, emulated).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// `CAP_SYS_RESOURCE`: choose how pinned memory is accounted.
    SysResource,
    /// `CAP_IPC_LOCK`: pin memory without limit.
    IpcLock,
    /// `CAP_SYS_RAWIO`: learn physical addresses.
    SysRawio,
}

/// A thread that makes a call, for the time of the call.
pub trait Caller {
    /// Reads its memory.
    ///
    /// # Errors
    /// [`Errno::EFAULT`] if any byte is not readable.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno>;

    /// Writes its memory.
    ///
    /// # Errors
    /// [`Errno::EFAULT`] if any byte is not writable.
    fn write(&self, address: u64, buffer: &[u8]) -> Result<(), Errno>;

    /// The address space it runs in.
    fn process(&self) -> Arc<dyn Process>;

    /// What one of its descriptors stands for.
    ///
    /// # Errors
    /// [`Errno::EBADF`].
    fn file(&self, descriptor: i32) -> Result<CallerFile, Errno>;

    /// Whether it has a capability now.
    fn capable(&self, capability: Capability) -> bool;
}

/// What a descriptor of a caller stands for.
pub enum CallerFile {
    /// A file that this framework made.
    Ours(Arc<dyn ContextFile>),
    /// A file of the operating system, as a descriptor of this process.
    Os(OwnedFd),
}

/// Names an address space of a process; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

/// The address space of a process (Linux `mm`).
///
/// It is kept by what was mapped from it and says so when the process is gone: then nothing in it
/// resolves any more.
pub trait Process: Send + Sync {
    /// Which one it is.
    fn id(&self) -> ProcessId;

    /// The user that it runs as, for accounting.
    fn user(&self) -> u32;

    /// How many bytes it may lock (`RLIMIT_MEMLOCK`); [`u64::MAX`] is no limit.
    fn memlock_limit(&self) -> u64;

    /// Where the `length` bytes at `address` are, whole pages both, in order.
    ///
    /// # Errors
    /// [`Errno::EFAULT`] if a byte is not mapped, or not writable and `write` is asked for.
    fn resolve(&self, address: u64, length: u64, write: bool) -> Result<Vec<Run>, Errno>;
}

/// Whether a file can be read or written without waiting, as `poll` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There is something to read.
    pub readable: bool,
    /// It takes writes.
    pub writable: bool,
}

/// Is called when a file becomes readable; no lock of the framework is held meanwhile.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// What a descriptor that a call handed out stands for. Dropping it is the last close.
pub trait ContextFile: Any + Send + Sync {
    /// Reads up to `length` bytes into the caller's memory at `address`; yields how many.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a file that is not read; what the file says otherwise.
    fn read(&self, caller: &dyn Caller, address: u64, length: u64) -> Result<u64, Errno> {
        let _ = (caller, address, length);
        Err(Errno::EINVAL)
    }

    /// Writes up to `length` bytes from the caller's memory at `address`; yields how many.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for a file that is not written; what the file says otherwise.
    fn write(&self, caller: &dyn Caller, address: u64, length: u64) -> Result<u64, Errno> {
        let _ = (caller, address, length);
        Err(Errno::EINVAL)
    }

    /// What `poll` tells.
    fn readiness(&self) -> Readiness {
        Readiness::default()
    }

    /// Has `waker` called whenever the file becomes readable.
    fn set_waker(&self, waker: Option<Waker>) {
        let _ = waker;
    }
}

/// A file that a call made, for which the caller is to get a descriptor.
pub struct NewFile {
    /// What the descriptor stands for.
    pub file: Arc<dyn ContextFile>,
    /// Where the caller learns its number.
    pub place: Place,
    /// `FD_CLOEXEC`.
    pub close_on_exec: bool,
}

/// Where a caller learns the number of a new descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the result of the call.
    Value,
    /// In the 32 bits at this address of its memory.
    At(u64),
}

/// What a call yields.
#[derive(Default)]
pub struct Reply {
    /// The result, not negative.
    pub value: i32,
    /// The descriptors to give.
    pub files: Vec<NewFile>,
}
