//! The command processor (section 2.4).

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, Weak};

use vm_iommu_dma::{Acknowledgement, DeviceTlb};
use vm_iommu_spec::amd::EventCode;
use vm_iommu_spec::amd::command::raw;
use vm_iommu_spec::amd::registers::{Status, offset};
use vm_iommu_spec::{Iova, Pasid, RequesterId};

use super::machine::*;
use crate::{AmdViConfig, Progress};

fn idle(config: AmdViConfig) -> Machine {
    let machine = Machine::translating(config, 3);
    machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    machine
}

/// Stops the processor with `command` and checks that it says so; yields the event's address.
fn stops(machine: &Machine, command: [u64; 2], code: EventCode) -> u64 {
    let head = machine.read64(offset::COMMAND_HEAD);
    machine.submit(&[command, wait(STATUS, 2)]);
    assert!(!machine.status().contains(Status::COMMAND_RUN));
    assert!(!machine.waited());
    assert_eq!(machine.read64(offset::COMMAND_HEAD), head);
    let event = machine.event();
    assert_eq!(event.event_code(), Some(code));
    event.address()
}

#[test]
fn a_wait_stores_64_bits_and_raises_its_interrupt() {
    let machine = idle(AmdViConfig::default());
    machine.submit(&[wait(STATUS, 0x1122_3344_5566_7788)]);
    assert_eq!(machine.load(STATUS), 0x1122_3344_5566_7788);
    assert!(!machine.status().contains(Status::COMPLETION_WAIT_INTERRUPT));
    let interrupting = raw::CompletionWait::new()
        .with_interrupt(true)
        .with_flush(true);
    machine.submit(&[[interrupting.into_bits(), 0]]);
    assert!(machine.status().contains(Status::COMPLETION_WAIT_INTERRUPT));
    assert_eq!(machine.interrupts(), [], "ComWaitIntEn is clear");
    machine.write32(offset::MSI_ADDRESS_LOW, 0xfee0_3000);
    machine.write32(offset::MSI_DATA, 0x41);
    machine.write32(offset::MSI_CAPABILITY, 1 << 16);
    machine.enable(|control| control.with_completion_wait_interrupt(true));
    let interrupts = machine.interrupts();
    assert_eq!(interrupts.len(), 1);
    assert_eq!((interrupts[0].destination, interrupts[0].vector), (3, 0x41));
    // No further one until software took note.
    machine.submit(&[[interrupting.into_bits(), 0]]);
    assert_eq!(machine.interrupts(), []);
    machine.write64(offset::STATUS, Status::COMPLETION_WAIT_INTERRUPT.bits());
    machine.submit(&[[interrupting.into_bits(), 0]]);
    assert_eq!(machine.interrupts().len(), 1);
}

#[test]
fn an_illegal_command_is_logged_and_halts_the_processor_until_it_is_restarted() {
    let machine = idle(AmdViConfig::default());
    assert!(machine.invalidate(&[]));
    machine.store(STATUS, 0);
    let address = stops(&machine, [9 << 60, 0], EventCode::IllegalCommandError);
    assert_eq!(address, COMMANDS + 16);
    // Writing the tail, or the bit that is set already, does not restart it.
    machine.write32(offset::COMMAND_TAIL, 48);
    machine.enable(|control| control.with_command_buffer(true));
    assert!(!machine.waited());
    machine.enable(|control| control.with_command_buffer(false));
    machine.write32(offset::COMMAND_HEAD, 32);
    machine.enable(|control| control.with_command_buffer(true));
    assert!(machine.status().contains(Status::COMMAND_RUN));
    assert!(machine.waited());
    assert_eq!(machine.events(), []);
}

#[test]
fn every_reserved_bit_of_every_command_halts_the_processor() {
    let mut count = 0;
    for opcode in 1..=8_u64 {
        for bit in (0..60).chain(64..128) {
            let command = (u128::from(opcode) << 60) | 1 << bit;
            let words = [command as u64, (command >> 64) as u64];
            let rules = AmdViConfig::default().command_rules();
            let legal =
                vm_iommu_spec::amd::command::Command::decode(words[0], words[1], &rules).is_ok();
            // One machine for a few sampled bits of each command: the rest is the layout's test.
            if legal || !(bit as u64 + opcode).is_multiple_of(5) {
                continue;
            }
            let machine = idle(AmdViConfig::default());
            stops(&machine, words, EventCode::IllegalCommandError);
            count += 1;
        }
    }
    assert!(count > 60);
}

#[test]
fn commands_of_absent_features_are_illegal() {
    let without = AmdViConfig {
        prefetch: false,
        invalidate_all: false,
        ..AmdViConfig::default()
    };
    for opcode in [
        raw::INVALIDATE_IOTLB_PAGES,
        raw::PREFETCH_IOMMU_PAGES,
        raw::COMPLETE_PPR_REQUEST,
        raw::INVALIDATE_IOMMU_ALL,
    ] {
        let command = [u64::from(opcode) << 60, 0];
        stops(&idle(without), command, EventCode::IllegalCommandError);
        assert!(idle(everything()).invalidate(&[command]));
    }
}

