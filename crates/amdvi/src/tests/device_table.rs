//! The device table (section 2.2.2): its size, its segments, and the fields of its entries.

use vm_iommu_spec::amd::registers::{DeviceTableBase, ExclusionBase, offset};
use vm_iommu_spec::amd::{DeviceTableEntry, EventCode, FaultReason as Reason};
use vm_iommu_spec::{Access, AddressType, FaultReason, Iova, PhysAddr, RequesterId};

use super::machine::*;
use crate::AmdViConfig;

fn mapped(config: AmdViConfig) -> Machine {
    let machine = Machine::translating(config, 3);
    machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    machine
}

#[test]
fn an_entry_without_v_lets_everything_pass() {
    let machine = mapped(AmdViConfig::default());
    machine.change_device(|entry| {
        *entry = DeviceTableEntry::from_words([!1, !0, 0, !0]);
    });
    machine.store(0x5000, 77);
    assert_eq!(machine.read_at(0x5000), Ok(77));
    let with_pasid = machine.read_with(Some(1), 0x5000);
    assert_eq!(reason(with_pasid), Reason::PasidBeyondTable);
}

#[test]
fn an_entry_without_tv_blocks_what_is_to_be_translated() {
    let machine = mapped(AmdViConfig::default());
    machine.change_device(|entry| entry.dma.set_translation_valid(false));
    assert_eq!(reason(machine.read_at(0x5000)), Reason::TranslationInvalid);
    let event = machine.event();
    assert_eq!(event.event_code(), Some(EventCode::IoPageFault));
    assert_eq!(event.flags(), 0);
}

#[test]
fn reserved_modes_and_modes_that_the_unit_lacks_fault() {
    let config = AmdViConfig {
        host_levels: Some(4),
        ..AmdViConfig::default()
    };
    let machine = mapped(config);
    for mode in [5, 6, 7] {
        machine.change_device(|entry| entry.dma.set_mode(mode));
        assert_eq!(reason(machine.read_at(0x5000)), Reason::HostMode);
        assert_eq!(machine.event().flags(), 0x10);
    }
}

#[test]
fn illegal_entries_are_logged_with_the_kind_of_fault() {
    let machine = mapped(AmdViConfig::default());
    let valid = machine.device(DEVICE);
    let mut reserved = valid.words();
    reserved[0] |= 1 << 2;
    let mut io_control = valid;
    io_control.domain.set_io_control(3);
    for (entry, expected, reserved) in [
        (
            DeviceTableEntry::from_words(reserved),
            Reason::DteReserved,
            true,
        ),
        (io_control, Reason::DteIoControl, false),
    ] {
        machine.change_device(|place| *place = entry);
        assert_eq!(reason(machine.write_at(0x5000, 1)), expected);
        let event = machine.event();
        assert_eq!(event.event_code(), Some(EventCode::IllegalDeviceTableEntry));
        assert_eq!(event.reserved_not_zero(), reserved);
        assert!(event.write() && !event.interrupt());
        assert_eq!((event.device(), event.address()), (DEVICE, 0x5000));
    }
}

#[test]
fn the_size_of_the_table_is_enforced() {
    let machine = mapped(AmdViConfig::default());
    let base = DeviceTableBase::new().with_address(PhysAddr(DEVICES));
    machine.write64(offset::DEVICE_TABLE, base.into_bits());
    for (device, known) in [(0x7f, true), (0x80, false), (0xffff, false)] {
        machine
            .port
            .set_requester(RequesterId::from_source_id(0, device));
        let outcome = machine.read_at(0x5000);
        if known {
            assert!(outcome.is_ok());
        } else {
            assert_eq!(reason(outcome), Reason::DeviceBeyondTable);
            let event = machine.event();
            assert_eq!(event.event_code(), Some(EventCode::IoPageFault));
            assert_eq!(event.device(), device);
        }
    }
    let mut asks = request_of(0x5000, Access::READ, AddressType::TranslationRequest);
    asks.requester = RequesterId::from_source_id(0, 0x80);
    let refused = reason(machine.ask(asks));
    assert_eq!(refused, Reason::TranslationRequestBeyondTable);
    let event = machine.event();
    assert_eq!(event.event_code(), Some(EventCode::InvalidDeviceRequest));
    assert_eq!((event.kind(), event.translation()), (2, true));
}

