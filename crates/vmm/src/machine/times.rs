//! When things happened.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Time stamps of a run.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    start: Instant,
    loaded: Option<Instant>,
    running: Option<Instant>,
}

/// Time stamps as milliseconds since the machine was begun.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Milliseconds {
    /// The kernel was in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    loaded: Option<f64>,
    /// The processors were started.
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<f64>,
    /// The first byte came out of the serial port.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_serial_byte: Option<f64>,
    /// All processors had stopped.
    stopped: f64,
}

impl Times {
    /// The beginning.
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
            loaded: None,
            running: None,
        }
    }

    pub(super) fn loaded(&mut self) {
        self.loaded = Some(Instant::now());
    }

    pub(super) fn running(&mut self) {
        self.running = Some(Instant::now());
    }

    pub(super) fn finish(&self, first_serial_byte: Option<Instant>) -> Milliseconds {
        let since = |moment: Instant| milliseconds(moment.duration_since(self.start));
        Milliseconds {
            loaded: self.loaded.map(since),
            running: self.running.map(since),
            first_serial_byte: first_serial_byte.map(since),
            stopped: milliseconds(self.start.elapsed()),
        }
    }
}

/// In steps of a microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
