//! Guest RAM as units and devices reach it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vm_iommu_pagetable::{BadAddress, TableMemory};
use vm_iommu_spec::{FaultReason, PhysAddr};
use vm_memory::GuestMemoryMmap;

use super::map::Map;
use super::pin::{pin, synchronize};
use super::{HostRange, OutputSpace, TableView};
use crate::DmaPort;

/// Guest RAM, flattened: a sorted list of regions with their host addresses.
///
/// Cloning is cheap and shares the memory, its changes included.
#[derive(Clone)]
pub struct GuestRam {
    pub(super) shared: Arc<Shared>,
}

/// What clones share.
pub(super) struct Shared {
    /// The map in force, which this owns. Read by pinned threads only.
    current: AtomicPtr<Map>,
    /// Whether the map in force has logs.
    pub(super) logging: AtomicBool,
    /// The ports whose devices reach this memory; held while the map or the logs change.
    ports: Mutex<Vec<Weak<DmaPort>>>,
}

/// Leave to change the map.
pub(super) type Change<'a> = MutexGuard<'a, Vec<Weak<DmaPort>>>;

impl GuestRam {
    /// Takes over `memory`; it stays mapped while any clone lives, or until it is
    /// [replaced](Self::replace).
    pub fn new(memory: impl Into<Arc<GuestMemoryMmap>>) -> Self {
        let map = Map::new(memory.into(), false);
        Self {
            shared: Arc::new(Shared {
                current: AtomicPtr::new(Box::into_raw(map)),
                logging: AtomicBool::new(false),
                ports: Mutex::default(),
            }),
        }
    }

    /// The memory as the loader and other `vm-memory` users see it. Whoever keeps it keeps it
    /// mapped.
    pub fn memory(&self) -> Arc<GuestMemoryMmap> {
        self.with_map(|map| Arc::clone(&map.memory))
    }

    /// Puts `memory` in the place of what was there, as when a slot is added, removed or moved,
    /// and returns what was there once no device and no unit uses it any more: unless somebody
    /// else holds it, dropping it unmaps what is not part of `memory` too. Observers are told that
    /// nothing is mapped, and awaited.
    ///
    /// The caller must not be inside an epoch.
    pub fn replace(&self, memory: impl Into<Arc<GuestMemoryMmap>>) -> Arc<GuestMemoryMmap> {
        let change = self.shared.change();
        let logging = self.shared.logging.load(Ordering::SeqCst);
        let old = self.shared.publish(Map::new(memory.into(), logging));
        self.shared.quiesce(&change);
        // No writer marks the old map any more.
        self.with_map(|map| map.adopt_marks(&old));
        Arc::clone(&old.memory)
    }

    /// Whether all `len` bytes from `start` are RAM, in one region.
    pub fn contains(&self, start: PhysAddr, len: u64) -> bool {
        len == 0 || self.with_map(|map| map.locate(start, len).is_some())
    }

    /// Runs `walk` on the memory that is there now, and stays until it returns: several loads, as
    /// of a walk, then cost no more than those of memory that never changes. Keep it short: a
    /// change waits for it. It must not change the memory itself.
    #[inline]
    pub fn tables<R>(&self, walk: impl FnOnce(&TableView) -> R) -> R {
        self.with_map(|map| walk(TableView::of(map)))
    }

    /// Runs `read` on the map in force, which stays until it returns.
    #[inline]
    pub(super) fn with_map<R>(&self, read: impl FnOnce(&Map) -> R) -> R {
        let _pin = pin();
        // SAFETY: the pointer is to a map that is dropped only after it was replaced and all
        // threads that were pinned then are no more.
        read(unsafe { &*self.shared.current.load(Ordering::Acquire) })
    }
}

impl Shared {
    /// Waits for leave to change the map.
    pub(super) fn change(&self) -> Change<'_> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `map` in force; the one before may be used until [`quiesce`](Self::quiesce) returned.
    pub(super) fn publish(&self, map: Box<Map>) -> Box<Map> {
        let old = self.current.swap(Box::into_raw(map), Ordering::SeqCst);
        // SAFETY: it came from `into_raw`, and only the swap that took it out may take it back.
        unsafe { Box::from_raw(old) }
    }

    /// Drops all translations that rest on what was in force before, and waits for whoever uses
    /// it.
    pub(super) fn quiesce(&self, ports: &Change<'_>) {
        let ports: Vec<Arc<DmaPort>> = ports.iter().filter_map(Weak::upgrade).collect();
        for port in &ports {
            port.forget();
        }
        // Resolving is pinned, using what was resolved is inside an epoch that began before.
        synchronize();
        let mut drained: Vec<*const crate::Epochs> = Vec::new();
        for port in &ports {
            let epochs = &port.upstream().epochs;
            if !drained.contains(&Arc::as_ptr(epochs)) {
                drained.push(Arc::as_ptr(epochs));
                epochs.drain().wait();
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `into_raw`, and nobody shares it any more.
        drop(unsafe { Box::from_raw(*self.current.get_mut()) });
    }
}

// SAFETY: the regions are mapped and shared with the guest; when they are replaced, the old map
// is kept until the ports were told and drained.
unsafe impl OutputSpace for GuestRam {
    fn resolve(&self, address: PhysAddr) -> Result<HostRange, FaultReason> {
        let range = self.with_map(|map| map.region(address).map(|region| region.range));
        range.ok_or(FaultReason::NotMemory)
    }

    fn identity(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }

    fn attach(&self, port: &Arc<DmaPort>) {
        let mut ports = self.shared.change();
        ports.retain(|port| port.strong_count() > 0);
        ports.push(Arc::downgrade(port));
    }

    fn logs_writes(&self) -> bool {
        self.shared.logging.load(Ordering::SeqCst)
    }

    fn mark_written(&self, address: PhysAddr, len: u64) {
        self.with_map(|map| {
            if let Some(region) = map.region(address) {
                region.mark(address, len);
            }
        });
    }
}

impl TableMemory for GuestRam {
    #[inline]
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress> {
        self.tables(|tables| tables.load(address))
    }

    #[inline]
    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress> {
        self.tables(|tables| tables.compare_exchange(address, old, new))
    }

    #[inline]
    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress> {
        self.tables(|tables| tables.store(address, value))
    }

    fn with_table(&self, table: PhysAddr, access: &mut dyn FnMut(&[AtomicU64; 512])) -> bool {
        self.tables(|tables| tables.with_table(table, access))
    }

    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress> {
        self.tables(|tables| tables.store_u32(address, value))
    }
}

impl From<GuestMemoryMmap> for GuestRam {
    fn from(memory: GuestMemoryMmap) -> Self {
        Self::new(memory)
    }
}

impl fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_map(|map| {
            let regions = map.regions.iter().map(|region| region.range);
            f.debug_list().entries(regions).finish()
        })
    }
}