#[test]
fn a_command_buffer_outside_of_memory_is_a_hardware_error() {
    let machine = idle(AmdViConfig::default());
    machine.write64(offset::COMMAND_BUFFER, ring(RAM).into_bits());
    machine.write32(offset::COMMAND_TAIL, 16);
    let event = machine.event();
    assert_eq!(event.event_code(), Some(EventCode::CommandHardwareError));
    assert_eq!((event.address(), event.kind()), (RAM, 1));
    assert!(!machine.status().contains(Status::COMMAND_RUN));
}

#[test]
fn a_store_outside_of_memory_is_a_hardware_error() {
    let machine = idle(AmdViConfig::default());
    let address = stops(&machine, wait(RAM, 1), EventCode::CommandHardwareError);
    assert_eq!(address, RAM);
}

#[test]
fn heads_and_tails_beyond_the_buffer_halt_the_processor() {
    for (head, tail) in [(0, 0x1000), (0x1000, 0), (0x7_fff0, 0x10)] {
        let machine = idle(AmdViConfig::default());
        machine.enable(|control| control.with_command_buffer(false));
        machine.write32(offset::COMMAND_HEAD, head);
        machine.write32(offset::COMMAND_TAIL, tail);
        machine.enable(|control| control.with_command_buffer(true));
        assert!(!machine.status().contains(Status::COMMAND_RUN));
        let event = machine.event();
        assert_eq!(event.event_code(), Some(EventCode::IllegalCommandError));
        assert_eq!(event.address(), COMMANDS + u64::from(head));
    }
}

#[test]
fn a_reserved_buffer_length_halts_the_processor() {
    let machine = idle(AmdViConfig::default());
    machine.write64(
        offset::COMMAND_BUFFER,
        ring(COMMANDS).with_length(7).into_bits(),
    );
    machine.write32(offset::COMMAND_TAIL, 16);
    assert_eq!(
        machine.event().event_code(),
        Some(EventCode::IllegalCommandError)
    );
}

#[test]
fn the_head_follows_the_tail_around_the_end() {
    let machine = idle(AmdViConfig::default());
    for _ in 0..300 {
        assert!(machine.invalidate(&[]));
    }
    assert_eq!(machine.read64(offset::COMMAND_HEAD), 300 % 256 * 16);
}

#[test]
fn one_register_write_processes_a_bounded_batch_and_wakes_the_worker() {
    let machine = idle(AmdViConfig::default());
    let woken = Arc::new(Mutex::new(0));
    let count = Arc::clone(&woken);
    machine.unit.set_waker(move || *count.lock().unwrap() += 1);
    let mut commands = vec![invalidate_domain(DOMAIN); 200];
    commands.push(wait(STATUS, 2));
    machine.submit(&commands);
    assert_eq!(machine.read64(offset::COMMAND_HEAD), 64 * 16);
    assert_eq!(*woken.lock().unwrap(), 1);
    assert!(!machine.waited());
    assert_eq!(machine.unit.step(), Progress::Pending);
    machine.step_until_idle();
    assert!(machine.waited());
}

#[test]
fn writing_the_base_rewinds_the_buffer() {
    let machine = idle(AmdViConfig::default());
    assert!(machine.invalidate(&[]));
    assert_eq!(machine.read64(offset::COMMAND_TAIL), 16);
    machine.write64(offset::COMMAND_BUFFER, ring(COMMANDS).into_bits());
    assert_eq!(machine.read64(offset::COMMAND_TAIL), 0);
    assert_eq!(machine.read64(offset::COMMAND_HEAD), 0);
    assert!(machine.invalidate(&[]));
}

#[test]
fn prefetch_invalidates_where_it_says_so() {
    let machine = idle(AmdViConfig::default());
    machine.store(0x50_0000, 1);
    assert_eq!(machine.read_at(0x5000), Ok(1));
    machine.map(0x5000, 0x60_0000, 12, READ_WRITE);
    let prefetch = raw::Prefetch::new().with_device(DEVICE).with_count(1);
    assert!(machine.invalidate(&[[prefetch.into_bits(), 0x5000]]));
    assert_eq!(machine.read_at(0x5000), Ok(1), "a hint");
    assert!(machine.invalidate(&[[prefetch.into_bits(), 0x5010]]));
    assert_eq!(machine.read_at(0x5000), Ok(0));
    // With S, PFCount pages of the encoded size: here two of 16 KiB.
    for page in 4..14 {
        machine.map(page << 12, 0x50_0000, 12, READ_WRITE);
        assert!(machine.read_at(page << 12).is_ok());
        machine.map(page << 12, 0x60_0000, 12, READ_WRITE);
    }
    assert!(machine.invalidate(&[[prefetch.with_count(2).into_bits(), 0x5011]]));
    let stale: Vec<u64> = (4..14)
        .filter(|page| machine.read_at(page << 12) == Ok(1))
        .collect();
    assert_eq!(stale, [12, 13]);
}

