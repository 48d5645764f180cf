//! Interrupt messages on their way from a function to a processor.

use std::sync::Weak;

use vm_iommu_spec::{Fault, Interrupt, MsiMessage, RequesterId};

/// A unit's interrupt remapping.
pub trait InterruptRemapper: Send + Sync {
    /// Remaps an interrupt that was just raised.
    ///
    /// # Errors
    /// The fault, once recorded.
    fn remap(&self, requester: RequesterId, message: MsiMessage) -> Result<Interrupt, Fault>;

    /// What [`remap`](Self::remap) would answer now, for setting up a route ahead of any
    /// interrupt: nothing is recorded.
    ///
    /// # Errors
    /// The fault that an interrupt would meet.
    fn resolve(&self, requester: RequesterId, message: MsiMessage) -> Result<Interrupt, Fault>;

    /// Tells `sink` of every change that may alter an answer, until the sink is dropped.
    fn watch(&self, sink: Weak<dyn RouteSink>);
}

/// Whoever holds answers of [`InterruptRemapper::resolve`] as routes.
pub trait RouteSink: Send + Sync {
    /// Resolves all routes again. Once it returned, no interrupt takes an old route, and those
    /// that were remapped by hand before are delivered; the invalidation is reported complete
    /// only then. The remapper may be called from within.
    fn refresh(&self);
}

/// Where functions send their interrupt messages.
pub trait MsiSink: Send + Sync {
    /// Raises one interrupt.
    fn signal(&self, requester: RequesterId, message: MsiMessage);

    /// A vector that is raised often and configured seldom, so that the sink may prepare a route.
    fn vector(&self) -> Box<dyn MsiVector>;
}

/// One interrupt vector of a function: an MSI-X table entry, or one of the vectors of MSI.
pub trait MsiVector: Send + Sync {
    /// Sets who raises what from now on; `None` while the vector is masked or disabled.
    fn configure(&self, message: Option<(RequesterId, MsiMessage)>);

    /// Raises the interrupt; nothing happens while it is not configured.
    fn signal(&self);
}

/// A sink for functions whose interrupts reach nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiscardMsi;

impl MsiSink for DiscardMsi {
    fn signal(&self, _requester: RequesterId, _message: MsiMessage) {}

    fn vector(&self) -> Box<dyn MsiVector> {
        Box::new(Self)
    }
}

impl MsiVector for DiscardMsi {
    fn configure(&self, _message: Option<(RequesterId, MsiMessage)>) {}

    fn signal(&self) {}
}
