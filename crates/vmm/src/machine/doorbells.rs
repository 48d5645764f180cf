//! Doorbells: registers whose writes KVM turns into events without leaving the kernel.

use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vm_iommu_pci::{BarMapping, Decode, Doorbell, FabricObserver};

use crate::kvm::Vm;
use crate::throttle::Throttle;

/// Follows the BARs with ioeventfds. Where KVM takes none, writes reach the device as any other.
pub(super) struct Doorbells {
    vm: Arc<Vm>,
    log: Throttle,
}

impl Doorbells {
    pub(super) fn new(vm: Arc<Vm>) -> Self {
        Self {
            vm,
            log: Throttle::default(),
        }
    }
}

impl FabricObserver for Doorbells {
    fn mapped(&self, mapping: &BarMapping) {
        for (address, doorbell) in mapping.doorbells() {
            let place = place(mapping.decode, address);
            if let Err(error) = self.change(true, &doorbell, &place)
                && self.log.passes()
            {
                log::warn!("no ioeventfd at {address:#x}: {error}");
            }
        }
    }

    fn unmapped(&self, mapping: &BarMapping) {
        for (address, doorbell) in mapping.doorbells() {
            let place = place(mapping.decode, address);
            if let Err(error) = self.change(false, &doorbell, &place) {
                log::debug!("no ioeventfd was at {address:#x}: {error}");
            }
        }
    }
}

impl Doorbells {
    fn change(
        &self,
        add: bool,
        doorbell: &Doorbell,
        place: &IoEventAddress,
    ) -> Result<(), kvm_ioctls::Error> {
        let fd = self.vm.fd();
        let event = &*doorbell.event;
        // The width of what is compared is the width of the access; without a value to compare,
        // KVM takes any width.
        macro_rules! change {
            ($value:expr) => {
                if add {
                    fd.register_ioevent(event, place, $value)
                } else {
                    fd.unregister_ioevent(event, place, $value)
                }
            };
        }
        match (doorbell.datamatch, doorbell.len) {
            (None, _) => change!(NoDatamatch),
            (Some(value), 1) => change!(value as u8),
            (Some(value), 2) => change!(value as u16),
            (Some(value), 4) => change!(value as u32),
            (Some(value), _) => change!(value),
        }
    }
}

fn place(decode: Decode, address: u64) -> IoEventAddress {
    match decode {
        Decode::Memory => IoEventAddress::Mmio(address),
        Decode::Io => IoEventAddress::Pio(address),
    }
}
