//! Guest translation, and guest over host translation (sections 2.2.6 and 2.2.7).

use vm_iommu_spec::amd::{EventCode, FaultReason as Reason, HostPagingEntry};
use vm_iommu_spec::x86_64::PagingEntry;
use vm_iommu_spec::{Access, DmaRequest, Iova, Pasid};

use super::machine::*;
use crate::AmdViConfig;

/// A machine without host tables for its device.
fn direct() -> Machine {
    Machine::translating(AmdViConfig::default(), 0)
}

/// A machine whose host tables map the first 32 MiB to themselves, but for the page at 0x70_0000,
/// which maps to 0x71_0000.
fn nested() -> Machine {
    let machine = Machine::translating(AmdViConfig::default(), 4);
    let dma = machine.device(DEVICE).dma;
    for page in (0..RAM).step_by(0x1000) {
        let output = if page == 0x70_0000 { 0x71_0000 } else { page };
        machine.map_host((dma.host_tables().0, 4), page, output, 12, READ_WRITE);
    }
    machine
}

#[test]
fn guest_tables_of_four_and_five_levels_translate_for_a_pasid() {
    for levels in [4, 5] {
        for cr3_levels in 1..=3 {
            let machine = direct();
            let pasid = [0x155, 0x1_5555, 0x5555][usize::from(cr3_levels) - 1];
            let root = machine.set_guest(pasid, cr3_levels, levels);
            let top = 1_u64 << (10 + 9 * levels);
            machine.map_guest((root, levels), top, 0x50_0000, 12, GUEST_RW);
            machine.map_guest((root, levels), 0x20_0000, 0x80_0000, 21, GUEST_RW);
            machine.store(0x50_0008, 8);
            machine.store(0x81_2340, 9);
            if cr3_levels == 2 {
                // PASmax is 16 bits.
                let beyond = machine.read_with(Some(pasid), top + 8);
                assert_eq!(reason(beyond), Reason::PasidBeyondTable);
                continue;
            }
            assert_eq!(machine.read_with(Some(pasid), top + 8), Ok(8));
            assert_eq!(machine.read_with(Some(pasid), 0x21_2340), Ok(9));
            machine.write_with(pasid, 0x21_2340).unwrap();
            let beyond = machine.read_with(Some(pasid), 1 << (12 + 9 * levels));
            assert_eq!(reason(beyond), Reason::AddressBeyondTables);
        }
    }
}

#[test]
fn requests_without_pasid_use_guest_tables_only_with_giov() {
    let machine = direct();
    let root = machine.set_guest(0, 1, 4);
    machine.map_guest((root, 4), 0x5000, 0x50_0000, 12, GUEST_RW);
    machine.store(0x5000, 1);
    machine.store(0x50_0000, 2);
    assert_eq!(machine.read_at(0x5000), Ok(1));
    machine.change_device(|entry| entry.dma.set_guest_io_valid(true));
    assert_eq!(machine.read_at(0x5000), Ok(2));
    assert_eq!(machine.read_with(Some(0), 0x5000), Ok(2));
}

#[test]
fn guest_translation_needs_gt_en_and_gv() {
    let machine = direct();
    let root = machine.set_guest(3, 1, 4);
    machine.map_guest((root, 4), 0x5000, 0x50_0000, 12, GUEST_RW);
    assert!(machine.read_with(Some(3), 0x5000).is_ok());
    machine.enable(|control| control.with_guest_translation(false));
    let refused = machine.read_with(Some(3), 0x5000);
    assert_eq!(reason(refused), Reason::PasidBeyondTable);
    machine.enable(|control| control.with_guest_translation(true));
    machine.change_device(|entry| entry.dma.set_guest_valid(false));
    let refused = machine.read_with(Some(3), 0x5000);
    assert_eq!(reason(refused), Reason::PasidBeyondTable);
}

