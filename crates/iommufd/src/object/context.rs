//! Contexts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vm_iommu_spec::RequesterId;

use super::shared_pages::Regions;
use super::{Hwpt, Objects};
use crate::limit::Limit;
use crate::memory::Account;
use crate::ownership::ContextId;
use crate::{Caller, Capability, Errno, System};

/// A security context: its objects are its own, and so are the devices bound to it.
///
/// It lives until the last of its references goes: those of its descriptors, of devices that are
/// bound, of the files and mappings that it handed out. Then its objects go, leaves first.
pub struct Context {
    pub(crate) shared: Arc<Shared>,
}

/// What objects lead back to.
pub(crate) struct Shared {
    pub(crate) system: Arc<System>,
    pub(crate) id: ContextId,
    /// The mappings that all address spaces may have.
    pub(crate) areas: Arc<Limit>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) objects: Objects,
    /// The address space of the VFIO compatibility calls.
    pub(crate) compatible: Option<u32>,
    /// Pinned memory counts against the limit of the process and not of the user.
    pub(crate) per_process: bool,
    /// Automatic tables that no device uses yet.
    pub(crate) unused: BTreeMap<u32, Weak<Hwpt>>,
    /// The devices that are bound.
    pub(crate) devices: BTreeMap<RequesterId, u32>,
    /// Memory for callers to map.
    pub(crate) regions: Regions,
}

impl Context {
    pub(crate) fn new(system: Arc<System>, id: ContextId) -> Arc<Self> {
        let (objects, areas) = (system.config().objects, system.config().areas);
        let state = State {
            objects: Objects::new(objects),
            ..State::default()
        };
        let shared = Shared {
            system,
            id,
            areas: Limit::new(areas),
            state: Mutex::new(state),
        };
        Arc::new(Self {
            shared: Arc::new(shared),
        })
    }

    /// Which context it is.
    pub fn id(&self) -> ContextId {
        self.shared.id
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// Destroys an object by its number.
    ///
    /// # Errors
    /// [`Errno::ENOENT`]; [`EBUSY`](Errno::EBUSY) while something uses it.
    pub fn destroy(&self, id: u32) -> Result<(), Errno> {
        let object = {
            let mut state = self.lock();
            let object = state.objects.destroy(id)?;
            if state.compatible == Some(id) {
                state.compatible = None;
            }
            object
        };
        self.shared.clean_up(id, object);
        Ok(())
    }

    /// Lets callers name an object that was made.
    pub(crate) fn publish(&self, id: u32) {
        self.lock().objects.publish(id);
    }

    /// Undoes what made an object that was not published.
    pub(crate) fn abort(&self, id: u32) {
        let object = self.lock().objects.take(id);
        if let Some(object) = object {
            self.shared.clean_up(id, object);
        }
    }

    /// Against which limit memory of a caller counts.
    pub(crate) fn account(&self, caller: &dyn Caller) -> Account {
        if caller.capable(Capability::IpcLock) {
            Account::Nothing
        } else if self.lock().per_process {
            Account::Process
        } else {
            Account::User
        }
    }

    /// Chooses whether pinned memory counts against the limit of the process (1) or of the user
    /// (0).
    ///
    /// # Errors
    /// [`Errno::EBUSY`] once there are objects, [`EINVAL`](Errno::EINVAL) for another choice.
    pub(crate) fn set_rlimit_mode(&self, mode: u64) -> Result<(), Errno> {
        let mut state = self.lock();
        if !state.objects.is_empty() {
            return Err(Errno::EBUSY);
        }
        state.per_process = match mode {
            0 => false,
            1 => true,
            _ => return Err(Errno::EINVAL),
        };
        Ok(())
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One user of an object less.
    pub(super) fn release(&self, id: u32) {
        self.lock().objects.release(id);
    }
}

impl State {
    /// The address space of the VFIO compatibility calls.
    ///
    /// # Errors
    /// [`Errno::ENODEV`] if there is none.
    pub(crate) fn compatible(&self) -> Result<u32, Errno> {
        self.compatible.ok_or(Errno::ENODEV)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        loop {
            let leaf = self.lock().objects.take_leaf();
            match leaf {
                Some((id, object)) => self.shared.clean_up(id, object),
                None => break,
            }
        }
        debug_assert!(
            self.lock().objects.is_empty(),
            "objects use each other in a ring"
        );
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.shared.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
