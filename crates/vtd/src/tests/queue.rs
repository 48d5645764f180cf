//! The invalidation queue: progress, errors, bounds.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, Weak};

use vm_iommu_dma::{Acknowledgement, DeviceTlb};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::vtd::descriptor::raw;
use vm_iommu_spec::vtd::registers::{QueueAddress, QueueError, QueueErrorRecord, offset};
use vm_iommu_spec::{Iova, Pasid, PhysAddr, RequesterId};

use super::machine::*;
use crate::{Progress, VtdConfig};

const IQE: u32 = 1 << 4;
const ITE: u32 = 1 << 6;

fn machine() -> Machine {
    let machine = Machine::new(VtdConfig::default());
    machine.start_queue(0);
    machine
}

fn error(machine: &Machine) -> Option<QueueError> {
    let record = QueueErrorRecord::from_bits(machine.read64(offset::IQERCD));
    (machine.read32(offset::FSTS) & IQE != 0).then(|| record.error())
}

#[test]
fn head_follows_tail_around_the_end() {
    let machine = machine();
    for round in 0..300 {
        assert!(machine.invalidate(&[iotlb_global()]), "{round}");
        assert_eq!(machine.read64(offset::IQH), machine.read64(offset::IQT));
    }
}

#[test]
fn reserved_bits_types_and_values_stop_the_queue() {
    let valid = [
        context_global(),
        iotlb_global(),
        iotlb_pages(1, 0x1000, 2),
        [raw::InterruptEntryInvalidate::new().into_bits(), 0],
        wait(2),
    ];
    let reserved = [
        (raw::ContextInvalidate::RESERVED, u64::MAX),
        (raw::IotlbInvalidate::RESERVED, 0xf80),
        (raw::IotlbInvalidate::RESERVED, 0xf80),
        (raw::InterruptEntryInvalidate::RESERVED, u64::MAX),
        // PD is reserved without page requests.
        (raw::Wait::RESERVED | 1 << 7, 3),
    ];
    let mut cases = Vec::new();
    for ([low, high], (low_mask, high_mask)) in valid.into_iter().zip(reserved) {
        for bit in 0..64 {
            if low_mask >> bit & 1 != 0 {
                cases.push(([low | 1 << bit, high], QueueError::Reserved));
            }
            if high_mask >> bit & 1 != 0 {
                cases.push(([low, high | 1 << bit], QueueError::Reserved));
            }
        }
    }
    for kind in (0..128).filter(|kind| !matches!(kind, 1 | 2 | 4 | 5)) {
        cases.push((
            [kind & 0xf | (kind & 0x70) << 5, 0],
            QueueError::InvalidType,
        ));
    }
    // Granularity 0, and an address mask above MAMV.
    cases.push(([1, 0], QueueError::Reserved));
    cases.push(([2, 0], QueueError::Reserved));
    cases.push((iotlb_pages(1, 0, 19), QueueError::Reserved));
    // A handle mask above MHMV.
    let wide = raw::InterruptEntryInvalidate::new()
        .with_selective(true)
        .with_index_mask(16);
    cases.push(([wide.into_bits(), 0], QueueError::Reserved));
    for (descriptor, expected) in cases {
        let machine = machine();
        assert!(!machine.invalidate(&[descriptor]), "{descriptor:x?}");
        assert_eq!(error(&machine), Some(expected), "{descriptor:x?}");
        assert_eq!(machine.read64(offset::IQH), 0);
    }
}

#[test]
fn a_stopped_queue_goes_on_once_the_error_is_cleared_and_the_descriptor_mended() {
    let machine = machine();
    assert!(!machine.invalidate(&[[0xf, 0]]));
    machine.write64(offset::IQT, machine.read64(offset::IQT));
    assert_eq!(machine.read64(offset::IQH), 0);
    // Not mended: it stops again.
    machine.write32(offset::FSTS, IQE);
    assert_eq!(error(&machine), Some(QueueError::InvalidType));
    // As Linux does: the descriptor is overwritten by a harmless one.
    machine.store128(QUEUE, iotlb_global());
    machine.write32(offset::FSTS, IQE);
    assert!(machine.waited());
    assert_eq!(error(&machine), None);
    assert_eq!(machine.read64(offset::IQERCD), 0);
}

