//! Device-TLBs that a device really has, with answers that take their time.

use std::sync::Arc;

use vm_iommu_dma::{Atc, AtcConfig};
use vm_iommu_spec::vtd::descriptor::raw;
use vm_iommu_spec::vtd::registers::offset;
use vm_iommu_spec::vtd::{FaultReason, TranslationType};
use vm_iommu_spec::{Access, Iova, PhysAddr};

use super::machine::{
    CONTEXTS, DOMAIN, Machine, SOURCE, context, context_global, iotlb_global, iotlb_pages, reason,
    requester,
};
use crate::{Progress, VtdConfig};

const ITE: u32 = 1 << 6;
const PAGE: u64 = 0x5000;
const FRAME: u64 = 0x40_0000;

struct Device {
    machine: Machine,
    atc: Arc<Atc>,
}

fn device() -> Device {
    let config = VtdConfig {
        device_tlb: true,
        ..VtdConfig::default()
    };
    let machine = Machine::translating(config, 4);
    let place = PhysAddr(CONTEXTS + u64::from(SOURCE & 0xff) * 16);
    let low = vm_iommu_pagetable::TableMemory::load(&machine.ram, place).unwrap();
    let tables = low & !0xfff;
    machine.map(PAGE, FRAME, 12, 3);
    let entry = context(4, tables).with_translation_type(TranslationType::DeviceTlb);
    machine.set_context(SOURCE, entry);
    assert!(machine.invalidate(&[context_global(), iotlb_global()]));
    let atc = Atc::new(&machine.port, None, AtcConfig::default());
    let weak: std::sync::Weak<Atc> = Arc::downgrade(&atc);
    machine.unit.attach_device_tlb(requester(), weak);
    Device { machine, atc }
}

impl Device {
    fn device_tlb(&self) -> [u64; 2] {
        let low = raw::DeviceTlbInvalidate::new().with_source(SOURCE);
        [low.into_bits(), PAGE]
    }
}

#[test]
fn a_device_translates_for_itself_until_it_is_told() {
    let device = device();
    let handle = device.atc.handle();
    handle.write(Iova(PAGE), b"hello").unwrap();
    device.machine.map(PAGE, FRAME, 12, 0);
    let unmapped = [iotlb_pages(DOMAIN, PAGE, 0)];
    // The guest forgot the device: it goes on.
    assert!(device.machine.invalidate(&unmapped));
    handle.write(Iova(PAGE), b"again").unwrap();
    assert!(device.machine.invalidate(&[device.device_tlb()]));
    let refused = handle.write(Iova(PAGE), b"never");
    let refused = refused.map_err(|partial| partial.fault);
    assert_eq!(reason(refused), FaultReason::WriteDenied);
}

#[test]
fn a_wait_completes_when_the_device_has_answered() {
    let device = device();
    let handle = device.atc.handle();
    let page = handle.hold(Iova(PAGE), Access::WRITE).unwrap();
    assert!(!device.machine.invalidate(&[device.device_tlb()]));
    assert_eq!(device.machine.unit.step(), Progress::Pending);
    assert!(!device.machine.waited());
    drop(page);
    assert_eq!(device.machine.unit.step(), Progress::Idle);
    assert!(device.machine.waited());
    assert_eq!(device.machine.read32(offset::FSTS) & ITE, 0);
    // Nothing is left to be given up.
    assert_eq!(device.machine.unit.expire_device_tlbs(), Progress::Idle);
    assert_eq!(device.machine.read32(offset::FSTS) & ITE, 0);
}

#[test]
fn a_device_whose_time_is_over_is_given_up_with_an_error() {
    let device = device();
    let handle = device.atc.handle();
    let page = handle.hold(Iova(PAGE), Access::WRITE).unwrap();
    assert!(!device.machine.invalidate(&[device.device_tlb()]));
    let head = device.machine.read64(offset::IQH);
    assert_eq!(device.machine.unit.expire_device_tlbs(), Progress::Idle);
    assert_eq!(device.machine.read32(offset::FSTS) & ITE, ITE);
    assert!(!device.machine.waited());
    assert_eq!(device.machine.read64(offset::IQH), head + 0x10);
    drop(page);
    device.machine.write32(offset::FSTS, ITE);
    assert!(device.machine.invalidate(&[iotlb_global()]));
}

#[test]
fn a_queue_without_end_waits_for_devices_that_do_not_answer() {
    let device = device();
    let handle = device.atc.handle();
    let page = handle.hold(Iova(PAGE), Access::READ).unwrap();
    let many = vec![device.device_tlb(); 40];
    device.machine.submit(&many);
    assert_eq!(device.machine.unit.step(), Progress::Pending);
    let before = device.machine.read64(offset::IQH);
    assert!(before < device.machine.read64(offset::IQT));
    drop(page);
    device.machine.step_until_idle();
    let tail = device.machine.read64(offset::IQT);
    assert_eq!(device.machine.read64(offset::IQH), tail);
}