#[test]
fn a_table_outside_of_memory_is_a_hardware_error() {
    let machine = mapped(AmdViConfig::default());
    let base = DeviceTableBase::new().with_address(PhysAddr(RAM));
    machine.write64(offset::DEVICE_TABLE, base.into_bits());
    assert_eq!(reason(machine.read_at(0x5000)), Reason::DeviceTableAccess);
    let event = machine.event();
    assert_eq!(
        event.event_code(),
        Some(EventCode::DeviceTableHardwareError)
    );
    assert_eq!(event.address(), RAM + u64::from(DEVICE) * 32);
    assert_eq!(event.kind(), 1);
    assert_eq!(machine.read64(offset::HARDWARE_EVENT_STATUS), 1);
    assert_eq!(
        machine.read64(offset::HARDWARE_EVENT_LOWER),
        event.address()
    );
    let _ = machine.read_at(0x5000);
    assert_eq!(machine.read64(offset::HARDWARE_EVENT_STATUS), 3);
    machine.write64(offset::HARDWARE_EVENT_STATUS, 0);
    assert_eq!(machine.read64(offset::HARDWARE_EVENT_STATUS), 0);
}

#[test]
fn the_upper_bits_of_a_device_select_a_segment() {
    for segments in 1..=3_u32 {
        let machine = mapped(AmdViConfig::default());
        machine.enable(|control| control.with_device_table_segments(segments as u8));
        let below = 16 - segments;
        for segment in 1..1_u16 << segments {
            let table = machine.table();
            let place = offset::DEVICE_TABLE_SEGMENT + (segment - 1) * 8;
            machine.write64(place, table);
            // Entry 5 of the segment, which passes through with a domain of its own.
            let mut entry = device(0, 0);
            entry.domain.set_domain(100 + segment);
            for (index, word) in (0..).zip(entry.words()) {
                machine.store(table + 5 * 32 + index * 8, word);
            }
            let device = segment << below | 5;
            let requester = RequesterId::from_source_id(0, device);
            let explanation = machine.unit.explain(requester, None, Iova(0x1000));
            let domain = format!("domain {} passes", 100 + segment);
            assert!(explanation.to_string().contains(&domain), "{explanation}");
            // A segment has a size of its own.
            let beyond = RequesterId::from_source_id(0, segment << below | 128);
            machine.port.set_requester(beyond);
            assert_eq!(reason(machine.read_at(0x1000)), Reason::DeviceBeyondTable);
        }
        // Segment 0 stays where the table is.
        machine.port.set_requester(requester());
        assert!(machine.read_at(0x5000).is_ok());
    }
}

#[test]
fn se_logs_the_first_fault_and_sa_none() {
    let machine = mapped(AmdViConfig::default());
    machine.change_device(|entry| entry.domain.set_suppress_repeated(true));
    for _ in 0..3 {
        assert_eq!(reason(machine.read_at(0x9000)), Reason::NotPresent);
    }
    assert_eq!(machine.events().len(), 1);
    // Until the entry is invalidated.
    assert!(machine.invalidate(&[invalidate_device(DEVICE)]));
    let _ = machine.read_at(0x9000);
    assert_eq!(machine.events().len(), 1);
    machine.change_device(|entry| entry.domain.set_suppress_all(true));
    let _ = machine.read_at(0x9000);
    assert_eq!(machine.events(), []);
    // An illegal Mode is a page fault, too.
    machine.change_device(|entry| entry.dma.set_mode(7));
    assert_eq!(reason(machine.read_at(0x9000)), Reason::HostMode);
    assert_eq!(machine.events(), []);
    assert!(
        machine
            .unit
            .inspect()
            .last_faults
            .last()
            .unwrap()
            .suppressed
    );
}

#[test]
fn the_exclusion_range_passes_those_whom_it_is_for() {
    let machine = mapped(AmdViConfig::default());
    // A large page around the range.
    let root = machine.device(DEVICE).dma.host_tables().0;
    machine.map_host((root, 3), 0x20_0000, 0x80_0000, 21, READ_WRITE);
    machine.store(0x24_0000, 1);
    machine.store(0x84_0000, 2);
    machine.store(0x83_f000, 3);
    machine.store(0x84_2000, 4);
    assert_eq!(machine.read_at(0x24_0000), Ok(2));
    let exclusion = ExclusionBase::new()
        .with_address(Iova(0x24_0000))
        .with_enable(true);
    machine.write64(offset::EXCLUSION_LIMIT, 0x24_1000);
    machine.write64(offset::EXCLUSION_BASE, exclusion.into_bits());
    assert_eq!(
        machine.read64(offset::EXCLUSION_BASE),
        exclusion.into_bits()
    );
    assert_eq!(machine.read_at(0x24_0000), Ok(2), "EX is clear");
    machine.change_device(|entry| entry.domain.set_exclusion(true));
    assert_eq!(machine.read_at(0x23_f000), Ok(3), "before the range");
    assert_eq!(machine.read_at(0x24_0000), Ok(1));
    assert_eq!(machine.read_at(0x24_2000), Ok(4), "behind the range");
    // Nothing is checked in the range.
    machine.change_device(|entry| {
        entry.domain.set_exclusion(false);
        entry.dma.set_read(false);
    });
    machine.write64(
        offset::EXCLUSION_BASE,
        exclusion.with_allow(true).into_bits(),
    );
    assert_eq!(machine.read_at(0x24_1000 + 0xff8), Ok(0));
    assert_eq!(reason(machine.read_at(0x24_2000)), Reason::ReadDenied);
}

