//! The memory of this process.

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use super::{Backing, BackingId, HostRange, Run};
use crate::{Caller, CallerFile, Capability, Errno, Process, ProcessId};

/// This process, as one that calls in its own name.
///
/// Its memory is reached by copies that fail where nothing is mapped, and at full speed through
/// [`Backing::host`]; who unmaps memory under a device that uses the latter gets a signal, as for
/// any pointer.
#[derive(Debug)]
pub struct HostProcess {
    id: ProcessId,
}

/// The identity of this process; those that others assign must differ.
const THIS_PROCESS: ProcessId = ProcessId(0);

impl HostProcess {
    /// This process; its identity is 0.
    ///
    /// # Safety
    /// What is named by it, to be mapped for devices or as a structure of a call, is read and written
    /// by whoever may then: it must be memory of this process that stays mapped meanwhile and that
    /// nothing relies on to stay as it is, as buffers for DMA are.
    pub unsafe fn this() -> Arc<Self> {
        static THIS: OnceLock<Arc<HostProcess>> = OnceLock::new();
        Arc::clone(THIS.get_or_init(|| Arc::new(Self { id: THIS_PROCESS })))
    }

    /// Reads memory of this process.
    ///
    /// # Errors
    /// [`Errno::EFAULT`] if a byte is not readable.
    pub(crate) fn read(address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let local = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let remote = libc::iovec {
            iov_base: address as *mut _,
            iov_len: buffer.len(),
        };
        // SAFETY: `local` is `buffer`, which is exclusively borrowed. The kernel checks every byte
        // of `remote` and reads only.
        let done = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
        whole(done, buffer.len())
    }

    /// Writes memory of this process.
    ///
    /// # Errors
    /// [`Errno::EFAULT`] if a byte is not writable.
    ///
    /// # Safety
    /// The owner of the bytes has offered them for being written: as a buffer of a call, or as
    /// the target of DMA.
    pub(crate) unsafe fn write(address: u64, buffer: &[u8]) -> Result<(), Errno> {
        let local = libc::iovec {
            iov_base: buffer.as_ptr() as *mut _,
            iov_len: buffer.len(),
        };
        let remote = libc::iovec {
            iov_base: address as *mut _,
            iov_len: buffer.len(),
        };
        // SAFETY: `local` is only read. The kernel checks every byte of `remote`, and the caller
        // promises that they may be written.
        let done = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
        whole(done, buffer.len())
    }
}

fn whole(done: isize, wanted: usize) -> Result<(), Errno> {
    if usize::try_from(done) == Ok(wanted) {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

impl Process for HostProcess {
    fn id(&self) -> ProcessId {
        self.id
    }

    fn user(&self) -> u32 {
        // SAFETY: it has no argument and cannot fail.
        unsafe { libc::getuid() }
    }

    fn memlock_limit(&self) -> u64 {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `limit` is a valid place for the result.
        match unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } {
            0 => limit.rlim_cur,
            _ => 0,
        }
    }

    fn resolve(&self, address: u64, length: u64, write: bool) -> Result<Vec<Run>, Errno> {
        let end = address.checked_add(length).ok_or(Errno::EFAULT)?;
        let maps = fs::read_to_string("/proc/self/maps").map_err(|_| Errno::EFAULT)?;
        let mut runs = Vec::new();
        let mut at = address;
        for area in maps.lines().filter_map(Area::parse) {
            if at >= end {
                break;
            }
            if area.end <= at {
                continue;
            }
            if area.start > at || !area.readable || (write && !area.writable) {
                return Err(Errno::EFAULT);
            }
            let stop = area.end.min(end);
            let (id, offset) = area.identity(self.id, at);
            let backing = HostBacking {
                id,
                shift: at.wrapping_sub(offset),
            };
            runs.push(Run {
                length: stop - at,
                backing: Arc::new(backing),
                offset,
            });
            at = stop;
        }
        if at < end {
            Err(Errno::EFAULT)
        } else {
            Ok(runs)
        }
    }
}

/// A thread of this process that calls in its own name: what a VMM maps its memory with.
impl Caller for HostProcess {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        Self::read(address, buffer)
    }

    fn write(&self, address: u64, buffer: &[u8]) -> Result<(), Errno> {
        // SAFETY: who made this promised that what is named may be written.
        unsafe { Self::write(address, buffer) }
    }

    fn process(&self) -> Arc<dyn Process> {
        // SAFETY: who made this promised it.
        unsafe { Self::this() }
    }

    fn file(&self, descriptor: i32) -> Result<CallerFile, Errno> {
        // SAFETY: duplicating any number is harmless: it is refused if it is no descriptor.
        let copy = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 0) };
        if copy < 0 {
            return Err(Errno::EBADF);
        }
        // SAFETY: the kernel just made it, and nobody else knows it.
        Ok(CallerFile::Os(unsafe { OwnedFd::from_raw_fd(copy) }))
    }

    fn capable(&self, _: Capability) -> bool {
        // SAFETY: it has no argument and cannot fail.
        unsafe { libc::geteuid() == 0 }
    }
}

/// A line of `/proc/PID/maps`.
struct Area {
    start: u64,
    end: u64,
    readable: bool,
    writable: bool,
    shared: bool,
    offset: u64,
    device: u64,
    inode: u64,
}

impl Area {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let flags = fields.next()?.as_bytes();
        let offset = hex(fields.next()?)?;
        let (major, minor) = fields.next()?.split_once(':')?;
        Some(Self {
            start: hex(start)?,
            end: hex(end)?,
            readable: flags.first() == Some(&b'r'),
            writable: flags.get(1) == Some(&b'w'),
            shared: flags.get(3) == Some(&b's'),
            offset,
            device: libc::makedev(hex(major)? as u32, hex(minor)? as u32),
            inode: fields.next()?.parse().ok()?,
        })
    }

    /// Memory that is shared is known by its file, also where another process maps it.
    fn identity(&self, process: ProcessId, address: u64) -> (BackingId, u64) {
        if self.shared && self.inode != 0 {
            let id = BackingId::File {
                device: self.device,
                inode: self.inode,
            };
            (id, self.offset + (address - self.start))
        } else {
            (BackingId::Process(process), address)
        }
    }
}

/// Memory of this process, whatever it is known as.
#[derive(Debug)]
struct HostBacking {
    id: BackingId,
    /// The address of offset 0.
    shift: u64,
}

impl Backing for HostBacking {
    fn id(&self) -> BackingId {
        self.id
    }

    fn host(&self, offset: u64, length: u64) -> Option<HostRange> {
        let start = NonNull::new(self.shift.wrapping_add(offset) as *mut u8)?;
        Some(HostRange {
            start,
            length: usize::try_from(length).ok()?,
        })
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        HostProcess::read(self.shift.wrapping_add(offset), buffer)
    }

    fn write(&self, offset: u64, buffer: &[u8]) -> Result<(), Errno> {
        // SAFETY: the memory was mapped for devices to write; `Process::resolve` gave it out for
        // that alone.
        unsafe { HostProcess::write(self.shift.wrapping_add(offset), buffer) }
    }
}
