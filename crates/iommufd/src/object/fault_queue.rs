//! Page requests of devices, and the answers to them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommufd_bindings::{iommu_hwpt_page_response, iommu_hwpt_pgfault};
use vm_iommu_spec::{Pasid, RequesterId};

use super::{Context, Object};
use crate::Errno;
use crate::caller::{Caller, ContextFile, Readiness, Waker};
use crate::uapi::Plain;

/// How many groups of requests may be open. A unit limits what a device may have open; this is
/// for those that do not.
const LIMIT: usize = 1 << 16;

/// What a device asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The page, as the device put it.
    pub address: u64,
    /// What is to be done there (Linux `enum iommu_hwpt_pgfault_perm`).
    pub permissions: u32,
    /// The group that it belongs to, in the device's numbering.
    pub group: u32,
    /// The address space, if requests carry one.
    pub pasid: Option<Pasid>,
    /// It is the last of its group.
    pub last: bool,
}

/// A group of requests that waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequests {
    /// Names the group when it is answered.
    pub cookie: u32,
    /// Who asks.
    pub device: RequesterId,
    /// The pages, at least one.
    pub requests: Vec<PageRequest>,
}

/// The answer to a group of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageResponse {
    /// All pages are there; the device may try again.
    Success,
    /// Some cannot be had.
    Invalid,
}

/// Takes the answer to a group of requests to the device.
pub type Respond = Box<dyn FnOnce(PageResponse) + Send>;

struct Group {
    /// The number of the device in the context.
    device: u32,
    /// Whose it is: the table through which it was asked.
    table: u32,
    requester: RequesterId,
    pasid: Option<Pasid>,
    requests: Vec<PageRequest>,
    respond: Respond,
}

/// A queue of page requests (Linux `IOMMUFD_OBJ_FAULT`).
#[derive(Default)]
pub struct FaultQueue {
    state: Mutex<State>,
    waker: Mutex<Option<Waker>>,
}

#[derive(Default)]
struct State {
    deliver: VecDeque<Group>,
    /// Those that were read, by cookie.
    open: BTreeMap<u32, Group>,
    cookie: u32,
}

impl FaultQueue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a group of requests to the user; if too many are open it is answered at once.
    fn push(&self, group: Group) {
        {
            let mut state = self.lock();
            if state.deliver.len() + state.open.len() >= LIMIT {
                drop(state);
                (group.respond)(PageResponse::Invalid);
                return;
            }
            state.deliver.push_back(group);
        }
        let waker = self
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(waker) = waker {
            waker();
        }
    }

    /// Answers what a device has open through a table.
    pub(super) fn cancel(&self, table: u32, requester: RequesterId, pasid: Option<Pasid>) {
        self.answer_all(|group| {
            group.table == table && group.requester == requester && group.pasid == pasid
        });
    }

    /// Answers all that is open.
    pub(super) fn cancel_all(&self) {
        self.answer_all(|_| true);
    }

    fn answer_all(&self, concerned: impl Fn(&Group) -> bool) {
        let groups: Vec<Group> = {
            let mut state = self.lock();
            let (gone, kept) = state.deliver.drain(..).partition(&concerned);
            state.deliver = kept;
            let open = state
                .open
                .extract_if(.., |_, group| concerned(group))
                .map(|(_, group)| group);
            let open: Vec<_> = open.collect();
            let mut groups: Vec<Group> = VecDeque::into(gone);
            groups.extend(open);
            groups
        };
        for group in groups {
            (group.respond)(PageResponse::Invalid);
        }
    }

    /// Takes the oldest group of requests that was not taken yet.
    pub(super) fn take(&self) -> Option<PageRequests> {
        let mut state = self.lock();
        let cookie = state.next_cookie();
        let group = state.deliver.pop_front()?;
        let requests = PageRequests {
            cookie,
            device: group.requester,
            requests: group.requests.clone(),
        };
        state.open.insert(cookie, group);
        Some(requests)
    }

    /// Answers a group of requests that was taken.
    pub(super) fn answer(&self, cookie: u32, response: PageResponse) -> Result<(), Errno> {
        let group = self.lock().open.remove(&cookie).ok_or(Errno::EINVAL)?;
        (group.respond)(response);
        Ok(())
    }

    /// Reads groups of requests as long as they fit.
    fn read(&self, caller: &dyn Caller, address: u64, length: u64) -> Result<u64, Errno> {
        let size = size_of::<iommu_hwpt_pgfault>() as u64;
        if !length.is_multiple_of(size) {
            return Err(Errno::ESPIPE);
        }
        let mut done = 0;
        loop {
            let (cookie, records) = {
                let mut state = self.lock();
                let Some(group) = state.deliver.front() else {
                    return Ok(done);
                };
                let needed = group.requests.len() as u64 * size;
                if needed > length - done {
                    return if done == 0 {
                        Err(Errno::EINVAL)
                    } else {
                        Ok(done)
                    };
                }
                let cookie = state.next_cookie();
                let Some(group) = state.deliver.pop_front() else {
                    return Ok(done);
                };
                let records: Vec<u8> = group
                    .requests
                    .iter()
                    .flat_map(|r| record(r, group.device, cookie))
                    .collect();
                state.open.insert(cookie, group);
                (cookie, records)
            };
            let place = address.checked_add(done).ok_or(Errno::EFAULT);
            if let Err(error) = place.and_then(|place| caller.write(place, &records)) {
                let mut state = self.lock();
                if let Some(group) = state.open.remove(&cookie) {
                    state.deliver.push_front(group);
                }
                return if done == 0 { Err(error) } else { Ok(done) };
            }
            done += records.len() as u64;
        }
    }

    /// Takes answers.
    fn write(&self, caller: &dyn Caller, address: u64, length: u64) -> Result<u64, Errno> {
        let size = size_of::<iommu_hwpt_page_response>() as u64;
        if !length.is_multiple_of(size) {
            return Err(Errno::ESPIPE);
        }
        let mut done = 0;
        while done < length {
            let result = self.take_answer(caller, address.wrapping_add(done));
            if let Err(error) = result {
                return if done == 0 { Err(error) } else { Ok(done) };
            }
            done += size;
        }
        Ok(done)
    }

    fn take_answer(&self, caller: &dyn Caller, address: u64) -> Result<(), Errno> {
        let mut bytes = [0; size_of::<iommu_hwpt_page_response>()];
        caller.read(address, &mut bytes)?;
        let answer = iommu_hwpt_page_response::from_bytes(&bytes);
        let response = match answer.code {
            iommufd_bindings::iommufd_page_response_code_IOMMUFD_PAGE_RESP_SUCCESS => {
                PageResponse::Success
            }
            iommufd_bindings::iommufd_page_response_code_IOMMUFD_PAGE_RESP_INVALID => {
                PageResponse::Invalid
            }
            _ => return Err(Errno::EINVAL),
        };
        self.answer(answer.cookie, response)
    }
}

