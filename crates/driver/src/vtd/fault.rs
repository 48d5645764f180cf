//! Reading the fault recording registers (section 7.2).

use alloc::vec::Vec;

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::FaultRecord;
use vm_iommu_spec::vtd::registers::{FaultStatus, offset};

use super::Unit;
use crate::{Pages, RegisterBus};

/// Size of a fault recording register in bytes.
const RECORD: u16 = 16;

/// What the unit recorded since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultLog {
    /// The records, the oldest first.
    pub records: Vec<FaultRecord>,
    /// Faults were lost, because the registers were full.
    pub overflow: bool,
}

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// Takes the recorded faults and makes their registers free again.
    pub fn take_faults(&mut self) -> FaultLog {
        let bus = &self.link.bus;
        let status = FaultStatus::from_bits(bus.read32(offset::FSTS));
        let mut log = FaultLog {
            records: Vec::new(),
            overflow: status.overflow(),
        };
        let count = self.capability.fault_record_count();
        let first = self.capability.fault_recording_offset();
        let mut index = u16::from(status.record_index()) % count;
        // At most once around, however fast new faults arrive.
        for _ in 0..if status.pending() { count } else { 0 } {
            let place = first.wrapping_add(index * RECORD);
            let high = bus.read64(place.wrapping_add(8));
            if !FaultRecord::from_words(0, high).fault() {
                break;
            }
            let low = bus.read64(place);
            log.records.push(FaultRecord::from_words(low, high));
            // F is bit 127; the rest is read-only.
            bus.write32(place.wrapping_add(12), 1 << 31);
            index = (index + 1) % count;
        }
        if log.overflow {
            let clear = FaultStatus::new().with_overflow(true);
            bus.write32(offset::FSTS, clear.into_bits());
        }
        log
    }
}
