//! The access of a test: a file.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::command::SYZKALLER;
use crate::{Access, AccessUser, Context, ContextFile, Errno, PinnedPage};

/// An access that keeps what it pinned as items.
pub(super) struct TestAccess {
    context: Arc<Context>,
    access: OnceLock<Access>,
    pins: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    items: Vec<Item>,
    next: u32,
}

struct Item {
    id: u32,
    iova: u64,
    length: u64,
}

impl TestAccess {
    pub(super) fn new(context: &Arc<Context>, ioas: u32, pins: bool) -> Result<Arc<Self>, Errno> {
        let this = Arc::new(Self {
            context: Arc::clone(context),
            access: OnceLock::new(),
            pins,
            state: Mutex::default(),
        });
        let user: Weak<Self> = Arc::downgrade(&this);
        let access = context.access(ioas, pins, user)?;
        this.access.get_or_init(|| access);
        Ok(this)
    }

    fn access(&self) -> Result<&Access, Errno> {
        self.access.get().ok_or(Errno::ENOENT)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An address as the caller gives it, or as a fuzzer does.
    pub(super) fn address(&self, iova: u64, flags: u32) -> u64 {
        if flags & SYZKALLER == 0 {
            return iova;
        }
        let state = self.context.lock();
        let access = self
            .access
            .get()
            .and_then(|access| state.objects.access(access.id()).ok());
        let ioas = access.and_then(|access| state.objects.ioas(access.ioas?).ok());
        ioas.map_or(0, |object| super::nth(&object.ioas, iova))
    }

    /// Pins pages, if `check` likes them, and tells their number. It holds its lock all the while:
    /// an unmapping waits until the item is known.
    pub(super) fn pin(
        &self,
        iova: u64,
        length: u64,
        write: bool,
        check: &dyn Fn(&[PinnedPage]) -> Result<(), Errno>,
        tell: &mut dyn FnMut(u32) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        if !self.pins {
            return Err(Errno::EOPNOTSUPP);
        }
        let access = self.access()?;
        let mut state = self.lock();
        let pages = access.pin(iova, length, write)?;
        let id = state.next;
        if let Err(error) = check(&pages).and_then(|()| tell(id)) {
            access.unpin(iova, length);
            return Err(error);
        }
        state.next = id.wrapping_add(1);
        state.items.push(Item { id, iova, length });
        Ok(())
    }

    /// Unpins the pages of a number.
    pub(super) fn unpin(&self, id: u32) -> Result<(), Errno> {
        let mut state = self.lock();
        let index = state
            .items
            .iter()
            .position(|item| item.id == id)
            .ok_or(Errno::ENOENT)?;
        let item = state.items.swap_remove(index);
        self.access()?.unpin(item.iova, item.length);
        Ok(())
    }

    pub(super) fn read(&self, iova: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.access()?.read(iova, buffer)
    }

    pub(super) fn write(&self, iova: u64, buffer: &[u8]) -> Result<(), Errno> {
        self.access()?.write(iova, buffer)
    }

    pub(super) fn replace(&self, ioas: u32) -> Result<(), Errno> {
        self.access()?.replace(ioas)
    }
}

impl AccessUser for TestAccess {
    fn unmap(&self, iova: u64, length: u64) {
        let last = iova.saturating_add(length - 1);
        let mut state = self.lock();
        state.items.retain(|item| {
            let apart = iova > item.iova + (item.length - 1) || last < item.iova;
            if !apart && let Some(access) = self.access.get() {
                access.unpin(item.iova, item.length);
            }
            apart
        });
    }
}

impl ContextFile for TestAccess {}
