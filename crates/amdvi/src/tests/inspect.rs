//! Inspection and explanation.

use vm_iommu_spec::amd::FaultReason as Reason;
use vm_iommu_spec::{Access, FaultReason, Iova, PhysAddr};

use super::machine::*;
use crate::{AmdViConfig, InspectedEntry, Outcome, WalkTable};

#[test]
fn an_inspection_shows_registers_devices_events_and_faults() {
    let machine = Machine::translating(AmdViConfig::default(), 4);
    machine.set_device(3, device(0, 0));
    let mut bad = device(7, 0);
    bad.interrupt = bad.interrupt.with_valid(true).with_table_length(2);
    machine.set_device(5, bad);
    assert!(machine.read_at(0x9000).is_err());
    let inspection = machine.unit.inspect();
    assert!(inspection.enabled);
    assert!(inspection.status.contains(&"COMMAND_RUN"));
    assert_eq!(inspection.device_tables, [(PhysAddr(DEVICES), 2048)]);
    assert_eq!(inspection.commands.entries, Some(256));
    assert!(inspection.event_log.running && inspection.ppr_log.is_none());
    assert_eq!(
        inspection.events,
        ["IO_PAGE_FAULT device 00:03.0 domain 0x7 address 0x9000 flags 0x000"]
    );
    let devices: Vec<u16> = inspection
        .devices
        .iter()
        .map(|device| device.requester.source_id())
        .collect();
    assert_eq!(devices, [3, 5, DEVICE]);
    assert!(matches!(
        inspection.devices[1].entry,
        InspectedEntry::Invalid {
            reason: Reason::HostMode
        }
    ));
    assert_eq!(inspection.devices[1].interrupts, Some((PhysAddr(0), 4)));
    assert!(matches!(
        inspection.devices[2].entry,
        InspectedEntry::Valid { host_levels: 4, .. }
    ));
    assert_eq!(inspection.refused, 1);
    let fault = &inspection.last_faults[0];
    assert_eq!(
        fault.steps.last().unwrap().table,
        WalkTable::Host { level: 4 }
    );
    assert!(fault.text.contains("page not present (IO_PAGE_FAULT)"));
    let tree = serde_json::to_value(&inspection).unwrap();
    assert_eq!(tree["registers"][0]["name"], "Device Table Base");
}

#[test]
fn explanations_follow_the_tables_and_change_nothing() {
    let machine = Machine::translating(AmdViConfig::default(), 4);
    machine.map(0x5000, 0x50_0000, 12, READ_WRITE);
    let before = machine.unit.save();
    let explain = |iova| machine.unit.explain(requester(), None, Iova(iova));
    let explanation = explain(0x5123);
    let tables: Vec<WalkTable> = explanation.steps.iter().map(|step| step.table).collect();
    assert_eq!(tables[0], WalkTable::Device);
    assert_eq!(
        tables[1..],
        [4, 3, 2, 1].map(|level| WalkTable::Host { level })
    );
    match explanation.outcome {
        Outcome::Page {
            output,
            page_shift,
            permissions,
            ..
        } => {
            assert_eq!((output, page_shift), (PhysAddr(0x50_0123), 12));
            assert!(permissions.contains(Access::READ | Access::WRITE));
        }
        other => panic!("{other:?}"),
    }
    let missing = explain(0x6000);
    assert_eq!(
        missing.outcome,
        Outcome::Refused {
            reason: FaultReason::Amd(Reason::NotPresent)
        }
    );
    assert_eq!(missing.steps.len(), 5);
    assert_eq!(machine.unit.save(), before);
    assert_eq!(machine.events(), []);
    machine.change_device(|entry| entry.dma.set_mode(0));
    assert_eq!(
        explain(0x5000).outcome,
        Outcome::PassThrough {
            domain: Some(vm_iommu_spec::DomainId(DOMAIN))
        }
    );
    machine.enable(|control| control.with_enable(false));
    assert_eq!(explain(0x5000).outcome, Outcome::Disabled);
    assert!(explain(0x5000).to_string().contains("disabled"));
}
