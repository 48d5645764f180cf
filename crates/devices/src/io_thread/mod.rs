//! Threads that serve devices' events, each with an event manager of its own.

mod queue_events;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, MutEventSubscriber, RemoteEndpoint, SubscriberId};
use thiserror::Error;

pub use queue_events::QueueEvents;

type Subscriber = Box<dyn MutEventSubscriber + Send>;

/// Why events cannot be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IoThreadError {
    /// The host gave no thread.
    #[error("cannot start a thread")]
    Spawn(#[source] io::Error),
    /// The event manager failed, or its thread has ended.
    #[error("events cannot be served: {0}")]
    Manager(#[from] event_manager::Error),
}

/// A thread that serves events until it is dropped.
pub struct IoThread {
    endpoint: RemoteEndpoint<Subscriber>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts a thread called `name` (the host may cut it after 15 bytes).
    ///
    /// # Errors
    /// See [`IoThreadError`].
    pub fn spawn(name: &str) -> Result<Self, IoThreadError> {
        let mut manager = EventManager::<Subscriber>::new()?;
        let endpoint = manager.remote_endpoint();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while !asked.load(Ordering::Acquire) {
                    if let Err(error) = manager.run() {
                        log::error!("a device thread ends: {error}");
                        return;
                    }
                }
            })
            .map_err(IoThreadError::Spawn)?;
        Ok(Self {
            endpoint,
            stop,
            thread: Some(thread),
        })
    }

    /// Serves a subscriber's events from now on. Not to be called from the thread itself.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn add(
        &self,
        subscriber: impl MutEventSubscriber + Send + 'static,
    ) -> Result<SubscriberId, IoThreadError> {
        let subscriber: Subscriber = Box::new(subscriber);
        self.endpoint
            .call_blocking(move |manager| Ok(manager.add_subscriber(subscriber)))
    }

    /// Serves a subscriber's events no longer; once it returned, none is being served. Not to be
    /// called from the thread itself.
    ///
    /// # Errors
    /// No such subscriber, or the thread has ended.
    pub fn remove(&self, id: SubscriberId) -> Result<(), IoThreadError> {
        self.endpoint.call_blocking(move |manager| {
            manager.remove_subscriber(id)?;
            Ok(())
        })
    }
}

impl Drop for IoThread {
    /// Waits for what is being served, and for the thread's end.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Err(error) = self.endpoint.kick() {
            log::error!("a device thread cannot be told to end: {error}");
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a device thread had panicked");
        }
    }
}

#[cfg(test)]
mod tests;
