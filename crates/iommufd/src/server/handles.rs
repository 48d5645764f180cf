//! What the descriptors stand for that programs hold.

use std::collections::HashMap;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{Errno as OsErrno, Result};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use rustix::time::Timespec;
use vm_iommufd_wire::Name;

use super::bell::Bell;
use crate::{Context, ContextFile};

/// What a descriptor stands for.
#[derive(Clone)]
pub(super) enum Object {
    /// An open of `/dev/iommu`.
    Context(Arc<Context>),
    /// A file that a context made.
    File(Arc<dyn ContextFile>, Arc<Bell>),
}

struct Entry {
    object: Object,
    /// The server's end: while the program's end is open anywhere, it does not hang up.
    end: Arc<OwnedFd>,
}

/// All descriptors, by handle.
pub(super) struct Handles {
    server: u64,
    epoll: OwnedFd,
    table: Mutex<HashMap<u64, Entry>>,
    /// Held while objects go whose last descriptor is closed: who waits for it finds them gone.
    reaping: Mutex<()>,
    next: AtomicU64,
}

impl Handles {
    pub(super) fn new(server: u64) -> Result<Self> {
        Ok(Handles {
            server,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            table: Mutex::default(),
            reaping: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// A descriptor for a context.
    pub(super) fn add_context(&self, context: Arc<Context>) -> Result<OwnedFd> {
        self.add(|_| Object::Context(context))
    }

    /// A descriptor for a file.
    pub(super) fn add_file(&self, file: Arc<dyn ContextFile>) -> Result<OwnedFd> {
        let mut made = None;
        let fd = self.add(|end| {
            let bell = Arc::new(Bell::new(end));
            made = Some(Arc::clone(&bell));
            Object::File(Arc::clone(&file), bell)
        })?;
        if let Some(bell) = made {
            let ringer = Arc::clone(&bell);
            file.set_waker(Some(Arc::new(move || ringer.ring())));
            if file.readiness().readable {
                bell.ring();
            }
        }
        Ok(fd)
    }

    /// Makes the socket pair. What it stands for goes when the end that is returned, and all its
    /// copies, are closed.
    fn add(&self, object: impl FnOnce(Arc<OwnedFd>) -> Object) -> Result<OwnedFd> {
        let (ours, theirs) = net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        let name = Name {
            server: self.server,
            handle,
        };
        net::bind(&ours, &name.address()?)?;
        let end = Arc::new(ours);
        let entry = Entry {
            object: object(Arc::clone(&end)),
            end: Arc::clone(&end),
        };
        self.lock().insert(handle, entry);
        // Hang-ups are told unasked.
        let (data, events) = (EventData::new_u64(handle), EventFlags::empty());
        if let Err(error) = epoll::add(&self.epoll, &end, data, events) {
            let entry = self.lock().remove(&handle);
            drop(entry);
            return Err(error);
        }
        Ok(theirs)
    }

    /// What a handle stands for.
    pub(super) fn get(&self, handle: u64) -> Option<Object> {
        self.lock().get(&handle).map(|entry| entry.object.clone())
    }

    /// Lets all go whose last descriptor is closed; when this returns they are gone.
    pub(super) fn reap(&self) -> Result<()> {
        let _one = self.reaping.lock().unwrap_or_else(PoisonError::into_inner);
        while self.reap_some()? > 0 {}
        Ok(())
    }

    /// Waits until there is something to reap.
    pub(super) fn wait(&self) -> Result<()> {
        let mut events = [MaybeUninit::<Event>::uninit(); 1];
        match epoll::wait(&self.epoll, &mut events, None) {
            Ok(_) | Err(OsErrno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn reap_some(&self) -> Result<usize> {
        let mut events = [MaybeUninit::<Event>::uninit(); 16];
        let now = Timespec::default();
        let events = match epoll::wait(&self.epoll, &mut events, Some(&now)) {
            Ok((events, _)) => events,
            Err(OsErrno::INTR) => return Ok(1),
            Err(error) => return Err(error),
        };
        for event in events.iter() {
            let handle = event.data.u64();
            let entry = self.lock().remove(&handle);
            let Some(entry) = entry else {
                continue;
            };
            // Its end may live on a little, in a bell.
            let _ = epoll::delete(&self.epoll, &entry.end);
            if let Object::File(file, _) = &entry.object {
                file.set_waker(None);
            }
            drop(entry);
        }
        Ok(events.len())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handles")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