#[test]
fn a_tail_beyond_the_queue_is_an_error_not_a_loop() {
    for (size, tail) in [(0, 0x1000), (0, 0x7_fff0), (1, 0x2000), (6, 0x4_0000)] {
        let machine = Machine::new(VtdConfig::default());
        machine.start_queue(size);
        machine.write64(offset::IQT, tail);
        assert_eq!(error(&machine), Some(QueueError::InvalidTail), "{tail:#x}");
        assert_eq!(machine.unit.step(), Progress::Idle);
        machine.write64(offset::IQT, 0);
        machine.write32(offset::FSTS, IQE);
        assert_eq!(error(&machine), None);
    }
}

#[test]
fn a_base_outside_memory_is_an_error() {
    for base in [RAM, 1 << 45, 0xffff_ffff_ffff_f000] {
        let machine = Machine::new(VtdConfig::default());
        machine.write64(offset::IQA, base | 7);
        machine.enable(QIE);
        machine.write64(offset::IQT, 0x7_fff0);
        assert_eq!(error(&machine), Some(QueueError::Fetch), "{base:#x}");
    }
}

#[test]
fn wide_descriptors_are_refused_without_scalable_mode() {
    let machine = Machine::new(VtdConfig::default());
    machine.write64(
        offset::IQA,
        QueueAddress::new().with_wide(true).into_bits() | QUEUE,
    );
    machine.enable(QIE);
    machine.write64(offset::IQT, 0x40);
    assert_eq!(error(&machine), Some(QueueError::InvalidWidth));
}

#[test]
fn the_reserved_table_mode_stops_the_queue() {
    let machine = machine();
    machine.write64(offset::RTADDR, ROOT | 2 << 10);
    machine.command(SRTP);
    assert!(!machine.invalidate(&[]));
    assert_eq!(error(&machine), Some(QueueError::InvalidMode));
}

#[test]
fn a_wait_without_memory_for_its_status_is_an_error() {
    let machine = machine();
    let [low, _] = wait(2);
    for place in [1 << 45, !3] {
        machine.submit(&[[low, place]]);
        assert_eq!(error(&machine), Some(QueueError::Unspecified));
        machine.store128(QUEUE + machine.read64(offset::IQH), wait(1));
        machine.write32(offset::FSTS, IQE);
        assert_eq!(error(&machine), None);
    }
}

#[test]
fn a_wait_writes_4_bytes_and_raises_its_event_after_that() {
    let machine = machine();
    machine.write32(offset::IEDATA, 0x42);
    machine.write32(offset::IEADDR, 0xfee0_0000);
    machine.write32(offset::IECTL, 0);
    machine.ram.store(PhysAddr(STATUS), u64::MAX).unwrap();
    let both = raw::Wait::new()
        .with_status_write(true)
        .with_interrupt(true)
        .with_fence(true)
        .with_status_data(0x1234_5678);
    machine.submit(&[[both.into_bits(), STATUS + 4]]);
    assert_eq!(
        machine.ram.load(PhysAddr(STATUS)).unwrap(),
        0x1234_5678_ffff_ffff
    );
    assert_eq!(machine.read32(offset::ICS), 1);
    assert_eq!(machine.events.0.lock().unwrap()[0].vector, 0x42);
    // No event while IWC is set; then again.
    let event = [raw::Wait::new().with_interrupt(true).into_bits(), 0];
    machine.submit(&[event]);
    assert_eq!(machine.events.0.lock().unwrap().len(), 1);
    machine.write32(offset::ICS, 1);
    machine.submit(&[event]);
    assert_eq!(machine.events.0.lock().unwrap().len(), 2);
}

#[test]
fn the_invalidation_event_waits_for_unmasking_and_is_void_once_serviced() {
    let machine = machine();
    machine.write32(offset::IEADDR, 0xfee0_0000);
    let event = [raw::Wait::new().with_interrupt(true).into_bits(), 0];
    machine.submit(&[event]);
    assert_eq!(machine.read32(offset::IECTL), 3 << 30);
    machine.write32(offset::ICS, 1);
    assert_eq!(machine.read32(offset::IECTL), 1 << 31);
    machine.submit(&[event]);
    machine.write32(offset::IECTL, 0);
    assert_eq!(machine.events.0.lock().unwrap().len(), 1);
}

#[test]
fn one_register_write_processes_a_bounded_batch_and_wakes_the_worker() {
    let machine = Machine::new(VtdConfig::default());
    let woken = Arc::new(Mutex::new(0));
    let count = Arc::clone(&woken);
    machine.unit.set_waker(move || *count.lock().unwrap() += 1);
    machine.start_queue(0);
    let many = [iotlb_global(); 200];
    assert!(!machine.invalidate(&many));
    assert_eq!(machine.read64(offset::IQH), 64 * 16);
    assert_eq!(*woken.lock().unwrap(), 1);
    assert_eq!(machine.unit.step(), Progress::Pending);
    assert_eq!(machine.read64(offset::IQH), 128 * 16);
    machine.step_until_idle();
    assert!(machine.waited());
}