impl State {
    /// A cookie that is not in use, never 0. There are fewer groups than numbers.
    fn next_cookie(&mut self) -> u32 {
        loop {
            self.cookie = self.cookie.wrapping_add(1);
            if self.cookie != 0 && !self.open.contains_key(&self.cookie) {
                return self.cookie;
            }
        }
    }
}

fn record(request: &PageRequest, device: u32, cookie: u32) -> Vec<u8> {
    let with_pasid = iommufd_bindings::iommu_hwpt_pgfault_flags_IOMMU_PGFAULT_FLAGS_PASID_VALID;
    let last = iommufd_bindings::iommu_hwpt_pgfault_flags_IOMMU_PGFAULT_FLAGS_LAST_PAGE;
    let flags = if request.pasid.is_some() {
        with_pasid
    } else {
        0
    } | if request.last { last } else { 0 };
    let fault = iommu_hwpt_pgfault {
        flags,
        dev_id: device,
        pasid: request.pasid.map_or(0, Pasid::raw),
        grpid: request.group,
        perm: request.permissions,
        __reserved: 0,
        addr: request.address,
        length: 0,
        cookie,
    };
    fault.to_bytes()
}

impl fmt::Debug for FaultQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("FaultQueue")
            .field("deliver", &state.deliver.len())
            .field("open", &state.open.len())
            .finish()
    }
}

impl Context {
    /// Makes a fault queue; yields its number, which is not published, and its file.
    pub(crate) fn create_fault_queue(self: &Arc<Self>) -> Result<(u32, Arc<FaultFile>), Errno> {
        let queue = Arc::new(FaultQueue::default());
        let mut state = self.lock();
        let id = state.objects.insert(Object::Fault(Arc::clone(&queue)))?;
        // The file uses it.
        state.objects.hold(id);
        drop(state);
        Ok((
            id,
            Arc::new(FaultFile {
                context: Arc::clone(self),
                id,
                queue,
            }),
        ))
    }

    /// A device of the context asks for pages, all of one group.
    ///
    /// They go to the fault queue of the table that the address space of the requests is on; if a
    /// PASID has none and requests without PASID are on a nested table, to the queue of that one,
    /// since PASIDs are the user's there. Without a queue they are answered at once.
    pub fn report_page_requests(
        &self,
        requester: RequesterId,
        requests: Vec<PageRequest>,
        respond: Respond,
    ) {
        let Some(first) = requests.first() else {
            return;
        };
        let pasid = first.pasid;
        let found = {
            let state = self.lock();
            state.device_of(requester).and_then(|id| {
                let device = state.objects.device(id).ok()?;
                let own = device.table(pasid).map(|table| (table, pasid));
                let nested = device.table(None).map(|table| (table, None));
                let nested = nested.filter(|(table, _)| {
                    matches!(state.objects.get(*table), Ok(Object::Nested(_)))
                });
                let (table, pasid) = own.or(nested)?;
                let (Object::Paging(hwpt) | Object::Nested(hwpt)) =
                    state.objects.get(table).ok()?
                else {
                    return None;
                };
                Some((id, table, pasid, Arc::clone(hwpt.fault_queue()?)))
            })
        };
        match found {
            Some((device, table, pasid, queue)) => {
                queue.push(Group {
                    device,
                    table,
                    requester,
                    pasid,
                    requests,
                    respond,
                });
            }
            None => respond(PageResponse::Invalid),
        }
    }
}

/// The file of a fault queue.
pub(crate) struct FaultFile {
    pub(super) context: Arc<Context>,
    pub(super) id: u32,
    pub(super) queue: Arc<FaultQueue>,
}

impl ContextFile for FaultFile {
    fn read(&self, caller: &dyn Caller, address: u64, length: u64) -> Result<u64, Errno> {
        self.queue.read(caller, address, length)
    }

    fn write(&self, caller: &dyn Caller, address: u64, length: u64) -> Result<u64, Errno> {
        self.queue.write(caller, address, length)
    }

    fn readiness(&self) -> Readiness {
        Readiness {
            readable: !self.queue.lock().deliver.is_empty(),
            writable: true,
        }
    }

    fn set_waker(&self, waker: Option<Waker>) {
        *self
            .queue
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = waker;
    }
}

impl Drop for FaultFile {
    fn drop(&mut self) {
        self.set_waker(None);
        self.context.shared.release(self.id);
    }
}
