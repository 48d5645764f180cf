//! One vector of a function: raised by an eventfd while it has a route, else by hand.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use vm_iommu_dma::MsiVector;
use vm_iommu_spec::{MsiMessage, RequesterId};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::router::MsiRouter;
use super::table::{Routed, Source};

/// The eventfd and the GSI that KVM connected it to.
struct Connection {
    event: EventFd,
    gsi: u32,
}

/// What is connected, and what for.
#[derive(Default)]
struct State {
    source: Option<Source>,
    /// Made when the vector is first configured, as most vectors never are.
    connection: Option<Connection>,
    /// KVM has no more connections to give; not asked again.
    exhausted: bool,
}

/// One vector.
pub(super) struct Vector {
    router: Arc<MsiRouter>,
    unit: Option<usize>,
    /// Locked before the router's table, and by nothing that the table's lock is held over.
    state: Mutex<State>,
    routed: Routed,
}

impl Vector {
    pub(super) fn new(router: Arc<MsiRouter>, unit: Option<usize>) -> Self {
        Self {
            router,
            unit,
            state: Mutex::default(),
            routed: Arc::new(RwLock::new(false)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, state: &mut State) {
        if state.connection.is_some() || state.exhausted {
            return;
        }
        state.connection = self.make_connection();
        if state.connection.is_none() {
            state.exhausted = true;
            log::warn!("no route left for an interrupt vector: it is delivered from user space");
        }
    }

    fn make_connection(&self) -> Option<Connection> {
        let event = EventFd::new(EFD_NONBLOCK)
            .inspect_err(|error| log::warn!("no eventfd for an interrupt: {error}"))
            .ok()?;
        let gsi = self.router.table().allocate(Arc::clone(&self.routed))?;
        match self.router.vm().fd().register_irqfd(&event, gsi) {
            Ok(()) => Some(Connection { event, gsi }),
            Err(error) => {
                log::warn!("KVM does not connect an eventfd to GSI {gsi}: {error}");
                self.router.table().release(gsi);
                None
            }
        }
    }
}

impl MsiVector for Vector {
    fn configure(&self, message: Option<(RequesterId, MsiMessage)>) {
        let mut state = self.state();
        let source = message.map(|(requester, message)| Source {
            requester,
            message,
            unit: self.unit,
        });
        if state.source == source {
            return;
        }
        state.source = source;
        if source.is_some() {
            self.connect(&mut state);
        }
        if let Some(connection) = &state.connection {
            let mut table = self.router.table();
            table.set_source(connection.gsi, source);
            self.router.update(&mut table, connection.gsi);
        }
    }

    fn signal(&self) {
        let state = self.state();
        let Some(source) = state.source else {
            return;
        };
        if let Some(connection) = &state.connection {
            // Held until the event is written: no one who removes the route overtakes it.
            let routed = self.routed.read().unwrap_or_else(PoisonError::into_inner);
            if *routed {
                self.router.counters.routed.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = connection.event.write(1) {
                    log::debug!("an interrupt's eventfd is full: {error}");
                }
                return;
            }
        }
        drop(state);
        self.router.raise_source(source);
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = state.connection.take() {
            let fd = self.router.vm().fd();
            if let Err(error) = fd.unregister_irqfd(&connection.event, connection.gsi) {
                log::debug!("KVM keeps GSI {}: {error}", connection.gsi);
            }
            let mut table = self.router.table();
            table.release(connection.gsi);
            table.commit(fd);
        }
    }
}