#[test]
fn a_request_with_pasid_never_passes_an_entry_with_gv_untranslated() {
    let machine = direct();
    machine.set_guest(1, 1, 4);
    machine.store(0x5000, 1);
    let refused = machine.read_with(Some(1), 0x5000);
    assert_eq!(reason(refused), Reason::NotPresent);
    let refused = machine.read_with(Some(2), 0x5000);
    assert_eq!(reason(refused), Reason::PasidInvalid);
    let beyond = machine.read_with(Some(512), 0x5000);
    assert_eq!(reason(beyond), Reason::PasidBeyondTable);
    // Nor while the unit does no guest translation; one without PASID is the host tables'
    // affair, of which there are none.
    machine.enable(|control| control.with_guest_translation(false));
    let refused = machine.read_with(Some(1), 0x5000);
    assert_eq!(reason(refused), Reason::PasidBeyondTable);
    assert_eq!(machine.read_at(0x5000), Ok(1));
}

#[test]
fn guest_faults_carry_pasid_and_flags() {
    let machine = direct();
    let root = machine.set_guest(0x1_2, 2, 4);
    let place = machine.map_guest((root, 4), 0x5000, 0x50_0000, 12, 4);
    let refused = machine.write_with(0x12, 0x5000);
    assert_eq!(reason(refused), Reason::WriteDenied);
    let event = machine.event();
    assert_eq!(event.event_code(), Some(EventCode::IoPageFault));
    assert_eq!(event.pasid(), Some(0x12));
    // GN, US, PR, RW and PE.
    assert_eq!(event.flags(), 0x75);
    assert_eq!(event.address(), 0x5000);
    // A supervisor page.
    machine.store(place, machine.load(place) & !4);
    let refused = machine.read_with(Some(0x12), 0x5000);
    assert_eq!(reason(refused), Reason::PrivilegeDenied);
    assert_eq!(machine.event().flags(), 0x55);
}

#[test]
fn what_a_supervisor_may_do_is_not_left_to_users() {
    let machine = direct();
    let root = machine.set_guest(1, 1, 4);
    machine.map_guest((root, 4), 0x5000, 0x50_0000, 12, 2);
    let request = DmaRequest {
        pasid: Pasid::new(1),
        ..request(0x5000, Access::READ | Access::PRIVILEGED)
    };
    let space = vm_iommu_dma::DmaRemapper::bind(&*machine.unit, &request).unwrap();
    let page = vm_iommu_dma::DmaRemapper::translate(&*machine.unit, &space, &request).unwrap();
    assert_eq!(page.output.0, 0x50_0000);
    assert_eq!(page.permissions, Access::empty());
    let refused = machine.read_with(Some(1), 0x5000);
    assert_eq!(reason(refused), Reason::PrivilegeDenied);
}

#[test]
fn without_us_sup_everybody_is_a_user_and_without_nx_sup_the_field_is_reserved() {
    let config = AmdViConfig {
        user_supervisor: false,
        no_execute: false,
        ..AmdViConfig::default()
    };
    let machine = Machine::translating(config, 0);
    let root = machine.set_guest(1, 1, 4);
    let place = machine.map_guest((root, 4), 0x5000, 0x50_0000, 12, 2);
    let request = DmaRequest {
        pasid: Pasid::new(1),
        ..request(0x5000, Access::READ | Access::PRIVILEGED)
    };
    assert_eq!(reason(machine.ask(request)), Reason::PrivilegeDenied);
    machine.store(
        place,
        machine.load(place) | 4 | PagingEntry::EXECUTE_DISABLE,
    );
    assert_eq!(reason(machine.ask(request)), Reason::Reserved);
}

#[test]
fn execution_needs_a_page_that_permits_it() {
    let machine = direct();
    let root = machine.set_guest(1, 1, 4);
    let place = machine.map_guest((root, 4), 0x5000, 0x50_0000, 12, GUEST_RW);
    let request = DmaRequest {
        pasid: Pasid::new(1),
        ..request(0x5000, Access::READ | Access::EXECUTE)
    };
    assert!(machine.ask(request).is_ok());
    machine.store(place, machine.load(place) | PagingEntry::EXECUTE_DISABLE);
    assert_eq!(reason(machine.ask(request)), Reason::ExecuteDenied);
    assert_eq!(machine.event().flags(), 0x57);
}

