//! Interrupt remapping (chapter 5).

use std::sync::Weak;

use vm_iommu_dma::unit::EntryCache;
use vm_iommu_dma::{GuestRam, InterruptRemapper, RouteSink};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::registers::{GlobalBits, InterruptTableAddress};
use vm_iommu_spec::vtd::{self, FaultRecord, InterruptRequest, Irte};
use vm_iommu_spec::{
    Access, Fault, FaultReason, Interrupt, Iova, MSI_WINDOW, MsiMessage, PhysAddr, RequesterId,
};

use crate::explain::WalkStep;
use crate::unit::Vtd;

/// A refused interrupt request.
pub(crate) struct IrRefusal {
    pub(crate) reason: vtd::FaultReason,
    /// The index that it named; 0 if none.
    pub(crate) index: u16,
    /// The entry and where it is, if it was read.
    pub(crate) entry: Option<(PhysAddr, Irte)>,
}

impl InterruptRemapper for Vtd {
    fn remap(&self, requester: RequesterId, message: MsiMessage) -> Result<Interrupt, Fault> {
        let fault = |reason| Fault {
            requester,
            pasid: None,
            address: Iova(message.address),
            access: Access::WRITE,
            reason,
        };
        if !MSI_WINDOW.contains(&Iova(message.address)) {
            return Err(fault(FaultReason::NotMemory));
        }
        self.route(requester, message).map_err(|refusal| {
            let IrRefusal {
                reason,
                index,
                entry,
            } = refusal;
            let fault = fault(FaultReason::Vtd(reason));
            let suppressed = reason.is_qualified()
                && entry.is_some_and(|(_, entry)| entry.fault_processing_disable());
            let record = FaultRecord::of_interrupt(requester, index, reason);
            let steps = entry.map(|(place, entry)| WalkStep::of_irte(index, place, entry));
            self.report(fault, record, suppressed, steps.into_iter().collect());
            fault
        })
    }

    fn resolve(&self, requester: RequesterId, message: MsiMessage) -> Result<Interrupt, Fault> {
        let reason = if MSI_WINDOW.contains(&Iova(message.address)) {
            match self.route(requester, message) {
                Ok(interrupt) => return Ok(interrupt),
                Err(refusal) => FaultReason::Vtd(refusal.reason),
            }
        } else {
            FaultReason::NotMemory
        };
        Err(Fault {
            requester,
            pasid: None,
            address: Iova(message.address),
            access: Access::WRITE,
            reason,
        })
    }

    fn watch(&self, sink: Weak<dyn RouteSink>) {
        self.routes.add(sink);
    }
}

impl Vtd {
    /// Remaps `message`, without any effect on registers (section 5.1.4).
    pub(crate) fn route(
        &self,
        requester: RequesterId,
        message: MsiMessage,
    ) -> Result<Interrupt, IrRefusal> {
        // Before the snapshot is read: a change after that voids the token.
        let token = self.irtes.token();
        let snapshot = self.snapshot();
        if !snapshot.remaps_interrupts() {
            return Ok(Interrupt::from_compatibility(message));
        }
        let refusal = |reason| IrRefusal {
            reason,
            index: 0,
            entry: None,
        };
        let table = snapshot.interrupts;
        let index = match InterruptRequest::decode(message).map_err(refusal)? {
            InterruptRequest::Compatibility => {
                let passes = snapshot.enabled.contains(GlobalBits::COMPATIBILITY_FORMAT)
                    && !table.extended_mode();
                return if passes {
                    Ok(Interrupt::from_compatibility(message))
                } else {
                    Err(refusal(vtd::FaultReason::IrCompatibilityBlocked))
                };
            }
            InterruptRequest::Remappable { index } => index,
        };
        let beyond = || IrRefusal {
            index: index as u16,
            ..refusal(vtd::FaultReason::IrIndexBeyondTable)
        };
        let index = u16::try_from(index).map_err(|_| beyond())?;
        if u32::from(index) >= table.entries() {
            return Err(beyond());
        }
        let (place, entry) = match self.irtes.find(index) {
            Some(entry) => (entry_place(table, index), entry),
            None => load(&self.ram, table, index).ok_or(IrRefusal {
                index,
                ..refusal(vtd::FaultReason::IrTableAccess)
            })?,
        };
        let refused = |reason| IrRefusal {
            reason,
            index,
            entry: place.map(|place| (place, entry)),
        };
        let interrupt = entry.check(table.extended_mode()).map_err(refused)?;
        self.irtes.insert(token, index, entry);
        entry.verify(requester).map_err(refused)?;
        Ok(interrupt)
    }
}

fn entry_place(table: InterruptTableAddress, index: u16) -> Option<PhysAddr> {
    table.address().checked_add(u64::from(index) * 16)
}

/// Loads the entry `index`. Its halves are loaded apart; the lower is loaded again to see
/// whether software changed the entry in between.
fn load(
    ram: &GuestRam,
    table: InterruptTableAddress,
    index: u16,
) -> Option<(Option<PhysAddr>, Irte)> {
    const ATTEMPTS: usize = 4;
    let place = entry_place(table, index)?;
    let high_place = place.checked_add(8)?;
    ram.tables(|tables| {
        let mut low = tables.load(place).ok()?;
        let mut high = tables.load(high_place).ok()?;
        for _ in 0..ATTEMPTS {
            let again = tables.load(place).ok()?;
            if again == low {
                break;
            }
            low = again;
            high = tables.load(high_place).ok()?;
        }
        Some((Some(place), Irte::from_words(low, high)))
    })
}

/// The interrupt entry cache (section 6.2.4), by index.
pub(crate) type IrteCache = EntryCache<u16, Irte>;
