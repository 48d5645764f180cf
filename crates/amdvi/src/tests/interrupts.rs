//! Interrupt remapping (section 2.2.5).

use vm_iommu_dma::InterruptRemapper;
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::registers::offset;
use vm_iommu_spec::amd::{
    EventCode, FaultReason as Reason, GuestIrte, InterruptWord, Irte32, Irte128,
};
use vm_iommu_spec::{
    DeliveryMode, DestinationMode, FaultReason, Interrupt, MsiMessage, PhysAddr, TriggerMode,
};

use super::machine::*;
use crate::{AmdViConfig, LocalInterrupt};

fn message(index: u32) -> MsiMessage {
    MsiMessage {
        address: 0xfee0_0000,
        data: index,
    }
}

/// A message with another delivery mode, to processor 5 with vector 0x20.
fn direct(mode: DeliveryMode) -> MsiMessage {
    MsiMessage {
        address: 0xfee0_5000,
        data: 0x20 | (mode as u32) << 8,
    }
}

fn word() -> InterruptWord {
    InterruptWord::new()
        .with_valid(true)
        .with_table_length(9)
        .with_control(2)
        .with_table_address(PhysAddr(IRT))
}

/// A machine that remaps with a table of 512 entries: of 128 bits if `wide`.
fn remapping(config: AmdViConfig, wide: bool) -> Machine {
    let machine = Machine::translating(config, 0);
    if wide {
        machine.enable(|control| control.with_guest_apic(true));
    }
    machine.change_device(|entry| entry.interrupt = word());
    machine
}

fn set32(machine: &Machine, index: u64, entry: Irte32) {
    let place = PhysAddr(IRT + index * 4);
    machine.ram.store_u32(place, entry.into_bits()).unwrap();
}

fn set128(machine: &Machine, index: u64, [low, high]: [u64; 2]) {
    machine.store(IRT + index * 16, low);
    machine.store(IRT + index * 16 + 8, high);
}

fn wide(vector: u8) -> Irte128 {
    Irte128::new().with_remap_enable(true).with_vector(vector)
}

fn vector(machine: &Machine, index: u32) -> u8 {
    machine
        .unit
        .remap(requester(), message(index))
        .unwrap()
        .vector
}

/// Both ways to ask refuse for the same reason, and only the one of a raised interrupt logs.
fn refused(machine: &Machine, message: MsiMessage) -> Reason {
    let expected = reason(machine.unit.resolve(requester(), message));
    assert_eq!(machine.events(), []);
    assert_eq!(reason(machine.unit.remap(requester(), message)), expected);
    expected
}

#[test]
fn entries_of_32_bits_remap() {
    let machine = remapping(AmdViConfig::default(), false);
    for index in [0, 1, 511] {
        let entry = Irte32::new()
            .with_remap_enable(true)
            .with_interrupt_type(1)
            .with_logical(true)
            .with_request_eoi(true)
            .with_destination(0xf0)
            .with_vector(0x40_u8.wrapping_add(index as u8));
        set32(&machine, index, entry);
        let interrupt = machine
            .unit
            .remap(requester(), message(index as u32))
            .unwrap();
        let expected = Interrupt {
            destination: 0xf0,
            destination_mode: DestinationMode::Logical,
            redirection_hint: true,
            delivery_mode: DeliveryMode::LowestPriority,
            vector: 0x40_u8.wrapping_add(index as u8),
            trigger_mode: TriggerMode::Level,
        };
        assert_eq!(interrupt, expected);
        assert_eq!(
            machine.unit.resolve(requester(), message(index as u32)),
            Ok(expected)
        );
    }
}

#[test]
fn entries_of_128_bits_have_32_bit_destinations_only_with_xt_en() {
    let machine = remapping(AmdViConfig::default(), true);
    set128(&machine, 3, wide(0x33).with_destination(0xff).words());
    set128(&machine, 4, wide(0x44).with_destination(0x1_2345).words());
    assert_eq!(vector(&machine, 3), 0x33);
    assert_eq!(
        refused(&machine, message(4)),
        Reason::InterruptEntryReserved
    );
    machine.enable(|control| control.with_x2apic(true));
    let interrupt = machine.unit.remap(requester(), message(4)).unwrap();
    assert_eq!(interrupt.destination, 0x1_2345);
}