pub(super) type Invalidation = (u16, Option<Pasid>, RangeInclusive<Iova>);

#[derive(Default)]
pub(super) struct Tlb {
    pub(super) seen: Mutex<Vec<Invalidation>>,
    pub(super) held: Mutex<Vec<Acknowledgement>>,
    pub(super) holds: bool,
}

impl DeviceTlb for Tlb {
    fn invalidate(
        &self,
        requester: RequesterId,
        pasid: Option<Pasid>,
        range: RangeInclusive<Iova>,
        done: Acknowledgement,
    ) {
        let seen = (requester.source_id(), pasid, range);
        self.seen.lock().unwrap().push(seen);
        if self.holds {
            self.held.lock().unwrap().push(done);
        }
    }
}

pub(super) fn attach(machine: &Machine, tlb: &Arc<Tlb>) {
    let tlb: Arc<dyn DeviceTlb> = tlb.clone();
    machine
        .unit
        .attach_device_tlb(requester(), Arc::downgrade(&tlb));
}

pub(super) fn invalidate_tlb(pasid: Option<u32>, first: u64, last: u64) -> [u64; 2] {
    let command = raw::InvalidateIotlb::new()
        .with_device(DEVICE)
        .with_queue(DEVICE)
        .with_max_pending(32)
        .with_pasid(pasid.unwrap_or(0));
    let pages = raw::PageSelector::of_range(&(Iova(first)..=Iova(last)));
    [
        command.into_bits(),
        pages.with_guest(pasid.is_some()).into_bits(),
    ]
}

#[test]
fn device_tlbs_are_invalidated_in_the_encoded_range() {
    let machine = idle(everything());
    let tlb = Arc::new(Tlb::default());
    attach(&machine, &tlb);
    assert!(machine.invalidate(&[
        invalidate_tlb(None, 0x5000, 0x5fff),
        invalidate_tlb(Some(0x1_2345), 0x8000, 0xffff),
    ]));
    assert_eq!(
        *tlb.seen.lock().unwrap(),
        [
            (DEVICE, None, Iova(0x5000)..=Iova(0x5fff)),
            (DEVICE, Pasid::new(0x1_2345), Iova(0x8000)..=Iova(0xffff)),
        ]
    );
}

#[test]
fn a_wait_waits_for_device_tlbs() {
    let machine = idle(everything());
    let tlb = Arc::new(Tlb {
        holds: true,
        ..Tlb::default()
    });
    attach(&machine, &tlb);
    assert!(!machine.invalidate(&[invalidate_tlb(None, 0x5000, 0x5fff)]));
    assert_eq!(machine.unit.step(), Progress::Pending);
    tlb.held.lock().unwrap().clear();
    assert_eq!(machine.unit.step(), Progress::Idle);
    assert!(machine.waited());
    assert_eq!(machine.events(), []);
}

#[test]
fn a_device_tlb_that_does_not_answer_is_logged_as_a_timeout() {
    let machine = idle(everything());
    let tlb = Arc::new(Tlb {
        holds: true,
        ..Tlb::default()
    });
    attach(&machine, &tlb);
    assert!(!machine.invalidate(&[invalidate_tlb(None, 0x5000, 0x5fff)]));
    assert_eq!(machine.unit.expire_device_tlbs(), Progress::Idle);
    assert!(machine.waited());
    let event = machine.event();
    assert_eq!(
        event.event_code(),
        Some(EventCode::IotlbInvalidationTimeout)
    );
    assert_eq!((event.device(), event.address()), (DEVICE, COMMANDS));
    // Nobody is there at all.
    machine.unit.detach_device_tlb(requester());
    assert!(machine.invalidate(&[invalidate_tlb(None, 0x5000, 0x5fff)]));
    let event = machine.event();
    assert_eq!(
        event.event_code(),
        Some(EventCode::IotlbInvalidationTimeout)
    );
    assert_eq!(event.address(), COMMANDS + 32);
}

#[test]
fn device_tlbs_without_an_answer_are_bounded() {
    let machine = idle(everything());
    let tlb = Arc::new(Tlb {
        holds: true,
        ..Tlb::default()
    });
    attach(&machine, &tlb);
    machine.submit(&vec![invalidate_tlb(None, 0x5000, 0x5fff); 60]);
    assert_eq!(tlb.seen.lock().unwrap().len(), 32);
    assert_eq!(machine.unit.step(), Progress::Pending);
    tlb.held.lock().unwrap().clear();
    let _ = machine.unit.step();
    assert!(tlb.seen.lock().unwrap().len() > 32);
    let gone: Weak<dyn DeviceTlb> = Weak::<Tlb>::new();
    machine.unit.attach_device_tlb(requester(), gone);
    tlb.held.lock().unwrap().clear();
    machine.step_until_idle();
    assert_eq!(machine.read64(offset::COMMAND_HEAD), 60 * 16);
}