#[test]
fn disabling_the_queue_resets_the_head_and_stops_it() {
    let machine = machine();
    assert!(machine.invalidate(&[]));
    machine.disable(QIE);
    assert_eq!(machine.read32(offset::GSTS) & QIE, 0);
    assert_eq!(machine.read64(offset::IQH), 0);
    assert!(!machine.invalidate(&[iotlb_global()]));
    machine.start_queue(0);
    assert!(machine.invalidate(&[iotlb_global()]));
}

#[derive(Default)]
struct Recorder(Mutex<Vec<RangeInclusive<Iova>>>);

impl DeviceTlb for Recorder {
    fn invalidate(
        &self,
        _: RequesterId,
        pasid: Option<Pasid>,
        range: RangeInclusive<Iova>,
        _done: Acknowledgement,
    ) {
        assert_eq!(pasid, None);
        self.0.lock().unwrap().push(range);
    }
}

fn device_tlb(address: u64, size: bool) -> [u64; 2] {
    let low = raw::DeviceTlbInvalidate::new().with_source(SOURCE);
    [low.into_bits(), address | u64::from(size)]
}

#[test]
fn device_tlbs_are_invalidated_in_the_encoded_range() {
    let machine = Machine::new(VtdConfig {
        device_tlb: true,
        ..VtdConfig::default()
    });
    machine.start_queue(0);
    let recorder = Arc::new(Recorder::default());
    let weak: Weak<Recorder> = Arc::downgrade(&recorder);
    machine.unit.attach_device_tlb(requester(), weak);
    assert!(machine.invalidate(&[
        device_tlb(0x5000, false),
        device_tlb(0x4000, true),
        device_tlb(0x5000, true),
        device_tlb(0x7fff_ffff_ffff_f000, true),
        device_tlb(0xffff_ffff_ffff_f000, true),
    ]));
    let range = |first, last| Iova(first)..=Iova(last);
    let expected = [
        range(0x5000, 0x5fff),
        range(0x4000, 0x5fff),
        range(0x4000, 0x7fff),
        range(0, u64::MAX),
        range(0, u64::MAX),
    ];
    assert_eq!(*recorder.0.lock().unwrap(), expected);
}

#[test]
fn a_device_tlb_that_does_not_answer_times_out_and_aborts_the_wait() {
    let machine = Machine::new(VtdConfig {
        device_tlb: true,
        ..VtdConfig::default()
    });
    machine.start_queue(0);
    assert!(!machine.invalidate(&[device_tlb(0x5000, false)]));
    assert_eq!(machine.read32(offset::FSTS) & ITE, ITE);
    let record = QueueErrorRecord::from_bits(machine.read64(offset::IQERCD));
    assert_eq!(record.timeout_source(), SOURCE);
    // The head is past the wait, which will not complete; nothing is fetched meanwhile.
    assert_eq!(machine.read64(offset::IQH), 0x20);
    assert!(!machine.invalidate(&[iotlb_global()]));
    machine.write32(offset::FSTS, ITE);
    assert!(machine.waited());
    assert_eq!(machine.read64(offset::IQERCD), 0);
    // Without a wait behind it, it is reported at the end of the queue.
    machine.submit(&[device_tlb(0x5000, false)]);
    assert_eq!(machine.read32(offset::FSTS) & ITE, ITE);
}

#[test]
fn device_tlb_reserved_bits_stop_the_queue() {
    for bit in 0..128_u32 {
        let machine = Machine::new(VtdConfig {
            device_tlb: true,
            ..VtdConfig::default()
        });
        machine.start_queue(0);
        let reserved = if bit < 64 {
            raw::DeviceTlbInvalidate::RESERVED >> bit & 1
        } else {
            0xffe >> (bit - 64) & 1
        };
        if reserved == 0 || (9..12).contains(&bit) {
            continue;
        }
        let [mut low, mut high] = device_tlb(0x5000, false);
        if bit < 64 {
            low |= 1 << bit;
        } else {
            high |= 1 << (bit - 64);
        }
        machine.submit(&[[low, high]]);
        assert_eq!(error(&machine), Some(QueueError::Reserved), "{bit}");
    }
}
