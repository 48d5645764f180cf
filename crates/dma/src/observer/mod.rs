//! For users of memory that cannot hold epochs: pass-through devices (VFIO), and device models in
//! other processes (vhost-user).
//!
//! Such a user copies mappings to where no cache of ours sees them: the host's IOMMU, or another
//! process. It is told what is mapped when it asks, and what is unmapped when the unit invalidates;
//! the invalidation is reported complete only after it acknowledged.

mod registry;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vm_iommu_spec::{
    Access, AddressType, DmaRequest, Fault, FaultReason, Iova, MSI_WINDOW, Pasid, PhysAddr,
};

use crate::{Acknowledgement, DmaPort, EpochSlot, HostRange, Space};

pub(crate) use self::registry::Observers;

/// A run of input addresses that leads to a run of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first input address.
    pub first: Iova,
    /// The memory behind it: as many bytes as are mapped, with their physical address.
    pub memory: HostRange,
    /// What a request may do there.
    pub permissions: Access,
}

impl Mapping {
    /// The input addresses that are mapped.
    pub fn range(&self) -> RangeInclusive<Iova> {
        self.first..=Iova(self.first.0 + (self.memory.len - 1))
    }
}

/// A user of memory that keeps mappings of its own.
///
/// Both calls of one [`Observation`] come one after the other, in the order in which they hold.
/// They come with locks held, of the unit too: they must be short, and must not call the unit,
/// the port or the observation. Work that takes longer is handed on together with the
/// [`Acknowledgement`].
///
/// # Limits
/// - The unit waits without bound: an acknowledgement that is never dropped holds up every later
///   invalidation of the machine, and the guest with it. An observer that lost its device or its
///   peer drops what it owes.
/// - A range may cover more than the guest invalidated, up to the whole address space: when a
///   domain is invalidated, the requester is bound anew, or the function is stopped. A user that
///   needs all mappings at all times (VFIO) asks for them again afterwards.
/// - What the guest maps is not announced: the user asks for it. A user that cannot take a fault
///   and ask then needs a unit in caching mode, whose driver invalidates what it maps too.
/// - Accessed and dirty flags are set when a page is asked for, not when it is used. While writes
///   are logged, so are marks: what is asked for reading may not be written then, and each harvest
///   takes all mappings away.
pub trait MappingObserver: Send + Sync {
    /// `mapping` may be used from now on, until [`unmapped`](Self::unmapped) names it. It may
    /// repeat, or replace in part, what was told before.
    fn mapped(&self, mapping: &Mapping);

    /// Nothing in `range` may be used any more. `done` is dropped once nothing is: copies ended,
    /// host translations removed, the peer's answer received.
    fn unmapped(&self, range: RangeInclusive<Iova>, done: Acknowledgement);
}

/// What an observer follows: the address space of a function's requests. Ends when dropped; the
/// observer is then told nothing more and must have stopped.
pub struct Observation {
    port: Arc<DmaPort>,
    pasid: Option<Pasid>,
    observer: Arc<dyn MappingObserver>,
    state: Mutex<State>,
    /// The epoch of [`request`](Self::request); held by one caller at a time.
    walking: Mutex<Arc<EpochSlot>>,
}

#[derive(Default)]
struct State {
    /// How often something was unmapped.
    unmapped: u64,
    bound: Option<Bound>,
}

#[derive(Clone)]
struct Bound {
    word: u64,
    space: Arc<Space>,
}

/// How often an answer is looked for again because it was invalidated meanwhile.
const ATTEMPTS: usize = 8;

/// Every input address.
pub(crate) const EVERYTHING: RangeInclusive<Iova> = Iova(0)..=Iova(u64::MAX);

impl Observation {
    /// Lets `observer` follow the requests of `port`, those with `pasid` if there is one.
    pub fn new(
        port: &Arc<DmaPort>,
        pasid: Option<Pasid>,
        observer: Arc<dyn MappingObserver>,
    ) -> Arc<Self> {
        let observation = Arc::new(Self {
            walking: Mutex::new(port.upstream().epochs.register()),
            port: Arc::clone(port),
            pasid,
            observer,
            state: Mutex::default(),
        });
        port.observers().attach(&observation);
        observation
    }

    /// Asks for the page that holds `address`, as on a miss of the user's own cache. The observer
    /// is told before this returns. Faults are recorded as those of an access.
    ///
    /// The caller must not be inside an epoch.
    ///
    /// # Errors
    /// The fault that an access would meet; [`FaultReason::Contended`] if the page was invalidated
    /// each time it was found, or if the unit keeps no contexts and so cannot be followed.
    pub fn request(self: &Arc<Self>, address: Iova, access: Access) -> Result<Mapping, Fault> {
        let mut request = DmaRequest {
            requester: self.port.requester(),
            pasid: self.pasid,
            address,
            access,
            address_type: AddressType::Untranslated,
            probe: false,
        };
        if self.pasid.is_none() && MSI_WINDOW.contains(&address) {
            return Err(request.fault(FaultReason::InterruptRange));
        }
        for _ in 0..ATTEMPTS {
            let (before, word, bound) = {
                let state = self.state();
                (state.unmapped, self.port.word(), state.bound.clone())
            };
            // The requester that is remembered under the word.
            request.requester = DmaPort::requester_of(word);
            if let Some(reason) = DmaPort::refusal_of(word) {
                return Err(request.fault(reason));
            }
            let found = {
                let slot = lock(&self.walking);
                let _epoch = Walk::enter(&slot, &self.port);
                self.find(word, bound, &request)?
            };
            let mut state = self.state();
            let fresh = found.space.as_ref().is_none_or(|space| !space.is_stale());
            if state.unmapped == before && self.port.word() == word && fresh {
                state.bound = found.space.map(|space| Bound { word, space });
                self.observer.mapped(&found.mapping);
                return Ok(found.mapping);
            }
        }
        Err(request.fault(FaultReason::Contended))
    }

