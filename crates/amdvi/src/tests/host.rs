//! Host translation (section 2.2.3) and the permissions of the device table entry.

use vm_iommu_dma::{Atc, AtcConfig, AttributeFlags, DmaRemapper};
use vm_iommu_spec::amd::{EventCode, FaultReason as Reason, HostPagingEntry};
use vm_iommu_spec::{Access, AddressType, Iova};

use super::machine::*;
use crate::AmdViConfig;

#[test]
fn each_mode_translates_and_faults_above_its_width() {
    for levels in 1..=6_u8 {
        let machine = Machine::translating(AmdViConfig::default(), levels);
        let width = 12 + 9 * u32::from(levels);
        let top = if width >= 64 {
            1 << 63
        } else {
            1 << (width - 1)
        };
        machine.map(top, 0x50_0000, 12, READ_WRITE);
        machine.store(0x50_0010, 0x1234);
        assert_eq!(machine.read_at(top + 0x10), Ok(0x1234), "{levels}");
        machine.write_at(top + 0x18, 5).unwrap();
        assert_eq!(machine.load(0x50_0018), 5);
        if width < 64 {
            let beyond = machine.read_at(1 << width);
            assert_eq!(reason(beyond), Reason::AddressBeyondTables, "{levels}");
        }
    }
}

#[test]
fn mode_0_passes_untranslated_as_far_as_the_entry_permits() {
    let machine = Machine::translating(AmdViConfig::default(), 0);
    machine.store(0x50_0000, 9);
    assert_eq!(machine.read_at(0x50_0000), Ok(9));
    machine.write_at(0x50_0000, 10).unwrap();
    machine.change_device(|entry| entry.dma.set_write(false));
    assert_eq!(machine.read_at(0x50_0000), Ok(10));
    assert_eq!(reason(machine.write_at(0x50_0000, 1)), Reason::WriteDenied);
    machine.change_device(|entry| entry.dma.set_read(false));
    assert_eq!(reason(machine.read_at(0x50_0000)), Reason::ReadDenied);
}

#[test]
fn permissions_combine_down_every_level_and_with_the_entry() {
    for levels in 2..=5_u8 {
        for denied_at in 1..=levels {
            for (bit, denied) in [
                (HostPagingEntry::READ, Reason::ReadDenied),
                (HostPagingEntry::WRITE, Reason::WriteDenied),
            ] {
                let machine = Machine::translating(AmdViConfig::default(), levels);
                machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
                let steps = machine.unit.explain(requester(), None, Iova(0x5000)).steps;
                let step = &steps[usize::from(levels - denied_at) + 1];
                machine.store(step.address.0, step.low & !bit);
                assert_eq!(
                    machine.read_at(0x5000).is_ok(),
                    denied == Reason::WriteDenied,
                    "{levels} {denied_at}"
                );
                let write = machine.write_at(0x5000, 1);
                if denied == Reason::WriteDenied {
                    assert_eq!(reason(write), denied);
                } else {
                    assert_eq!(write, Ok(()));
                }
            }
        }
    }
    let machine = Machine::translating(AmdViConfig::default(), 3);
    machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    machine.change_device(|entry| entry.dma.set_write(false));
    assert!(machine.read_at(0x5000).is_ok());
    assert_eq!(reason(machine.write_at(0x5000, 1)), Reason::WriteDenied);
    // A cached page does not grant what the entry denies.
    assert_eq!(reason(machine.write_at(0x5000, 1)), Reason::WriteDenied);
}

#[test]
fn pages_of_encoded_sizes_and_skipped_levels_translate() {
    let machine = Machine::translating(AmdViConfig::default(), 4);
    // 32 KiB: Next Level 7, the size in the address.
    let place = machine.map(0x8000, 0, 12, 0);
    let entry = 0x80_0000 | 0x3000 | 7 << 9 | READ_WRITE | 1;
    for index in 0..8 {
        machine.store(place + index * 8, entry);
    }
    machine.store(0x80_7ff8, 3);
    assert_eq!(machine.read_at(0xfff8), Ok(3));
    // From level 4 to level 1.
    let (leaf, root) = (machine.table(), machine.device(DEVICE).dma.host_tables().0);
    machine.store(leaf, 0x90_0000 | READ_WRITE | 1);
    machine.store(root + 8, leaf | 1 << 9 | READ_WRITE | 1);
    machine.store(0x90_0000, 4);
    assert_eq!(machine.read_at(1 << 39), Ok(4));
    let skipped = machine.read_at((1 << 39) + (1 << 21));
    assert_eq!(reason(skipped), Reason::SkippedBits);
}

#[test]
fn illegal_entries_fault_as_the_specification_names_them() {
    let machine = Machine::translating(AmdViConfig::default(), 4);
    let place = machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    let valid = machine.load(place);
    for (entry, expected, flags) in [
        (0, Reason::NotPresent, 0),
        (valid | 1 << 52, Reason::Reserved, 0x90),
        (valid | 1 << 58, Reason::Reserved, 0x90),
        (valid | 1 << 9, Reason::NextLevel, 0x10),
        (valid & !0xf000 | 0x7f_f000 | 7 << 9, Reason::PageSize, 0x10),
        (valid & !HostPagingEntry::READ, Reason::ReadDenied, 0x50),
    ] {
        machine.store(place, entry);
        assert_eq!(reason(machine.read_at(0x5000)), expected);
        let event = machine.event();
        assert_eq!(event.event_code(), Some(EventCode::IoPageFault));
        assert_eq!(event.flags(), flags, "{expected}");
        assert_eq!(event.domain_or_pasid(), DOMAIN);
        assert_eq!(event.address(), 0x5000);
    }
}