#[test]
fn accessed_and_dirty_flags_of_guest_tables_are_always_set() {
    let machine = direct();
    let root = machine.set_guest(1, 1, 4);
    let place = machine.map_guest((root, 4), 0x5000, 0x50_0000, 12, GUEST_RW);
    machine.read_with(Some(1), 0x5000).unwrap();
    assert_eq!(machine.load(place) & 0x60, 0x20);
    machine.write_with(1, 0x5000).unwrap();
    assert_eq!(machine.load(place) & 0x60, 0x60);
}

#[test]
fn guest_over_host_translates_tables_and_pages() {
    let machine = nested();
    let root = machine.set_guest(5, 2, 4);
    machine.map_guest((root, 4), 0x5000, 0x70_0000, 12, GUEST_RW);
    machine.store(0x71_0000, 42);
    assert_eq!(machine.read_with(Some(5), 0x5000), Ok(42));
    // Without PASID and GIoV the host tables translate alone.
    assert_eq!(machine.read_at(0x70_0000), Ok(42));
    let explanation = machine
        .unit
        .explain(requester(), Pasid::new(5), Iova(0x5000));
    let text = explanation.to_string();
    for part in [
        "device table entry",
        "guest CR3 entry, level 2",
        "guest CR3 entry, level 1",
        "guest entry, level 4",
        "host entry, level 1",
        "domain 7: 0x710000",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn both_stages_and_the_entry_have_to_permit() {
    let machine = nested();
    let host = machine.device(DEVICE).dma.host_tables().0;
    let root = machine.set_guest(5, 1, 4);
    machine.map_guest((root, 4), 0x5000, 0x60_0000, 12, GUEST_RW);
    machine.map_host((host, 4), 0x60_0000, 0x60_0000, 12, HostPagingEntry::READ);
    assert!(machine.read_with(Some(5), 0x5000).is_ok());
    let refused = machine.write_with(5, 0x5000);
    assert_eq!(reason(refused), Reason::WriteDenied);
    // The host's fault is one of the guest physical address.
    let event = machine.event();
    assert_eq!((event.pasid(), event.domain_or_pasid()), (None, DOMAIN));
    assert_eq!(event.address(), 0x60_0000);
    assert_eq!(event.flags(), 0x70);
    machine.change_device(|entry| entry.dma.set_read(false));
    let refused = machine.read_with(Some(5), 0x5000);
    assert_eq!(reason(refused), Reason::ReadDenied);
}

#[test]
fn the_root_of_the_guest_cr3_table_is_physical_unless_gcr3_trp_mode() {
    let machine = nested();
    let host = machine.device(DEVICE).dma.host_tables().0;
    let root = machine.set_guest(5, 1, 4);
    machine.map_guest((root, 4), 0x5000, 0x60_0000, 12, GUEST_RW);
    assert!(machine.read_with(Some(5), 0x5000).is_ok());
    // Host tables hide the guest CR3 table.
    let table = machine.device(DEVICE).guest_cr3_table().0;
    machine.map_host((host, 4), table, 0x7f_0000, 12, READ_WRITE);
    assert!(machine.invalidate(&[invalidate_all()]));
    assert!(machine.read_with(Some(5), 0x5000).is_ok());
    machine.enable(|control| control.with_guest_cr3_is_guest_physical(true));
    let refused = machine.read_with(Some(5), 0x5000);
    assert_eq!(reason(refused), Reason::PasidInvalid);
}

#[test]
fn a_changed_guest_cr3_entry_counts_once_the_pasid_was_invalidated() {
    let machine = direct();
    let root = machine.set_guest(5, 1, 4);
    machine.map_guest((root, 4), 0x5000, 0x60_0000, 12, GUEST_RW);
    machine.store(0x60_0000, 6);
    assert_eq!(machine.read_with(Some(5), 0x5000), Ok(6));
    let table = machine.device(DEVICE).guest_cr3_table().0;
    machine.store(table + 5 * 8, 0);
    assert!(machine.invalidate(&[invalidate_guest(DOMAIN, 4, 0, u64::MAX)]));
    assert_eq!(machine.read_with(Some(5), 0x5000), Ok(6), "another PASID");
    assert!(machine.invalidate(&[invalidate_guest(DOMAIN, 5, 0, u64::MAX)]));
    let refused = machine.read_with(Some(5), 0x5000);
    assert_eq!(reason(refused), Reason::PasidInvalid);
}
