//! Events of a vIOMMU.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommufd_bindings::{
    iommu_veventq_flag_IOMMU_VEVENTQ_FLAG_LOST_EVENTS as LOST_EVENTS, iommufd_vevent_header,
};

use super::{Context, Object};
use crate::Errno;
use crate::caller::{Caller, ContextFile, Readiness, Waker};
use crate::uapi::Plain;

/// The most events that a queue may hold.
const MAX_DEPTH: u32 = 1 << 19;

/// An event of a vIOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualEvent {
    /// Its number in the queue; a gap tells how many were lost.
    pub sequence: u32,
    /// The event in the format of its type; none if it, and perhaps others before, was lost.
    pub data: Option<Vec<u8>>,
}

/// A queue of events of one type (Linux `IOMMUFD_OBJ_VEVENTQ`). When it is full, the user learns
/// that events were lost, and how many by the sequence.
pub struct EventQueue {
    viommu: u32,
    kind: u32,
    depth: usize,
    state: Mutex<State>,
    waker: Mutex<Option<Waker>>,
}

#[derive(Default)]
struct State {
    events: VecDeque<(u32, Vec<u8>)>,
    /// The sequence of the last event that was lost, after all that are in the queue.
    lost: Option<u32>,
    sequence: u32,
}

impl EventQueue {
    pub(crate) fn viommu(&self) -> u32 {
        self.viommu
    }

    /// The type of its events.
    pub(crate) fn kind(&self) -> u32 {
        self.kind
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, in the format of its type.
    pub(super) fn report(&self, event: &[u8]) {
        {
            let mut state = self.lock();
            let sequence = state.sequence;
            state.sequence = (sequence + 1) & i32::MAX as u32;
            if state.events.len() >= self.depth {
                state.lost = Some(sequence);
            } else {
                // The gap in the sequence tells of those that were lost before.
                state.lost = None;
                state.events.push_back((sequence, event.to_vec()));
            }
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

    /// Takes the oldest event; or, once all were taken, the word that events were lost after them.
    pub(super) fn take(&self) -> Option<VirtualEvent> {
        let mut state = self.lock();
        match state.events.pop_front() {
            Some((sequence, data)) => Some(VirtualEvent {
                sequence,
                data: Some(data),
            }),
            None => state.lost.take().map(|sequence| VirtualEvent {
                sequence,
                data: None,
            }),
        }
    }

    fn read(&self, caller: &dyn Caller, address: u64, length: u64) -> Result<u64, Errno> {
        let header = size_of::<iommufd_vevent_header>() as u64;
        if length < header {
            return Err(Errno::EINVAL);
        }
        let mut done = 0;
        loop {
            let (record, event) = {
                let mut state = self.lock();
                let left = length - done;
                match state.events.front() {
                    Some((sequence, data)) => {
                        if header + data.len() as u64 > left {
                            let fits_none = done == 0;
                            return if fits_none {
                                Err(Errno::EINVAL)
                            } else {
                                Ok(done)
                            };
                        }
                        let mut record = iommufd_vevent_header {
                            flags: 0,
                            sequence: *sequence,
                        }
                        .to_bytes();
                        record.extend_from_slice(data);
                        (record, state.events.pop_front())
                    }
                    None => match state.lost {
                        Some(sequence) if header <= left => {
                            state.lost = None;
                            let lost = iommufd_vevent_header {
                                flags: LOST_EVENTS,
                                sequence,
                            };
                            (lost.to_bytes(), None)
                        }
                        _ => return Ok(done),
                    },
                }
            };
            let place = address.checked_add(done).ok_or(Errno::EFAULT);
            if let Err(error) = place.and_then(|place| caller.write(place, &record)) {
                self.restore(event, &record);
                return if done == 0 { Err(error) } else { Ok(done) };
            }
            done += record.len() as u64;
        }
    }

    /// Puts back what could not be read.
    fn restore(&self, event: Option<(u32, Vec<u8>)>, record: &[u8]) {
        let mut state = self.lock();
        match event {
            Some(event) => state.events.push_front(event),
            // Newer events tell of the loss by their sequence.
            None if state.events.is_empty() && state.lost.is_none() => {
                state.lost = Some(iommufd_vevent_header::from_bytes(record).sequence);
            }
            None => {}
        }
    }
}

impl fmt::Debug for EventQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventQueue")
            .field("viommu", &self.viommu)
            .field("kind", &self.kind)
            .field("events", &self.lock().events.len())
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Makes a queue of events of a vIOMMU; yields its number, which is not published, and its
    /// file.
    pub(crate) fn create_event_queue(
        self: &Arc<Self>,
        viommu: u32,
        kind: u32,
        depth: u32,
    ) -> Result<(u32, Arc<EventFile>), Errno> {
        if depth == 0 || depth > MAX_DEPTH {
            return Err(Errno::EINVAL);
        }
        let mut state = self.lock();
        if state
            .objects
            .viommu(viommu)?
            .event_queues
            .contains_key(&kind)
        {
            return Err(Errno::EEXIST);
        }
        let queue = Arc::new(EventQueue {
            viommu,
            kind,
            depth: depth as usize,
            state: Mutex::default(),
            waker: Mutex::default(),
        });
        let id = state
            .objects
            .insert(Object::EventQueue(Arc::clone(&queue)))?;
        state
            .objects
            .viommu_mut(viommu)?
            .event_queues
            .insert(kind, Arc::clone(&queue));
        state.objects.hold(viommu);
        // The file uses it.
        state.objects.hold(id);
        drop(state);
        Ok((
            id,
            Arc::new(EventFile {
                context: Arc::clone(self),
                id,
                queue,
            }),
        ))
    }

    /// A unit has an event for a vIOMMU, in the format of the type.
    ///
    /// # Errors
    /// [`Errno::EOPNOTSUPP`] if there is no queue for it.
    pub fn report_event(&self, viommu: u32, kind: u32, event: &[u8]) -> Result<(), Errno> {
        let queue = {
            let state = self.lock();
            let viommu = state.objects.viommu(viommu)?;
            Arc::clone(viommu.event_queues.get(&kind).ok_or(Errno::EOPNOTSUPP)?)
        };
        queue.report(event);
        Ok(())
    }
}

/// The file of a queue of events.
pub(crate) struct EventFile {
    pub(super) context: Arc<Context>,
    pub(super) id: u32,
    pub(super) queue: Arc<EventQueue>,
}

impl ContextFile for EventFile {
    fn read(&self, caller: &dyn Caller, address: u64, length: u64) -> Result<u64, Errno> {
        self.queue.read(caller, address, length)
    }

    fn readiness(&self) -> Readiness {
        let state = self.queue.lock();
        Readiness {
            readable: !state.events.is_empty() || state.lost.is_some(),
            writable: false,
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

impl Drop for EventFile {
    fn drop(&mut self) {
        self.set_waker(None);
        self.context.shared.release(self.id);
    }
}
