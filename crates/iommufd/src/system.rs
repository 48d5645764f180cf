//! What all contexts share.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_iommu_spec::PhysAddr;

use crate::memory::{Frames, Ledger, Pins};
use crate::ownership::{ContextId, SpaceId};
use crate::{Context, ProcessId};

/// How a [`System`] is set up.
#[derive(Clone, Debug)]
pub struct SystemConfig {
    /// Physical addresses for the memory of programs, where units have no other memory.
    pub frames: Range<PhysAddr>,
    /// The most objects that a context can have at once; then it gets `ENOMEM`. What one takes of
    /// memory is some hundred bytes, or as much as its depth for a queue of events.
    pub objects: u32,
    /// The most contiguous mappings that a context can have in all its address spaces; then it gets
    /// `ENOMEM`. What one takes of memory is some hundred bytes.
    pub areas: u64,
}

impl Default for SystemConfig {
    /// From 1 TiB to the end of what 46 bits address.
    fn default() -> Self {
        Self {
            frames: PhysAddr(1 << 40)..PhysAddr(1 << 46),
            objects: 1 << 16,
            areas: 1 << 20,
        }
    }
}

/// What all contexts share: pinned memory, and the accounts of it.
#[derive(Debug)]
pub struct System {
    config: SystemConfig,
    frames: Frames,
    ledger: Ledger,
    next: AtomicU64,
    #[cfg(feature = "selftest")]
    mock: crate::selftest::Mock,
}

impl System {
    /// A system without contexts.
    pub fn new(config: SystemConfig) -> Arc<Self> {
        Arc::new(Self {
            frames: Frames::new(config.frames.clone()),
            config,
            ledger: Ledger::default(),
            next: AtomicU64::new(1),
            #[cfg(feature = "selftest")]
            mock: crate::selftest::Mock::default(),
        })
    }

    /// A new context, as an open of `/dev/iommu` yields. It ends with its last reference.
    pub fn open(self: &Arc<Self>) -> Arc<Context> {
        Context::new(Arc::clone(self), ContextId(self.number()))
    }

    /// What is accounted to a process.
    pub fn pins(&self, process: ProcessId) -> Pins {
        self.ledger.pins(process)
    }

    /// The physical addresses of pinned memory.
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    pub(crate) fn config(&self) -> &SystemConfig {
        &self.config
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    #[cfg(feature = "selftest")]
    pub(crate) fn mock(&self) -> &crate::selftest::Mock {
        &self.mock
    }

    pub(crate) fn new_space(&self) -> SpaceId {
        SpaceId(self.number())
    }

    /// A number that was not given out before.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}
