//! Carrying out what config writes ask for.
//!
//! One thread at a time settles, in the order of the writes; the others wait, so that a write has
//! taken effect when it returns. A write made by a function or an observer that is called from
//! here is carried out after it: the thread would wait for itself.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use super::{Fabric, View};
use crate::ranges::Piece;
use crate::routes::Routes;
use crate::topology::Topology;
use crate::{BarMapping, Decode, Effects, FabricObserver, FunctionId, PciFunction};

/// Who is settling, and what is left to do.
#[derive(Default)]
pub(super) struct Settling {
    turn: Mutex<()>,
    owner: Mutex<Option<ThreadId>>,
    queue: Mutex<Vec<(FunctionId, Effects)>>,
    newcomers: Mutex<Vec<Arc<dyn FabricObserver>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names the owner while it lives.
struct Owner<'a>(&'a Settling);

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        *lock(&self.0.owner) = None;
    }
}

impl Settling {
    /// Takes note of an observer that has been told nothing yet.
    pub(super) fn welcome(&self, observer: Arc<dyn FabricObserver>) {
        lock(&self.newcomers).push(observer);
    }

    fn is_mine(&self) -> bool {
        *lock(&self.owner) == Some(thread::current().id())
    }

    /// Runs `work` while nobody settles; at once, if the caller is called by the one who does.
    pub(super) fn exclusively<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.is_mine() {
            return work();
        }
        let _turn = lock(&self.turn);
        *lock(&self.owner) = Some(thread::current().id());
        let _owner = Owner(self);
        work()
    }
}

/// A BAR's mapping in a form that can be compared.
type Mapping = (Decode, Piece);

impl View {
    pub(super) fn mappings(&self) -> BTreeSet<Mapping> {
        [Decode::Memory, Decode::Io]
            .into_iter()
            .flat_map(|decode| {
                let pieces = self.routes.pieces(decode).iter();
                pieces.map(move |piece| (decode, *piece))
            })
            .collect()
    }

    pub(super) fn describe(&self, (decode, piece): &Mapping) -> BarMapping {
        BarMapping {
            id: FunctionId(piece.node),
            function: Arc::clone(&self.topology.nodes[piece.node].function),
            bar: piece.bar,
            decode: *decode,
            address: piece.start,
            // Windows and BARs never span the whole address space.
            len: (piece.end - piece.start).saturating_add(1),
            offset: piece.offset,
        }
    }
}

impl Fabric {
    /// Takes note of what a config write to the function asks for, and carries it out.
    pub(super) fn note_effects(&self, id: FunctionId, function: &dyn PciFunction) {
        let effects = function.config().take_effects();
        if !effects.is_empty() {
            lock(&self.settling.queue).push((id, effects));
            self.settle();
        }
    }

    /// Carries out what direct writes to config spaces asked for.
    pub(crate) fn apply_writes(&self, topology: &Topology) {
        for (index, node) in topology.nodes.iter().enumerate() {
            let effects = node.function.config().take_effects();
            lock(&self.settling.queue).push((FunctionId(index), effects));
        }
        self.settle();
    }

    pub(super) fn settle(&self) {
        if self.settling.is_mine() {
            return;
        }
        self.settling.exclusively(|| {
            loop {
                let batch = std::mem::take(&mut *lock(&self.settling.queue));
                let newcomers = std::mem::take(&mut *lock(&self.settling.newcomers));
                if batch.is_empty() && newcomers.is_empty() {
                    break;
                }
                self.introduce(newcomers);
                let topology = Arc::clone(&self.view().topology);
                for (id, effects) in batch {
                    reset_for(&topology, id, effects);
                }
                self.reroute();
            }
        });
    }

    fn introduce(&self, newcomers: Vec<Arc<dyn FabricObserver>>) {
        let view = self.view();
        for observer in newcomers {
            for mapping in view.mappings() {
                observer.mapped(&view.describe(&mapping));
            }
            lock(&self.observers).push(observer);
        }
    }

    /// Reads all registers anew and makes them true. What is taken away goes before what is new
    /// comes: no function is reachable, or masters the bus, by a mix of old and new.
    pub(super) fn reroute(&self) {
        let old = self.view();
        let routes = Routes::compute(&old.topology, self.segment, &self.windows);
        let new = View {
            segment: self.segment,
            topology: Arc::clone(&old.topology),
            routes,
        };
        let (before, after) = (old.mappings(), new.mappings());
        let observers: Vec<Arc<dyn FabricObserver>> = lock(&self.observers).clone();
        for mapping in before.difference(&after) {
            let mapping = old.describe(mapping);
            observers
                .iter()
                .for_each(|observer| observer.unmapped(&mapping));
        }
        let ports = || {
            let states = new.routes.masters.iter().zip(&new.routes.requesters);
            new.topology.nodes.iter().zip(states)
        };
        for (index, (node, (master, _))) in ports().enumerate() {
            if !master {
                node.function.port().set_bus_master(false);
                if old.routes.masters.get(index) == Some(&true) {
                    // An interrupt that was on its way has arrived when this returns.
                    node.function.config().interrupts().refresh();
                }
            }
        }
        for (node, (_, requester)) in ports() {
            let port = node.function.port();
            if let Some(requester) = *requester
                && requester != port.requester()
            {
                port.set_requester(requester);
                node.function.config().interrupts().refresh();
            }
        }
        for (node, (master, _)) in ports() {
            if *master {
                node.function.port().set_bus_master(true);
            }
        }
        let added: Vec<BarMapping> = after
            .difference(&before)
            .map(|mapping| new.describe(mapping))
            .collect();
        self.publish(new);
        for mapping in &added {
            observers
                .iter()
                .for_each(|observer| observer.mapped(mapping));
        }
    }
}

/// The resets that a config write asks for.
fn reset_for(topology: &Topology, id: FunctionId, effects: Effects) {
    if effects.contains(Effects::FUNCTION_RESET)
        && let Some(node) = topology.nodes.get(id.0)
    {
        reset(&*node.function);
    }
    if effects.contains(Effects::BUS_RESET) {
        for (index, node) in topology.nodes.iter().enumerate() {
            if topology.bridges_above(index).any(|bridge| bridge == id.0) {
                reset(&*node.function);
            }
        }
    }
}

/// Stops and drains the function, and returns it to power-on with bus mastering off.
fn reset(function: &dyn PciFunction) {
    let port = function.port();
    port.stop();
    port.set_bus_master(false);
    function.reset();
    function.config().reset();
    port.restart();
}
