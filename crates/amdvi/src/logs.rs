//! The PPR log (section 2.6) and the guest virtual APIC log (section 2.7).

use std::sync::Weak;

use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::registers::{PprAutoResponse, PprOverflowEarly, Status, offset};
use vm_iommu_spec::amd::{
    Event, FaultReason as Reason, GaEntry, PageRequest, PprEntry, PprResponse,
};
use vm_iommu_spec::{DmaRequest, Fault, FaultReason, PhysAddr, RequesterId};

use crate::device_table::DteLookup;
use crate::event::store;
use crate::ring::{GA_LOG, PPR_LOG, Room};
use crate::unit::AmdVi;

/// A device that issues page requests: it is told what became of them.
pub trait PageRequester: Send + Sync {
    /// Answers a group of page requests. Called from vCPU threads, the worker, and from within
    /// [`AmdVi::page_request`]; must not block.
    fn respond(&self, response: PprResponse);
}

/// The response to a group whose requester may not issue page requests.
const INVALID_REQUEST: u8 = 1;

impl AmdVi {
    /// A device asks for a page to be made present. Its group is answered later, through the
    /// [`PageRequester`] that was attached for it.
    ///
    /// # Errors
    /// [`Reason::PageRequestDenied`], once logged and answered, if the device may not ask.
    pub fn page_request(&self, request: PageRequest) -> Result<(), Fault> {
        let snapshot = self.snapshot();
        let device = request.requester.source_id();
        let control = snapshot.control;
        let permitted = self.config.ppr
            && control.enable()
            && control.ppr()
            && DteLookup::new(&self.ram, &self.config, &snapshot, device)
                .entry
                .and_then(|entry| entry.check_dma(&self.dte_rules(&snapshot)))
                .is_ok_and(|device| {
                    device.is_some_and(|device| {
                        let asks = device.ppr || !control.enhanced_ppr();
                        let pasid = request.pasid.is_none() || device.guest.is_some();
                        device.iotlb && asks && pasid
                    })
                });
        if !permitted {
            self.respond(&request, INVALID_REQUEST, false);
            let asked = DmaRequest {
                pasid: request.pasid,
                ..DmaRequest::new(request.requester, request.address, request.access)
            };
            let fault = asked.fault(FaultReason::Amd(Reason::PageRequestDenied));
            if control.enable() {
                self.report(fault, &Event::InvalidPpr { request }, false, Vec::new());
            }
            return Err(fault);
        }
        let mut control = self.control();
        let (entry, address) = PprEntry::of_request(&request);
        let room = control.room(&PPR_LOG);
        let mut logged = false;
        if let Room::At(place) = room
            && store(&self.ram, place, [entry.into_bits(), address])
        {
            control.appended(&PPR_LOG);
            logged = true;
            let early = PprOverflowEarly::from_bits(control.file.get(offset::PPR_OVERFLOW_EARLY));
            if early.enable() && control.entries(&PPR_LOG) >= u32::from(early.threshold()) {
                let status = control.status() | Status::PPR_OVERFLOW_EARLY;
                control.set_status(status);
            }
        }
        let answer = PprAutoResponse::from_bits(control.file.get(offset::PPR_AUTO_RESPONSE));
        let automatic = control.control().ppr_auto_response_always()
            || !logged && control.control().ppr_auto_response();
        let signals = control.signals();
        drop(control);
        self.send(signals);
        if automatic {
            self.respond(&request, answer.code(), answer.mask_guest());
        }
        Ok(())
    }

    /// Makes a device known that issues page requests.
    pub fn attach_page_requester(
        &self,
        requester: RequesterId,
        page_requester: Weak<dyn PageRequester>,
    ) {
        self.page_requesters.insert(requester, page_requester);
    }

    /// Answers the group of `request`, if it is its last.
    fn respond(&self, request: &PageRequest, code: u8, mask_guest: bool) {
        if request.last {
            self.complete_ppr(PprResponse {
                requester: request.requester,
                pasid: request.pasid.filter(|_| !mask_guest),
                group: request.group & 0x1ff,
                code,
            });
        }
    }

    /// Hands `response` to its device.
    pub(crate) fn complete_ppr(&self, response: PprResponse) {
        let device = response.requester.source_id();
        if let Some(requester) = self.page_requesters.get(device) {
            requester.respond(response);
        }
    }

    /// Says in the GA log that a guest that does not run has an interrupt.
    pub(crate) fn log_guest(&self, requester: RequesterId, tag: u32) {
        let mut control = self.control();
        if let Room::At(place) = control.room(&GA_LOG) {
            let entry = GaEntry::new()
                .with_tag(tag)
                .with_device(requester.source_id());
            if self.ram.store(place, entry.into_bits()).is_ok() {
                control.appended(&GA_LOG);
                let shadow = control.file.get(offset::GA_LOG_TAIL_ADDRESS);
                if shadow != 0 {
                    let tail = control.file.get(offset::GA_TAIL);
                    // Software that named no memory reads the register instead.
                    let _ = self.ram.store(PhysAddr(shadow), tail);
                }
            }
        }
        let signals = control.signals();
        drop(control);
        self.send(signals);
    }
}
