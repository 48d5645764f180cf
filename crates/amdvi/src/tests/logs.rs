//! The PPR log (section 2.6) and the GA log (section 2.7).

use std::sync::{Arc, Mutex};

use vm_iommu_dma::InterruptRemapper;
use vm_iommu_spec::amd::command::raw;
use vm_iommu_spec::amd::registers::{PprAutoResponse, PprOverflowEarly, Status, offset};
use vm_iommu_spec::amd::{
    EventCode, FaultReason as Reason, GaEntry, GuestIrte, PageRequest, PprEntry, PprResponse,
};
use vm_iommu_spec::{Access, FaultReason, Iova, MsiMessage, Pasid, PhysAddr};

use super::machine::*;
use crate::PageRequester;

#[derive(Default)]
struct Device(Mutex<Vec<PprResponse>>);

impl PageRequester for Device {
    fn respond(&self, response: PprResponse) {
        self.0.lock().unwrap().push(response);
    }
}

impl Device {
    fn responses(&self) -> Vec<PprResponse> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn page_request(group: u16) -> PageRequest {
    PageRequest {
        requester: requester(),
        pasid: Pasid::new(9),
        address: Iova(0x1234_5000),
        access: Access::READ | Access::WRITE,
        group,
        last: true,
    }
}

/// A machine whose device may issue page requests.
fn asking() -> (Machine, Arc<Device>) {
    let machine = Machine::translating(everything(), 0);
    machine.set_guest(9, 1, 4);
    machine.change_device(|entry| {
        entry.dma.set_ppr(true);
        entry.domain.set_iotlb(true);
    });
    machine.write64(offset::PPR_LOG, ring(PPRS).into_bits());
    machine.enable(|control| {
        control
            .with_ppr_log(true)
            .with_ppr_interrupt(true)
            .with_enhanced_ppr(true)
            .with_ppr(true)
            .with_x2apic_interrupts(true)
    });
    machine.write64(offset::XT_PPR_INTERRUPT, 0x77 << 32);
    machine.write64(offset::XT_GA_INTERRUPT, 0x78 << 32);
    let device = Arc::new(Device::default());
    let weak: std::sync::Weak<dyn PageRequester> = Arc::downgrade(&(device.clone() as _));
    machine.unit.attach_page_requester(requester(), weak);
    (machine, device)
}

#[test]
fn a_page_request_is_logged_announced_and_completed() {
    let (machine, device) = asking();
    assert!(machine.status().contains(Status::PPR_RUN));
    machine.unit.page_request(page_request(3)).unwrap();
    let entry = PprEntry::from_bits(machine.load(PPRS));
    assert_eq!((entry.device(), entry.pasid()), (DEVICE, 9));
    assert_eq!(entry.tag(), 3 | PprEntry::LAST);
    assert!(entry.read() && entry.write() && entry.user() && entry.guest());
    assert_eq!(machine.load(PPRS + 8), 0x1234_5000);
    assert_eq!(machine.read64(offset::PPR_TAIL), 16);
    assert!(machine.status().contains(Status::PPR_INTERRUPT));
    let interrupts = machine.interrupts();
    assert_eq!(interrupts.len(), 1);
    assert_eq!(interrupts[0].vector, 0x77);
    assert_eq!(device.responses(), []);
    let complete = raw::CompletePpr::new().with_device(DEVICE).with_pasid(9);
    assert!(machine.invalidate(&[[complete.into_bits(), 3 << 32 | 4]]));
    let response = PprResponse {
        requester: requester(),
        pasid: Pasid::new(9),
        group: 3,
        code: 0,
    };
    assert_eq!(device.responses(), [response]);
    let failure = [complete.into_bits(), 0xf003 << 32];
    assert!(machine.invalidate(&[failure]));
    let expected = PprResponse {
        pasid: None,
        code: 15,
        ..response
    };
    assert_eq!(device.responses(), [expected]);
}

#[test]
fn who_may_not_ask_is_told_so_and_logged() {
    type Change = fn(&Machine);
    let changes: [Change; 4] = [
        |machine| machine.change_device(|entry| entry.dma.set_ppr(false)),
        |machine| machine.change_device(|entry| entry.domain.set_iotlb(false)),
        |machine| machine.change_device(|entry| entry.dma.set_guest_valid(false)),
        |machine| machine.enable(|control| control.with_ppr(false)),
    ];
    for change in changes {
        let (machine, device) = asking();
        change(&machine);
        let refused = machine.unit.page_request(page_request(3)).unwrap_err();
        assert_eq!(refused.reason, FaultReason::Amd(Reason::PageRequestDenied));
        assert_eq!(device.responses()[0].code, 1);
        let event = machine.event();
        assert_eq!(event.event_code(), Some(EventCode::InvalidPprRequest));
        assert_eq!((event.device(), event.address()), (DEVICE, 0x1234_5000));
    }
    // Without EPHEn, I is enough.
    let (machine, _) = asking();
    machine.enable(|control| control.with_enhanced_ppr(false));
    machine.change_device(|entry| entry.dma.set_ppr(false));
    assert_eq!(machine.unit.page_request(page_request(3)), Ok(()));
}

#[test]
fn a_full_ppr_log_overflows_and_answers_automatically_where_asked() {
    let (machine, device) = asking();
    let answer = PprAutoResponse::new().with_code(15).with_mask_guest(true);
    machine.write64(offset::PPR_AUTO_RESPONSE, answer.into_bits());
    for group in 0..255 {
        machine.unit.page_request(page_request(group)).unwrap();
    }
    assert!(!machine.status().contains(Status::PPR_OVERFLOW));
    machine.unit.page_request(page_request(300)).unwrap();
    assert!(machine.status().contains(Status::PPR_OVERFLOW));
    assert!(!machine.status().contains(Status::PPR_RUN));
    assert_eq!(device.responses(), [], "PprAutoRspEn is clear");
    machine.enable(|control| control.with_ppr_auto_response(true));
    machine.unit.page_request(page_request(301)).unwrap();
    let expected = PprResponse {
        requester: requester(),
        pasid: None,
        group: 301,
        code: 15,
    };
    assert_eq!(device.responses(), [expected]);
    let mut not_last = page_request(301);
    not_last.last = false;
    machine.unit.page_request(not_last).unwrap();
    assert_eq!(device.responses(), []);
    // Restarted.
    machine.enable(|control| control.with_ppr_log(false));
    machine.write64(offset::STATUS, Status::PPR_OVERFLOW.bits());
    machine.write64(offset::PPR_HEAD, machine.read64(offset::PPR_TAIL));
    machine.enable(|control| control.with_ppr_log(true));
    machine.unit.page_request(page_request(302)).unwrap();
    assert_eq!(device.responses(), []);
    machine.enable(|control| control.with_ppr_auto_response_always(true));
    machine.unit.page_request(page_request(303)).unwrap();
    assert_eq!(device.responses().len(), 1);
}

#[test]
fn a_nearly_full_ppr_log_says_so() {
    let (machine, _) = asking();
    machine.enable(|control| control.with_ppr_interrupt(false));
    let early = PprOverflowEarly::new()
        .with_threshold(3)
        .with_interrupt(true)
        .with_enable(true);
    machine.write64(offset::PPR_OVERFLOW_EARLY, early.into_bits());
    for group in 0..2 {
        machine.unit.page_request(page_request(group)).unwrap();
    }
    assert!(!machine.status().contains(Status::PPR_OVERFLOW_EARLY));
    machine.unit.page_request(page_request(2)).unwrap();
    assert!(machine.status().contains(Status::PPR_OVERFLOW_EARLY));
    assert_eq!(machine.interrupts().len(), 1);
    machine.write64(offset::STATUS, Status::PPR_OVERFLOW_EARLY.bits());
    assert!(!machine.status().contains(Status::PPR_OVERFLOW_EARLY));
}

fn waiting_guest(machine: &Machine) -> MsiMessage {
    let page = machine.table();
    let entry = GuestIrte::new()
        .with_remap_enable(true)
        .with_ga_log(true)
        .with_tag(0xdead_beef)
        .with_vector(0x21)
        .with_backing_page(PhysAddr(page));
    let bits = entry.into_bits();
    machine.store(IRT, bits as u64);
    machine.store(IRT + 8, (bits >> 64) as u64);
    machine.change_device(|entry| {
        entry.interrupt = entry
            .interrupt
            .with_valid(true)
            .with_control(2)
            .with_table_address(PhysAddr(IRT));
    });
    machine.write64(offset::GA_LOG, ring(GAS).into_bits());
    machine.write64(offset::GA_LOG_TAIL_ADDRESS, STATUS + 0x100);
    machine.enable(|control| {
        control
            .with_guest_apic(true)
            .with_guest_apic_mode(1)
            .with_ga_log(true)
            .with_ga_interrupt(true)
    });
    MsiMessage {
        address: 0xfee0_0000,
        data: 0,
    }
}

#[test]
fn the_ga_log_names_guests_that_do_not_run() {
    let (machine, _) = asking();
    let message = waiting_guest(&machine);
    assert!(machine.status().contains(Status::GA_RUN));
    let _ = machine.unit.remap(requester(), message);
    let entry = GaEntry::from_bits(machine.load(GAS));
    assert_eq!((entry.tag(), entry.device()), (0xdead_beef, DEVICE));
    assert_eq!(entry.code(), GaEntry::GUEST_NR);
    assert_eq!(machine.read64(offset::GA_TAIL), 8);
    assert_eq!(machine.load(STATUS + 0x100), 8, "the tail's shadow");
    assert!(machine.status().contains(Status::GA_INTERRUPT));
    let interrupts = machine.interrupts();
    assert_eq!(interrupts.len(), 1);
    assert_eq!(interrupts[0].vector, 0x78);
    assert!(machine.signals.doorbells.lock().unwrap().is_empty());
}

#[test]
fn a_full_ga_log_overflows() {
    let (machine, _) = asking();
    let message = waiting_guest(&machine);
    for _ in 0..256 {
        let _ = machine.unit.remap(requester(), message);
    }
    assert_eq!(machine.read64(offset::GA_TAIL), 255 * 8);
    assert!(machine.status().contains(Status::GA_OVERFLOW));
    assert!(!machine.status().contains(Status::GA_RUN));
}
