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
use super::table::{Source, Table, remapper};
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
    remappers: OnceLock<Vec<Arc<dyn InterruptRemapper>>>,
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
            remappers: OnceLock::new(),
            in_flight: RwLock::default(),
            counters: Counters::default(),
        });
        // KVM then knows how many routes the I/O APIC's pins have.
        router.table().commit(router.vm.fd());
        Ok(router)
    }

    /// Passes what comes from behind a unit through its remapper from now on, each in the place of
    /// its unit's number. Only the first call counts.
    pub fn set_remappers(self: &Arc<Self>, remappers: Vec<Arc<dyn InterruptRemapper>>) {
        let sink: Arc<dyn RouteSink> = Arc::clone(self) as Arc<dyn RouteSink>;
        for remapper in &remappers {
            remapper.watch(Arc::downgrade(&sink));
        }
        if self.remappers.set(remappers).is_err() {
            log::warn!("interrupt remapping was set up twice");
        }
        self.refresh();
    }

    fn remappers(&self) -> &[Arc<dyn InterruptRemapper>] {
        self.remappers.get().map_or(&[], Vec::as_slice)
    }

    /// What the message of a requester behind `unit` becomes, now that it was raised.
    ///
    /// # Errors
    /// The fault, once recorded.
    pub fn remap(
        &self,
        unit: usize,
        requester: RequesterId,
        message: MsiMessage,
    ) -> Result<Interrupt, Fault> {
        let outcome = match remapper(self.remappers(), Some(unit)) {
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

    /// Raises one interrupt of a requester behind `unit`: remaps and delivers it. What the
    /// processors got; the unit logs and records what it refuses.
    pub fn raise(
        &self,
        unit: usize,
        requester: RequesterId,
        message: MsiMessage,
    ) -> Option<Interrupt> {
        let _in_flight = self.in_flight.read();
        let interrupt = self.remap(unit, requester, message).ok()?;
        self.deliver(interrupt);
        Some(interrupt)
    }

    pub(super) fn raise_source(&self, source: Source) {
        match source.unit {
            Some(unit) => {
                self.raise(unit, source.requester, source.message);
            }
            None => self.deliver(Interrupt::from_compatibility(source.message)),
        }
    }

    /// Sets what an I/O APIC pin would raise, or that it raises nothing, so that KVM tells the end
    /// of its interrupt. The I/O APIC is behind the first unit.
    pub fn set_pin(&self, pin: usize, source: Option<(RequesterId, MsiMessage)>) {
        debug_assert!(pin < IOAPIC_PINS);
        let mut table = self.table();
        let source = source.map(|(requester, message)| Source {
            requester,
            message,
            unit: Some(0),
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
        if table.resolve(gsi, self.remappers()) {
            table.commit(self.vm.fd());
        }
    }
}

impl RouteSink for MsiRouter {
    fn refresh(&self) {
        let mut table = self.table();
        if table.resolve_all(self.remappers()) {
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
    unit: Option<usize>,
}

impl Messages {
    /// The way of functions behind the unit of a number: what they send is remapped by it.
    pub fn remapped(router: Arc<MsiRouter>, unit: usize) -> Self {
        Self {
            router,
            unit: Some(unit),
        }
    }

    /// The way of functions that no unit serves: what they send is in compatibility format.
    pub fn direct(router: Arc<MsiRouter>) -> Self {
        Self { router, unit: None }
    }
}

impl MsiSink for Messages {
    fn signal(&self, requester: RequesterId, message: MsiMessage) {
        self.router.raise_source(Source {
            requester,
            message,
            unit: self.unit,
        });
    }

    fn vector(&self) -> Box<dyn MsiVector> {
        Box::new(Vector::new(Arc::clone(&self.router), self.unit))
    }
}
