//! The table of routes as KVM has it, and what each of them was resolved from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;

use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KVM_MAX_IRQ_ROUTES, KvmIrqRouting, kvm_irq_routing_entry};
use kvm_ioctls::{Cap, VmFd};
use vm_iommu_dma::InterruptRemapper;
use vm_iommu_spec::{Interrupt, MsiMessage, RequesterId};

use crate::kvm::{IOAPIC_PINS, Vm};
use crate::throttle::Throttle;

/// Who raises what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) requester: RequesterId,
    pub(super) message: MsiMessage,
    /// The unit that remaps it, if one does.
    pub(super) unit: Option<usize>,
}

/// The remappers of all units, by number.
pub(super) type Remappers = [Arc<dyn InterruptRemapper>];

/// The one that remaps what comes from behind `unit`.
pub(super) fn remapper(
    remappers: &Remappers,
    unit: Option<usize>,
) -> Option<&Arc<dyn InterruptRemapper>> {
    remappers.get(unit?)
}

/// Whether the interrupt of a GSI takes its route in KVM. Whoever raises it holds the lock for
/// reading until it is raised, so that once it was changed nobody is still about to take the route.
pub(super) type Routed = Arc<RwLock<bool>>;

#[derive(Default)]
struct Slot {
    source: Option<Source>,
    /// What `source` resolved to, in the format of messages that KVM takes.
    route: Option<MsiMessage>,
    routed: Option<Routed>,
}

/// The slots of all GSIs in use: the I/O APIC's pins first, then those of vectors.
pub(super) struct Table {
    slots: BTreeMap<u32, Slot>,
    /// GSIs end here.
    limit: u32,
    updates: u64,
    log: Throttle,
}

impl Table {
    pub(super) fn new(vm: &Vm) -> Self {
        let most = vm.fd().check_extension_int(Cap::IrqRouting).max(0) as u32;
        Self {
            slots: BTreeMap::new(),
            limit: most.min(KVM_MAX_IRQ_ROUTES as u32),
            updates: 0,
            log: Throttle::default(),
        }
    }

    /// A GSI for a vector; `None` when all are taken.
    pub(super) fn allocate(&mut self, routed: Routed) -> Option<u32> {
        let first = IOAPIC_PINS as u32;
        let mut gsi = first;
        for &taken in self.slots.range(first..).map(|(gsi, _)| gsi) {
            if taken != gsi {
                break;
            }
            gsi += 1;
        }
        if gsi >= self.limit {
            return None;
        }
        self.slots.insert(
            gsi,
            Slot {
                routed: Some(routed),
                ..Default::default()
            },
        );
        Some(gsi)
    }

    /// Forgets a GSI. Its route goes with the next commit.
    pub(super) fn release(&mut self, gsi: u32) {
        self.slots.remove(&gsi);
    }

    pub(super) fn set_source(&mut self, gsi: u32, source: Option<Source>) {
        self.slots.entry(gsi).or_default().source = source;
    }

    /// The number of routes.
    pub(super) fn len(&self) -> usize {
        self.slots.values().filter(|s| s.route.is_some()).count()
    }

    /// The highest GSI in use.
    #[cfg(test)]
    pub(super) fn highest(&self) -> Option<u32> {
        self.slots.keys().next_back().copied()
    }

    /// How often KVM was told.
    pub(super) fn updates(&self) -> u64 {
        self.updates
    }

    /// Resolves one source again; whether its route changed.
    pub(super) fn resolve(&mut self, gsi: u32, remappers: &Remappers) -> bool {
        self.slots
            .get_mut(&gsi)
            .is_some_and(|slot| slot.resolve(remappers))
    }

    /// Resolves all sources again; whether any route changed.
    pub(super) fn resolve_all(&mut self, remappers: &Remappers) -> bool {
        let mut changed = false;
        for slot in self.slots.values_mut() {
            changed |= slot.resolve(remappers);
        }
        changed
    }

    /// Tells KVM all routes in one call. When it returns, KVM uses none of the old ones.
    pub(super) fn commit(&mut self, fd: &VmFd) {
        let entries: Vec<kvm_irq_routing_entry> = self
            .slots
            .iter()
            .filter_map(|(gsi, slot)| Some(entry(*gsi, slot.route?)))
            .collect();
        self.updates += 1;
        let outcome = KvmIrqRouting::from_entries(&entries)
            .map_err(|error| format!("{error:?}"))
            .and_then(|routing| fd.set_gsi_routing(&routing).map_err(|e| e.to_string()));
        let taken = match outcome {
            Ok(()) => true,
            Err(error) => {
                if self.log.passes() {
                    log::error!("KVM did not take {} routes: {error}", entries.len());
                }
                false
            }
        };
        // A route is used only once KVM has it; one that went was given up before.
        for slot in self.slots.values() {
            slot.set_routed(taken && slot.route.is_some());
        }
    }
}

impl Slot {
    fn resolve(&mut self, remappers: &Remappers) -> bool {
        let interrupt = self
            .source
            .and_then(|source| match remapper(remappers, source.unit) {
                Some(remapper) => remapper.resolve(source.requester, source.message).ok(),
                None => Some(Interrupt::from_compatibility(source.message)),
            });
        let route = interrupt.map(Interrupt::to_compatibility);
        if route == self.route {
            return false;
        }
        if route.is_none() {
            self.set_routed(false);
        }
        self.route = route;
        true
    }

    fn set_routed(&self, value: bool) {
        if let Some(routed) = &self.routed {
            let mut routed = routed.write().unwrap_or_else(PoisonError::into_inner);
            *routed = value;
        }
    }
}

fn entry(gsi: u32, route: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi.address_lo = route.address as u32;
    entry.u.msi.address_hi = (route.address >> 32) as u32;
    entry.u.msi.data = route.data;
    entry
}