#[test]
fn hyper_transport_ranges_follow_sys_mgt_and_io_ctl() {
    const MANAGEMENT: u64 = 0xfd_f910_0000;
    const PORT_IO: u64 = 0xfd_fc00_0000;
    let config = AmdViConfig {
        ht_range_ignore: false,
        ..AmdViConfig::default()
    };
    let machine = Machine::translating(config, 4);
    let root = machine.device(DEVICE).dma.host_tables().0;
    for page in [MANAGEMENT, PORT_IO] {
        machine.map_host((root, 4), page, 0x50_0000, 12, READ_WRITE);
    }
    let ask = |iova| {
        let request = request(iova, Access::WRITE);
        machine.ask(request).map(|output| output.0)
    };
    for (setting, management, port_io) in [
        (
            0,
            Err(Reason::SystemManagementDenied),
            Err(Reason::PortIoDenied),
        ),
        (1, Ok(MANAGEMENT), Ok(PORT_IO)),
        (2, Err(Reason::SystemManagementDenied), Ok(0x50_0000)),
    ] {
        machine.change_device(|entry| {
            entry.domain.set_system_management(setting);
            entry.domain.set_io_control(setting);
        });
        for (iova, expected) in [(MANAGEMENT, management), (PORT_IO, port_io)] {
            let outcome = ask(iova).map_err(|fault| match fault.reason {
                FaultReason::Amd(reason) => reason,
                other => panic!("{other}"),
            });
            assert_eq!(outcome, expected);
            if outcome.is_err() {
                let event = machine.event();
                assert_eq!(event.event_code(), Some(EventCode::InvalidDeviceRequest));
                let kind = if iova == PORT_IO { 2 } else { 3 };
                assert_eq!(event.kind(), kind);
            }
        }
    }
    machine.change_device(|entry| entry.domain.set_system_management(3));
    assert_eq!(ask(MANAGEMENT), Ok(0x50_0000));
    assert_eq!(reason(ask(0xfd_f800_0000)), Reason::ReservedRange);
    assert_eq!(machine.event().kind(), 5);
    let asks = request_of(PORT_IO, Access::READ, AddressType::TranslationRequest);
    assert_eq!(reason(machine.ask(asks)), Reason::TranslationRequestRange);
    assert_eq!(machine.event().kind(), 0);
}

#[test]
fn the_interrupt_range_is_no_memory() {
    let machine = Machine::translating(everything(), 4);
    let inside = request(0xfee0_0000, Access::READ);
    assert_eq!(reason(machine.ask(inside)), Reason::InterruptRange);
    let event = machine.event();
    assert_eq!(event.event_code(), Some(EventCode::InvalidDeviceRequest));
    assert_eq!(event.kind(), 0);
    // As a device's own accesses meet it: reads, and writes that are no interrupt.
    assert_eq!(reason(machine.read_at(0xfee0_1000)), Reason::InterruptRange);
    let event = machine.event();
    assert_eq!((event.code(), event.kind()), (8, 0));
    assert_eq!(event.address(), 0xfee0_1000);
    let across = machine.write_at(0xfedf_fffc, 0);
    assert_eq!(reason(across), Reason::InterruptRange);
    assert_eq!(machine.event().address(), 0xfee0_0000);
    let probe = machine
        .port
        .handle()
        .check(Iova(0xfee0_0000), 1, Access::READ);
    assert_eq!(reason(probe), Reason::InterruptRange);
    assert_eq!(machine.events(), []);
    // Nobody to say so where the device table has nothing to say.
    machine.change_device(|entry| entry.dma.set_valid(false));
    let unknown = machine.read_at(0xfee0_1000).unwrap_err();
    assert_eq!(unknown.reason, FaultReason::InterruptRange);
    assert_eq!(machine.events(), []);
}

#[test]
fn while_the_unit_is_disabled_addresses_are_physical() {
    let machine = mapped(AmdViConfig::default());
    machine.store(0x5000, 5);
    machine.store(0x50_0000, 6);
    assert_eq!(machine.read_at(0x5000), Ok(6));
    machine.enable(|control| control.with_enable(false));
    assert_eq!(machine.read_at(0x5000), Ok(5));
    let with_pasid = machine.read_with(Some(1), 0x5000).unwrap_err();
    assert_eq!(with_pasid.reason, FaultReason::NotMemory);
    machine.enable(|control| control.with_enable(true));
    assert_eq!(machine.read_at(0x5000), Ok(6));
}
