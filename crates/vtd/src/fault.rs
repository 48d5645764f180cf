//! Recording and reporting of faults (chapter 7).
//!
//! A fault fills the next fault recording register and the fault event tells software. A fault
//! that equals one still recorded (requester, reason, page, kind of access and PASID) is dropped,
//! as section 7.2.1 permits; one that finds its register in use sets PFO, and nothing more is
//! recorded until software cleared that.

use vm_iommu_spec::vtd::registers::{QueueError, QueueErrorRecord, offset};
use vm_iommu_spec::vtd::{self, FaultRecord};
use vm_iommu_spec::{DmaRequest, Fault, FaultReason, Interrupt, Iova, MSI_WINDOW, MsiMessage};

use crate::control::Control;
use crate::explain::WalkStep;
use crate::unit::Vtd;

impl Vtd {
    /// How many requests were refused since the unit was made, recorded or not.
    pub fn refused(&self) -> u64 {
        self.faults.total()
    }

    /// Refuses a memory request: records the fault unless the request is a probe or `suppressed`,
    /// and yields it.
    pub(crate) fn refuse(
        &self,
        request: &DmaRequest,
        reason: vtd::FaultReason,
        suppressed: bool,
        steps: Vec<WalkStep>,
    ) -> Fault {
        let fault = request.fault(FaultReason::Vtd(reason));
        if !request.probe {
            let record = FaultRecord::of_request(request, reason);
            self.report(fault, record, suppressed && reason.is_qualified(), steps);
        }
        fault
    }

    /// Records `fault` as `record` and tells software.
    pub(crate) fn report(
        &self,
        fault: Fault,
        record: FaultRecord,
        suppressed: bool,
        steps: Vec<WalkStep>,
    ) {
        if self.fault_log.allows() {
            log::warn!("VT-d: {fault}");
        }
        self.faults.push(fault, steps, suppressed);
        if !suppressed {
            let event = self.control().record(record);
            self.send(event);
        }
    }

    /// Delivers an event of the unit's own, past interrupt remapping (section 5.1.6).
    pub(crate) fn send(&self, event: Option<MsiMessage>) {
        let Some(message) = event else { return };
        // The upper half of the address holds destination bits 31:8.
        if MSI_WINDOW.contains(&Iova(message.address & 0xffff_ffff)) {
            self.interrupts
                .deliver(Interrupt::from_compatibility(message));
        } else if self.access_log.allows() {
            log::warn!(
                "VT-d: event dropped, {:#x} is no interrupt address",
                message.address
            );
        }
    }
}

impl Control {
    /// Fills a fault recording register (section 7.2.1); the fault event, if it is to be sent.
    fn record(&mut self, record: FaultRecord) -> Option<MsiMessage> {
        let status = self.fault_status();
        if status.overflow() || self.is_recorded(record) {
            return None;
        }
        let index = self.next_record;
        let place = self.record_place(index);
        let status = if FaultRecord::from_words(0, self.file.get(place + 8)).fault() {
            status.with_overflow(true)
        } else {
            let [low, high] = record.words();
            self.file.set(place, low);
            self.file.set(place + 8, high);
            self.next_record = (index + 1) % self.records.1;
            match status.pending() {
                true => status,
                false => status.with_pending(true).with_record_index(index as u8),
            }
        };
        self.raise_fault(status.into_bits())
    }

    /// Sets FSTS_REG; the fault event goes out only if no condition was pending before
    /// (section 7.3).
    fn raise_fault(&mut self, status: u32) -> Option<MsiMessage> {
        let quiet = self.fault_status().into_bits() & FAULT_CONDITIONS == 0;
        self.file.set(offset::FSTS, u64::from(status));
        if quiet {
            self.raise_event(offset::FECTL)
        } else {
            None
        }
    }

    /// Stops the invalidation queue at an error (section 6.5.2.10).
    pub(crate) fn queue_error(&mut self, error: QueueError) -> Option<MsiMessage> {
        let record = QueueErrorRecord::from_bits(self.file.get(offset::IQERCD)).with_error(error);
        self.file.set(offset::IQERCD, record.into_bits());
        self.raise_fault(self.fault_status().with_queue_error(true).into_bits())
    }

    /// Reports a device-TLB that did not answer.
    pub(crate) fn timeout_error(&mut self, source: u16) -> Option<MsiMessage> {
        let record =
            QueueErrorRecord::from_bits(self.file.get(offset::IQERCD)).with_timeout_source(source);
        self.file.set(offset::IQERCD, record.into_bits());
        self.raise_fault(self.fault_status().with_timeout_error(true).into_bits())
    }

    /// Software cleared fields of FSTS_REG or F fields: PPF follows the F fields, IQERCD_REG
    /// its conditions, and an event that waits unmasking is void once no condition is left.
    pub(crate) fn fault_status_changed(&mut self) {
        let pending = (0..self.records.1).any(|index| {
            let high = self.file.get(self.record_place(index) + 8);
            FaultRecord::from_words(0, high).fault()
        });
        let status = self.fault_status().with_pending(pending);
        self.file.set(offset::FSTS, u64::from(status.into_bits()));
        let mut errors = QueueErrorRecord::from_bits(self.file.get(offset::IQERCD));
        if !status.queue_error() {
            errors.set_error(QueueError::Unspecified);
        }
        if !status.timeout_error() {
            errors.set_timeout_source(0);
        }
        self.file.set(offset::IQERCD, errors.into_bits());
        if status.into_bits() & FAULT_CONDITIONS == 0 {
            self.set_event_pending(offset::FECTL, false);
        }
    }

    fn is_recorded(&self, record: FaultRecord) -> bool {
        let [low, high] = record.words();
        (0..self.records.1).any(|index| {
            let place = self.record_place(index);
            self.file.get(place) == low && self.file.get(place + 8) == high
        })
    }

    fn record_place(&self, index: u16) -> u16 {
        self.records.0 + index * 16
    }
}

/// PFO, PPF, IQE, ICE and ITE.
const FAULT_CONDITIONS: u32 = 0x73;