#[test]
fn tables_have_every_power_of_two_entries_up_to_what_the_unit_offers() {
    for large in [false, true] {
        let machine = remapping(AmdViConfig::default(), true);
        for index in 0..2048 {
            set128(&machine, index, wide(index as u8).words());
        }
        if large {
            machine.enable(|control| control.with_interrupt_table_mode(1));
        }
        for length in 0..16_u8 {
            machine.change_device(|entry| entry.interrupt.set_table_length(length));
            assert!(machine.invalidate(&[invalidate_interrupts(DEVICE)]));
            if length > if large { 11 } else { 9 } {
                let reason = refused(&machine, message(0));
                assert_eq!(reason, Reason::DteInterruptTableLength, "{length}");
                let event = machine.event();
                assert_eq!(event.event_code(), Some(EventCode::IllegalDeviceTableEntry));
                assert!(event.interrupt() && !event.reserved_not_zero());
                continue;
            }
            let last = (1_u32 << length) - 1;
            assert_eq!(vector(&machine, last), last as u8);
            // Beyond, a mode that is neither fixed nor arbitrated is no index.
            if length < 9 || length == 10 {
                let reason = refused(&machine, message(last + 1));
                assert_eq!(reason, Reason::InterruptBeyondTable, "{length}");
                let event = machine.event();
                assert_eq!(event.event_code(), Some(EventCode::IoPageFault));
                assert_eq!(event.flags(), 8);
            }
        }
    }
}

#[test]
fn without_iv_or_with_int_ctl_1_interrupts_pass_and_with_0_they_are_blocked() {
    let machine = remapping(AmdViConfig::default(), true);
    let message = direct(DeliveryMode::Fixed);
    let unmapped = Interrupt::from_compatibility(message);
    machine.change_device(|entry| entry.interrupt = InterruptWord::new());
    assert_eq!(machine.unit.remap(requester(), message), Ok(unmapped));
    machine.change_device(|entry| entry.interrupt = word().with_control(1));
    assert_eq!(machine.unit.remap(requester(), message), Ok(unmapped));
    machine.change_device(|entry| entry.interrupt = word().with_control(0));
    assert_eq!(refused(&machine, message), Reason::InterruptBlocked);
    let event = machine.event();
    assert_eq!(event.event_code(), Some(EventCode::IoPageFault));
    assert_eq!(event.address(), message.address);
    assert!(event.interrupt() && event.permission());
    machine.change_device(|entry| entry.interrupt = word().with_control(3));
    assert_eq!(refused(&machine, message), Reason::DteInterruptControl);
    machine.enable(|control| control.with_enable(false));
    assert_eq!(machine.unit.remap(requester(), message), Ok(unmapped));
}

#[test]
fn other_delivery_modes_pass_as_the_entry_says() {
    type Set = fn(InterruptWord, bool) -> InterruptWord;
    let machine = remapping(AmdViConfig::default(), true);
    let modes: [(DeliveryMode, Set); 3] = [
        (DeliveryMode::Init, InterruptWord::with_init_pass),
        (DeliveryMode::ExtInt, InterruptWord::with_ext_int_pass),
        (DeliveryMode::Nmi, InterruptWord::with_nmi_pass),
    ];
    for (mode, set) in modes {
        for passes in [false, true] {
            machine.change_device(|entry| entry.interrupt = set(word(), passes));
            let message = direct(mode);
            if passes {
                let unmapped = Interrupt::from_compatibility(message);
                assert_eq!(machine.unit.remap(requester(), message), Ok(unmapped));
            } else {
                assert_eq!(refused(&machine, message), Reason::InterruptBlocked);
                machine.event();
            }
        }
    }
    for mode in [DeliveryMode::Reserved3, DeliveryMode::Reserved6] {
        assert_eq!(refused(&machine, direct(mode)), Reason::InterruptBlocked);
        machine.event();
    }
}

#[test]
fn local_interrupts_pass_as_the_entry_says() {
    let machine = remapping(AmdViConfig::default(), true);
    let passes = |pin| machine.unit.passes_local_interrupt(requester(), pin);
    for lint0 in [false, true] {
        machine.change_device(|entry| {
            entry.interrupt = word().with_lint0_pass(lint0).with_lint1_pass(!lint0);
        });
        assert_eq!(passes(LocalInterrupt::Lint0), lint0);
        assert_eq!(passes(LocalInterrupt::Lint1), !lint0);
    }
    machine.change_device(|entry| entry.interrupt = InterruptWord::new());
    assert!(passes(LocalInterrupt::Lint0));
}

