//! A unit's own interrupts, and those who hold routes that it resolved.

use std::sync::{Mutex, Weak};

use vm_iommu_spec::Interrupt;

use super::lock;
use crate::RouteSink;

/// Where a unit's own interrupts go. They are not remapped.
pub trait UnitInterrupts: Send + Sync {
    /// Delivers one interrupt. Called from vCPU threads, the worker, and device threads inside an
    /// epoch: it must not wait for either.
    fn deliver(&self, interrupt: Interrupt);

    /// Rings the doorbell of a physical processor, by its APIC identifier: a guest that runs there
    /// has an interrupt in its virtual APIC. Under the same rules.
    fn doorbell(&self, _processor: u32) {}
}

/// Discards a unit's interrupts.
impl UnitInterrupts for () {
    fn deliver(&self, _interrupt: Interrupt) {}
}

/// The holders of routes that a unit resolved.
#[derive(Default)]
pub struct RouteSinks(Mutex<Vec<Weak<dyn RouteSink>>>);

impl RouteSinks {
    /// Adds a holder, until it is dropped.
    pub fn add(&self, sink: Weak<dyn RouteSink>) {
        let mut sinks = lock(&self.0);
        sinks.retain(|sink| sink.strong_count() > 0);
        sinks.push(sink);
    }

    /// Has every holder resolve its routes again; returns when none uses an old one.
    pub fn refresh(&self) {
        let sinks = lock(&self.0).clone();
        for sink in sinks.iter().filter_map(Weak::upgrade) {
            sink.refresh();
        }
    }
}
