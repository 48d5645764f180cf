//! The end of every way: KVM's local APICs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::kvm_msi;
use vm_iommu_dma::unit::UnitInterrupts;
use vm_iommu_spec::Interrupt;

use crate::kvm::Vm;
use crate::throttle::Throttle;

/// The local APICs of a machine's processors, for interrupts that have no route.
pub struct LocalApics {
    vm: Arc<Vm>,
    delivered: AtomicU64,
    log: Throttle,
}

impl LocalApics {
    /// Those of `vm`.
    pub fn new(vm: Arc<Vm>) -> Arc<Self> {
        Arc::new(Self {
            vm,
            delivered: AtomicU64::new(0),
            log: Throttle::default(),
        })
    }

    /// How many interrupts came this way.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }
}

/// A unit's own interrupts are not remapped, and come here as they are.
impl UnitInterrupts for LocalApics {
    fn deliver(&self, interrupt: Interrupt) {
        let message = interrupt.to_compatibility();
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..Default::default()
        };
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.vm.fd().signal_msi(msi)
            && self.log.passes()
        {
            // Nobody has that destination, as when a guest gets its tables wrong.
            log::debug!("KVM did not deliver {interrupt:?}: {error}");
        }
    }
}