#[test]
fn smis_pass_unless_filters_are_enabled_and_none_admits_the_device() {
    let machine = remapping(everything(), true);
    let smi = direct(DeliveryMode::Smi);
    let unmapped = Interrupt::from_compatibility(smi);
    assert_eq!(machine.unit.remap(requester(), smi), Ok(unmapped));
    machine.enable(|control| control.with_smi_filter(true));
    assert_eq!(refused(&machine, smi), Reason::SmiFiltered);
    assert_eq!(machine.events(), [], "SmiFLogEn is clear");
    machine.enable(|control| control.with_smi_filter_log(true));
    assert_eq!(refused(&machine, smi), Reason::SmiFiltered);
    assert_eq!(machine.event().event_code(), Some(EventCode::IoPageFault));
    let filter = offset::SMI_FILTER + 3 * 8;
    machine.write64(filter, u64::from(DEVICE) | 1 << 16);
    assert_eq!(machine.unit.remap(requester(), smi), Ok(unmapped));
    // SmiFLock keeps it.
    machine.write64(filter, u64::from(DEVICE) | 1 << 16 | 1 << 17);
    machine.write64(filter, 0);
    assert_eq!(machine.read64(filter), u64::from(DEVICE) | 3 << 16);
    machine.unit.reset();
    assert_eq!(machine.read64(filter), 0);
}

#[test]
fn illegal_entries_are_logged_unless_they_ask_not_to() {
    let machine = remapping(AmdViConfig::default(), true);
    for (entry, expected, flags) in [
        (0, Reason::InterruptNotRemapped, 0x08),
        (1 | 1 << 40, Reason::InterruptEntryReserved, 0x98),
        (1 | 2 << 2, Reason::InterruptType, 0x18),
        (1 | 1 << 7, Reason::InterruptEntryReserved, 0x98),
    ] {
        for suppress in [0, 2] {
            set128(&machine, 6, [entry | suppress, 0]);
            assert_eq!(refused(&machine, message(6)), expected);
            if suppress == 0 {
                let event = machine.event();
                assert_eq!(event.event_code(), Some(EventCode::IoPageFault));
                assert_eq!(event.flags(), flags, "{expected}");
                assert_eq!(event.device(), DEVICE);
            } else {
                assert_eq!(machine.events(), []);
            }
        }
    }
}

#[test]
fn ig_keeps_all_page_faults_of_interrupts_from_the_log_and_nothing_else() {
    let machine = remapping(everything(), true);
    machine.enable(|control| {
        let control = control.with_smi_filter(true);
        control.with_smi_filter_log(true)
    });
    set128(&machine, 6, [0, 0]);
    set128(&machine, 7, [1 | 1 << 40, 0]);
    set128(&machine, 8, [1 | 2 << 2, 0]);
    let page_faults = [
        (message(6), Reason::InterruptNotRemapped),
        (message(7), Reason::InterruptEntryReserved),
        (message(8), Reason::InterruptType),
        (message(20), Reason::InterruptBeyondTable),
        (direct(DeliveryMode::Init), Reason::InterruptBlocked),
        (direct(DeliveryMode::Smi), Reason::SmiFiltered),
    ];
    for ignored in [false, true] {
        let word = word().with_table_length(4).with_ignore_unmapped(ignored);
        machine.change_device(|entry| entry.interrupt = word);
        for (message, expected) in page_faults {
            assert_eq!(refused(&machine, message), expected);
            assert_eq!(machine.events().len(), usize::from(!ignored), "{expected}");
        }
        machine.change_device(|entry| entry.interrupt.set_control(3));
        assert_eq!(refused(&machine, message(6)), Reason::DteInterruptControl);
        machine.event();
        machine.change_device(|entry| {
            entry.interrupt = word.with_table_address(PhysAddr(RAM));
        });
        assert_eq!(refused(&machine, message(6)), Reason::InterruptTableAccess);
        machine.event();
    }
}

#[test]
fn events_of_interrupts_name_the_domain_where_the_entry_has_one() {
    let machine = remapping(AmdViConfig::default(), true);
    let domain_of = |message, code| {
        refused(&machine, message);
        let event = machine.event();
        assert_eq!(event.event_code(), Some(code));
        event.domain_or_pasid()
    };
    let blocked = direct(DeliveryMode::Nmi);
    assert_eq!(domain_of(message(6), EventCode::IoPageFault), DOMAIN);
    assert_eq!(domain_of(blocked, EventCode::IoPageFault), DOMAIN);
    machine.change_device(|entry| {
        entry.interrupt = word().with_table_address(PhysAddr(RAM));
    });
    let unreadable = EventCode::PageTableHardwareError;
    assert_eq!(domain_of(message(6), unreadable), DOMAIN);
    machine.change_device(|entry| entry.interrupt = word().with_control(3));
    let illegal = EventCode::IllegalDeviceTableEntry;
    assert_eq!(domain_of(message(6), illegal), 0, "such an event has none");
    machine.change_device(|entry| {
        entry.dma.set_valid(false);
        entry.interrupt = word();
    });
    assert_eq!(domain_of(message(6), EventCode::IoPageFault), 0);
}

