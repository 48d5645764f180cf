//! The kicks of a virtio device.

use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vm_iommu_virtio::{Progress, VirtioPci};

/// Processes a virtio device's queues when the driver kicks them.
pub struct QueueEvents {
    function: Arc<VirtioPci>,
    queues: Vec<u16>,
}

impl QueueEvents {
    /// All queues of `function`.
    #[must_use]
    pub fn new(function: Arc<VirtioPci>) -> Self {
        let queues = (0..function.queues()).collect();
        Self { function, queues }
    }

    /// One queue of `function`, so that several threads can share the device.
    #[must_use]
    pub fn of_queue(function: Arc<VirtioPci>, index: u16) -> Self {
        Self {
            function,
            queues: vec![index],
        }
    }
}

impl MutEventSubscriber for QueueEvents {
    fn init(&mut self, ops: &mut EventOps) {
        for &index in &self.queues {
            let Some(event) = self.function.event(index) else {
                continue;
            };
            let events = Events::with_data(event.as_ref(), index.into(), EventSet::IN);
            if let Err(error) = ops.add(events) {
                log::error!("queue {index} cannot be served: {error}");
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let Ok(index) = u16::try_from(events.data()) else {
            return;
        };
        let Some(event) = self.function.event(index) else {
            return;
        };
        // Read first: a kick from now on is a new event. Nothing to read means that another
        // subscriber was faster.
        if event.read().is_err() {
            return;
        }
        if self.function.process_queue(index) == Progress::More
            && let Err(error) = event.write(1)
        {
            log::error!("queue {index} has more to serve, but cannot say so: {error}");
        }
    }
}