    /// Tells the observer that nothing in `range` may be used any more.
    fn unmap(&self, range: RangeInclusive<Iova>) {
        let mut state = self.state();
        state.unmapped += 1;
        let (done, _) = self.port.upstream().epochs.acknowledgement();
        self.observer.unmapped(range, done);
    }

    fn find(
        self: &Arc<Self>,
        word: u64,
        bound: Option<Bound>,
        request: &DmaRequest,
    ) -> Result<Found, Fault> {
        let upstream = self.port.upstream();
        let Some(remapper) = &upstream.remapper else {
            let output = PhysAddr(request.address.0);
            let memory = self.output(request, output)?;
            let mapping = self.clip(request, memory, Access::READ | Access::WRITE, 63);
            let mapping = self.log_write(request, mapping);
            return Ok(Found {
                space: None,
                mapping,
            });
        };
        let space = match bound {
            Some(bound) if bound.word == word && !bound.space.is_stale() => bound.space,
            other => {
                let space = remapper.bind(request)?;
                if let Some(old) = other {
                    old.space.observers().detach(self);
                    old.space.tag().observers().detach(self);
                }
                remapper.iotlb().observers().attach(self);
                space.tag().observers().attach(self);
                space.observers().attach(self);
                space
            }
        };
        let translation = remapper.translate(&space, request)?;
        let offset = request.address.offset_in(1 << translation.page_shift);
        let memory = self.output(request, PhysAddr(translation.output.0 + offset))?;
        let mapping = self.clip(
            request,
            memory,
            translation.permissions,
            translation.page_shift,
        );
        let mapping = self.log_write(request, mapping);
        Ok(Found {
            space: Some(space),
            mapping,
        })
    }

    /// What may be told of `mapping` while writes are logged: one page, marked, to whoever asked
    /// to write.
    fn log_write(&self, request: &DmaRequest, mut mapping: Mapping) -> Mapping {
        let space = &self.port.upstream().output;
        if !space.logs_writes() {
            return mapping;
        }
        if request.access.writes() {
            let rest = 0x1000 - mapping.memory.start.0 % 0x1000;
            mapping.memory.len = mapping.memory.len.min(rest);
            space.mark_written(mapping.memory.start, mapping.memory.len);
        } else {
            mapping.permissions.remove(Access::WRITE);
        }
        mapping
    }

    /// The memory from `output` on, as far as one run goes.
    fn output(&self, request: &DmaRequest, output: PhysAddr) -> Result<HostRange, Fault> {
        let space = &self.port.upstream().output;
        let run = space
            .resolve(output)
            .map_err(|reason| request.fault(reason))?;
        let offset = output.0 - run.start.0;
        Ok(HostRange {
            start: output,
            len: run.len - offset,
            // SAFETY: `offset` is within the run.
            host: unsafe { run.host.add(offset as usize) },
        })
    }

    /// The 4-KiB page of the request and what follows it in its page and its run, up to the
    /// interrupt addresses.
    fn clip(
        &self,
        request: &DmaRequest,
        memory: HostRange,
        permissions: Access,
        page_shift: u8,
    ) -> Mapping {
        let address = request.address.0;
        let page_last = address | ((1 << page_shift) - 1);
        let run_last = address.saturating_add(memory.len - 1);
        let window = MSI_WINDOW.start().0;
        let limit = if self.pasid.is_none() && address < window {
            window - 1
        } else {
            u64::MAX
        };
        let last = page_last.min(run_last).min(limit);
        Mapping {
            first: request.address,
            memory: HostRange {
                len: last - address + 1,
                ..memory
            },
            permissions,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observation")
            .field("requester", &self.port.requester())
            .field("pasid", &self.pasid)
            .finish_non_exhaustive()
    }
}

struct Found {
    space: Option<Arc<Space>>,
    mapping: Mapping,
}

/// The epoch of one walk.
struct Walk<'a>(&'a EpochSlot);

impl<'a> Walk<'a> {
    fn enter(slot: &'a EpochSlot, port: &DmaPort) -> Self {
        slot.enter(&port.upstream().epochs);
        Self(slot)
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.0.park();
    }
}

/// Locks, also after a panic elsewhere: no state here is left half-changed by one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the registries hold observations.
type Follower = Weak<Observation>;