#[test]
fn a_table_outside_of_memory_is_a_hardware_error() {
    let machine = remapping(AmdViConfig::default(), true);
    machine.change_device(|entry| {
        entry.interrupt = entry.interrupt.with_table_address(PhysAddr(RAM));
    });
    assert_eq!(refused(&machine, message(2)), Reason::InterruptTableAccess);
    let event = machine.event();
    assert_eq!(event.event_code(), Some(EventCode::PageTableHardwareError));
    assert_eq!((event.address(), event.kind()), (RAM + 32, 1));
    assert!(event.interrupt());
}

#[test]
fn entries_are_cached_until_they_are_invalidated() {
    let machine = remapping(AmdViConfig::default(), true);
    set128(&machine, 1, wide(0x31).words());
    set128(&machine, 2, wide(0x32).words());
    assert_eq!((vector(&machine, 1), vector(&machine, 2)), (0x31, 0x32));
    set128(&machine, 1, wide(0x41).words());
    assert_eq!(vector(&machine, 1), 0x31);
    assert!(machine.invalidate(&[invalidate_interrupts(DEVICE + 1)]));
    assert_eq!(vector(&machine, 1), 0x31, "another device's");
    assert!(machine.invalidate(&[invalidate_interrupts(DEVICE)]));
    assert_eq!(vector(&machine, 1), 0x41);
    // Routes outside of the unit rest on entries, too: it does not offer to cache none.
    set128(&machine, 1, wide(0x51).words());
    machine.enable(|control| control.with_interrupt_cache_disable(true));
    assert_eq!(machine.read64(0x18) >> 59 & 1, 0);
    assert_eq!(vector(&machine, 1), 0x41);
}

#[test]
fn what_the_device_table_says_is_cached_until_the_entry_is_invalidated() {
    let machine = remapping(AmdViConfig::default(), true);
    set128(&machine, 1, wide(0x31).words());
    assert_eq!(vector(&machine, 1), 0x31);
    let mut entry = machine.device(DEVICE);
    entry.interrupt = word().with_control(0);
    machine.set_device(DEVICE, entry);
    assert_eq!(vector(&machine, 1), 0x31);
    assert!(machine.invalidate(&[invalidate_device(DEVICE)]));
    assert_eq!(refused(&machine, message(1)), Reason::InterruptBlocked);
    machine.event();
    // Another table, whose entries are others.
    machine.change_device(|entry| entry.interrupt = word());
    assert_eq!(vector(&machine, 1), 0x31);
    let table = machine.table();
    let [low, high] = wide(0x99).words();
    machine.store(table + 16, low);
    machine.store(table + 24, high);
    machine.change_device(|entry| {
        entry.interrupt = entry.interrupt.with_table_address(PhysAddr(table));
    });
    assert_eq!(vector(&machine, 1), 0x99);
}

#[test]
fn a_guests_interrupt_goes_to_its_virtual_apic_and_doorbell() {
    let machine = remapping(everything(), true);
    let page = machine.table();
    let entry = GuestIrte::new()
        .with_remap_enable(true)
        .with_is_running(true)
        .with_destination(5)
        .with_vector(0x85)
        .with_backing_page(PhysAddr(page));
    let bits = entry.into_bits();
    set128(&machine, 7, [bits as u64, (bits >> 64) as u64]);
    // Not before GAMEn.
    assert_eq!(
        refused(&machine, message(7)),
        Reason::InterruptEntryReserved
    );
    machine.event();
    machine.enable(|control| control.with_guest_apic_mode(1));
    let resolved = machine.unit.resolve(requester(), message(7)).unwrap_err();
    assert_eq!(resolved.reason, FaultReason::DeliveredToGuest);
    let irr = page + 0x200 + 4 * 16;
    assert_eq!(machine.load(irr), 0, "resolving raises nothing");
    let posted = machine.unit.remap(requester(), message(7)).unwrap_err();
    assert_eq!(posted.reason, FaultReason::DeliveredToGuest);
    assert_eq!(machine.load(irr), 1 << 5);
    assert_eq!(*machine.signals.doorbells.lock().unwrap(), [5]);
    assert_eq!(machine.interrupts(), []);
    assert_eq!(machine.events(), []);
}
