//! The router: everything that interrupts a processor passes it.
//!
//! An interrupt that resolves has a route in KVM, so that raising it is one write to an eventfd.
//! Anything else stays here: each event is remapped when it happens, which records the fault.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use serde::Serialize;
use vm_iommu_dma::{InterruptRemapper, MsiSink, MsiVector, RouteSink};
use vm_iommu_spec::{Fault, Interrupt, MsiMessage, RequesterId};

use vm_iommu_dma::unit::UnitInterrupts;

use super::LocalApics;
use super::table::{Source, Table};
use super::vector::Vector;
use crate::kvm::{IOAPIC_PINS, KvmError, Vm};

/// How interrupts reached the processors, since the machine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InterruptCounters {
    /// Raised through a route in KVM.
    pub routed: u64,
    /// Delivered from user space, one call each.
    pub delivered: u64,
    /// Refused by the unit's interrupt remapping.
    pub refused: u64,
    /// Times that the table of routes was set.
    pub route_updates: u64,
    /// Routes in KVM now, the I/O APIC's among them.
    pub routes: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) routed: AtomicU64,
    refused: AtomicU64,
}

/// The machine's interrupt router.
///
/// Locks: the table's lock is held while the remapper resolves, and taken by
/// [`refresh`](RouteSink::refresh); it is the innermost lock of this crate, and a remapper takes
/// none in `resolve` that it holds when it calls `refresh`.
pub struct MsiRouter {
    vm: Arc<Vm>,
    apics: Arc<LocalApics>,
    remapper: OnceLock<Arc<dyn InterruptRemapper>>,
    table: Mutex<Table>,
    /// Shared by whoever remaps an interrupt and has not yet delivered it; taken alone to wait
    /// for them. Nothing that a remapper does in `remap` waits for `refresh`.
    in_flight: RwLock<()>,
    pub(super) counters: Counters,
}

impl MsiRouter {
    /// A router without remapping: messages are in compatibility format.
    ///
    /// # Errors
    /// KVM takes no routes.
    pub fn new(vm: Arc<Vm>, apics: Arc<LocalApics>) -> Result<Arc<Self>, KvmError> {
        let router = Arc::new(Self {
            table: Mutex::new(Table::new(&vm)),
            vm,
            apics,
            remapper: OnceLock::new(),
            in_flight: RwLock::default(),
            counters: Counters::default(),
        });
        // KVM then knows how many routes the I/O APIC's pins have.
        router.table().commit(router.vm.fd());
        Ok(router)
    }

    /// Passes everything through `remapper` from now on. Only the first call counts.
    pub fn set_remapper(self: &Arc<Self>, remapper: Arc<dyn InterruptRemapper>) {
        let sink: Arc<dyn RouteSink> = Arc::clone(self) as Arc<dyn RouteSink>;
        remapper.watch(Arc::downgrade(&sink));
        if self.remapper.set(remapper).is_err() {
            log::warn!("interrupt remapping was set up twice");
        }
        self.refresh();
    }

    /// What the message of a requester becomes, now that it was raised.
    ///
    /// # Errors
    /// The fault, once recorded.
    pub fn remap(&self, requester: RequesterId, message: MsiMessage) -> Result<Interrupt, Fault> {
        let outcome = match self.remapper.get() {
            Some(remapper) => remapper.remap(requester, message),
            None => Ok(Interrupt::from_compatibility(message)),
        };
        if outcome.is_err() {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    /// Hands an interrupt to the local APICs.
    pub fn deliver(&self, interrupt: Interrupt) {
        self.apics.deliver(interrupt);
    }

    /// Raises one interrupt of a requester: remaps and delivers it. What the processors got;
    /// the unit logs and records what it refuses.
    pub fn raise(&self, requester: RequesterId, message: MsiMessage) -> Option<Interrupt> {
        let _in_flight = self.in_flight.read();
        let interrupt = self.remap(requester, message).ok()?;
        self.deliver(interrupt);
        Some(interrupt)
    }

    pub(super) fn raise_source(&self, source: Source) {
        if source.remapped {
            self.raise(source.requester, source.message);
        } else {
            self.deliver(Interrupt::from_compatibility(source.message));
        }
    }

    /// Sets what an I/O APIC pin would raise, or that it raises nothing, so that KVM tells the end
    /// of its interrupt.
    pub fn set_pin(&self, pin: usize, source: Option<(RequesterId, MsiMessage)>) {
        debug_assert!(pin < IOAPIC_PINS);
        let mut table = self.table();
        let source = source.map(|(requester, message)| Source {
            requester,
            message,
            remapped: true,
        });
        table.set_source(pin as u32, source);
        self.update(&mut table, pin as u32);
    }

    /// The counters.
    pub fn counters(&self) -> InterruptCounters {
        let (route_updates, routes) = {
            let table = self.table();
            (table.updates(), table.len() as u64)
        };
        InterruptCounters {
            routed: self.counters.routed.load(Ordering::Relaxed),
            delivered: self.apics.delivered(),
            refused: self.counters.refused.load(Ordering::Relaxed),
            route_updates,
            routes,
        }
    }

    pub(super) fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves the source of `gsi` and has KVM know.
    pub(super) fn update(&self, table: &mut Table, gsi: u32) {
        let remapper = self.remapper.get().map(AsRef::as_ref);
        if table.resolve(gsi, remapper) {
            table.commit(self.vm.fd());
        }
    }
}

impl RouteSink for MsiRouter {
    fn refresh(&self) {
        let mut table = self.table();
        let remapper = self.remapper.get().map(AsRef::as_ref);
        if table.resolve_all(remapper) {
            table.commit(self.vm.fd());
        }
        drop(table);
        // Those that were remapped by the old entries are delivered before this returns.
        drop(self.in_flight.write());
    }
}

/// The router as functions see it: where they send their messages.
#[derive(Clone)]
pub struct Messages {
    router: Arc<MsiRouter>,
    remapped: bool,
}

impl Messages {
    /// The way of functions behind the unit: what they send is remapped.
    pub fn remapped(router: Arc<MsiRouter>) -> Self {
        Self {
            router,
            remapped: true,
        }
    }

    /// The way of functions that the unit does not serve: what they send is in compatibility
    /// format.
    pub fn direct(router: Arc<MsiRouter>) -> Self {
        Self {
            router,
            remapped: false,
        }
    }
}

impl MsiSink for Messages {
    fn signal(&self, requester: RequesterId, message: MsiMessage) {
        self.router.raise_source(Source {
            requester,
            message,
            remapped: self.remapped,
        });
    }

    fn vector(&self) -> Box<dyn MsiVector> {
        Box::new(Vector::new(Arc::clone(&self.router), self.remapped))
    }
}
