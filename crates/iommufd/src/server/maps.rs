//! `/proc/PID/maps`, through a descriptor that the process itself opened: it stays that of the
//! address space that was the process's then, and is empty once that is gone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs;
use rustix::io::Errno as OsErrno;
use rustix::ioctl::{self, Updater};

use super::area::{Area, FileId};
use crate::Errno;

/// `struct procmap_query` (linux/fs.h, Linux 6.11).
#[repr(C)]
#[derive(Debug, Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    area_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    major: u32,
    minor: u32,
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

const READABLE: u64 = 1;
const WRITABLE: u64 = 2;
const SHARED: u64 = 8;

/// `PROCMAP_QUERY`.
const QUERY: ioctl::Opcode = ioctl::opcode::read_write::<Query>(b'f', 17);

/// How much text is read at once.
const CHUNK: usize = 16 << 10;
/// The kernel allows 65,530 areas unless told otherwise; far more than that is no honest text.
const MOST: usize = 1 << 20;

/// The areas of one address space.
#[derive(Debug)]
pub(super) struct Maps {
    /// Its position is that of one reader at a time.
    text: Mutex<()>,
    file: File,
    /// Whether the kernel answers for one address; before Linux 6.11 the text is read.
    queries: AtomicBool,
}

impl Maps {
    /// From the descriptor of `/proc/self/maps` that the process opened.
    pub(super) fn new(file: File) -> Self {
        Maps {
            text: Mutex::new(()),
            file,
            queries: AtomicBool::new(true),
        }
    }

    /// The areas of `start..end`, which they cover without a gap.
    ///
    /// # Errors
    /// [`Errno::EFAULT`] if there is a gap, or the address space is gone.
    pub(super) fn areas(&self, start: u64, end: u64) -> Result<Vec<Area>, Errno> {
        if self.queries.load(Ordering::Relaxed) {
            match self.areas_by_query(start, end)? {
                Some(areas) => return Ok(areas),
                None => self.queries.store(false, Ordering::Relaxed),
            }
        }
        let mut areas = Vec::new();
        let mut next = start;
        self.each(|area| {
            if area.end > next && next < end {
                if area.start > next {
                    return false;
                }
                next = area.end;
                areas.push(area);
            }
            next < end
        })?;
        if next < end {
            return Err(Errno::EFAULT);
        }
        Ok(areas)
    }

    fn areas_by_query(&self, start: u64, end: u64) -> Result<Option<Vec<Area>>, Errno> {
        let mut areas = Vec::new();
        let mut next = start;
        while next < end {
            let Some(area) = self.query(next)? else {
                return Ok(None);
            };
            if areas.len() >= MOST {
                return Err(Errno::ENOMEM);
            }
            next = area.end;
            areas.push(area);
        }
        Ok(Some(areas))
    }

    /// The files that the process has mapped, shared.
    pub(super) fn shared_files(&self) -> Vec<FileId> {
        let mut files = Vec::new();
        let outcome = self.each(|area| {
            files.extend(area.shared);
            true
        });
        if outcome.is_err() {
            files.clear();
        }
        files
    }

    /// The area of an address; `None` if this kernel does not say.
    fn query(&self, address: u64) -> Result<Option<Area>, Errno> {
        let mut query = Query {
            size: size_of::<Query>() as u64,
            address,
            ..Query::default()
        };
        // SAFETY: the structure is the one that this request reads and writes; it names no
        // buffers, so nothing else is written to.
        let outcome = unsafe { ioctl::ioctl(&self.file, Updater::<QUERY, Query>::new(&mut query)) };
        match outcome {
            Ok(()) => {}
            Err(OsErrno::NOTTY | OsErrno::INVAL) => return Ok(None),
            // Nothing is mapped there, or the process is gone.
            Err(_) => return Err(Errno::EFAULT),
        }
        if !(query.start..query.end).contains(&address) {
            return Err(Errno::EFAULT);
        }
        let is_shared = query.area_flags & SHARED != 0 && query.inode != 0;
        Ok(Some(Area {
            start: query.start,
            end: query.end,
            read: query.area_flags & READABLE != 0,
            write: query.area_flags & WRITABLE != 0,
            shared: is_shared.then(|| FileId {
                device: fs::makedev(query.major, query.minor),
                inode: query.inode,
            }),
            offset: query.offset,
        }))
    }

    /// Goes through the text until `visit` has enough.
    fn each(&self, mut visit: impl FnMut(Area) -> bool) -> Result<(), Errno> {
        let _one = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let mut position = 0;
        let mut rest = Vec::new();
        let mut seen = 0;
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = self
                .file
                .read_at(&mut chunk, position)
                .map_err(|_| Errno::EFAULT)?;
            if read == 0 {
                return Ok(());
            }
            position += read as u64;
            rest.extend_from_slice(chunk.get(..read).unwrap_or_default());
            let whole = rest.iter().rposition(|byte| *byte == b'\n');
            let tail = rest.split_off(whole.map_or(0, |end| end + 1));
            for line in String::from_utf8_lossy(&rest).lines() {
                seen += 1;
                let Some(area) = Area::parse(line) else {
                    return Err(Errno::EFAULT);
                };
                if !visit(area) {
                    return Ok(());
                }
            }
            rest = tail;
            if seen > MOST || rest.len() > CHUNK {
                return Err(Errno::ENOMEM);
            }
        }
    }
}