#[test]
fn accessed_and_dirty_flags_are_set_where_the_entry_asks() {
    for flags in [0, 1, 3_u8] {
        let machine = Machine::translating(AmdViConfig::default(), 3);
        let place = machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
        machine.change_device(|entry| entry.dma.set_host_flags(flags));
        let bits = |bit: u64| machine.load(place) & bit != 0;
        machine.read_at(0x5000).unwrap();
        assert_eq!(bits(HostPagingEntry::ACCESSED), flags & 1 != 0);
        assert!(!bits(HostPagingEntry::DIRTY));
        machine.write_at(0x5000, 1).unwrap();
        assert_eq!(bits(HostPagingEntry::DIRTY), flags & 2 != 0);
        // Cleared flags are set again once the page was invalidated.
        machine.store(place, machine.load(place) & !HostPagingEntry::DIRTY);
        assert!(machine.invalidate(&[invalidate_pages(DOMAIN, 0x5000, 0x5fff, false)]));
        machine.write_at(0x5000, 1).unwrap();
        assert_eq!(bits(HostPagingEntry::DIRTY), flags & 2 != 0);
    }
}

#[test]
fn a_probe_sets_no_flags_and_logs_nothing() {
    let machine = Machine::translating(AmdViConfig::default(), 3);
    let place = machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    machine.change_device(|entry| entry.dma.set_host_flags(3));
    let handle = machine.port.handle();
    let missing = handle.check(Iova(0x7000), 8, Access::READ);
    assert_eq!(reason(missing), Reason::NotPresent);
    assert_eq!(machine.events(), []);
    let explanation = machine.unit.explain(requester(), None, Iova(0x5000));
    assert!(explanation.to_string().contains("domain 7: 0x500000"));
    assert_eq!(machine.load(place) & 0x60, 0);
}

#[test]
fn a_table_outside_of_memory_is_a_hardware_error_with_its_address() {
    let machine = Machine::translating(AmdViConfig::default(), 3);
    let root = machine.device(DEVICE).dma.host_tables().0;
    machine.store(root, (RAM + 0x1000) | 2 << 9 | READ_WRITE | 1);
    assert_eq!(reason(machine.read_at(0x20_0000)), Reason::TableAccess);
    let event = machine.event();
    assert_eq!(event.event_code(), Some(EventCode::PageTableHardwareError));
    assert_eq!(event.address(), RAM + 0x1008);
    assert_eq!((event.kind(), event.domain_or_pasid()), (1, DOMAIN));
}

#[test]
fn device_tlbs_are_served_only_where_the_entry_permits_them() {
    let machine = Machine::translating(everything(), 3);
    machine.map(0x5000, 0x50_0000, 12, HostPagingEntry::READ);
    let asks = request_of(0x5000, Access::READ, AddressType::TranslationRequest);
    let translated = request_of(0x50_0000, Access::WRITE, AddressType::Translated);
    assert_eq!(reason(machine.ask(asks)), Reason::TranslationRequestDenied);
    let event = machine.event();
    assert_eq!(event.event_code(), Some(EventCode::InvalidDeviceRequest));
    assert!(event.translation());
    assert_eq!(event.kind(), 1);
    assert_eq!(reason(machine.ask(translated)), Reason::PretranslatedDenied);
    let event = machine.event();
    assert!(!event.translation());
    assert_eq!(event.kind(), 1);
    machine.change_device(|entry| entry.domain.set_iotlb(true));
    assert_eq!(machine.ask(asks).unwrap().0, 0x50_0000);
    // What was translated is not checked again.
    assert_eq!(machine.ask(translated).unwrap().0, 0x50_0000);
    // That there is no translation is an answer, not a fault to log.
    let missing = request_of(0x7000, Access::READ, AddressType::TranslationRequest);
    assert_eq!(reason(machine.ask(missing)), Reason::NotPresent);
    assert_eq!(machine.events(), []);
}

#[test]
fn u_and_fc_reach_devices_and_u_keeps_translated_requests_off_the_page() {
    let machine = Machine::translating(everything(), 3);
    let untranslated = HostPagingEntry::UNTRANSLATED_ONLY;
    machine.map(0x5000, 0x50_0000, 12, READ_WRITE | untranslated);
    machine.map(
        0x6000,
        0x51_0000,
        12,
        READ_WRITE | HostPagingEntry::FORCE_COHERENT,
    );
    machine.store(0x50_0000, 5);
    machine.change_device(|entry| entry.domain.set_iotlb(true));
    for (iova, flags) in [
        (0x5000, AttributeFlags::UNTRANSLATED_ONLY),
        (0x6000, AttributeFlags::SNOOP),
    ] {
        let asks = request_of(iova, Access::READ, AddressType::TranslationRequest);
        let space = machine.unit.bind(&asks).unwrap();
        let answer = machine.unit.translate(&space, &asks).unwrap();
        assert_eq!(answer.attributes.flags, flags);
    }
    let device = Atc::new(&machine.port, None, AtcConfig::default()).handle();
    let mut bytes = [0; 8];
    device.read(Iova(0x5000), &mut bytes).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), 5);
    assert!(device.hold(Iova(0x5000), Access::READ).is_err());
    assert!(device.hold(Iova(0x6000), Access::READ).is_ok());
}
