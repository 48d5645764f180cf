use vm_iommu_spec::vtd::{FaultReason, TranslationType};
use vm_iommu_spec::{Access, DomainId, FaultReason as Reason, Iova, Pasid, PhysAddr};

use super::machine::*;
use crate::{InspectedContext, Outcome, VtdConfig, WalkTable};

#[test]
fn an_explanation_shows_every_entry_on_the_way() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    let explanation = machine.unit.explain(requester(), None, Iova(0x5123));
    let tables: Vec<WalkTable> = explanation.steps.iter().map(|step| step.table).collect();
    let expected = [
        WalkTable::Root,
        WalkTable::Context,
        WalkTable::SecondStage { level: 4 },
        WalkTable::SecondStage { level: 3 },
        WalkTable::SecondStage { level: 2 },
        WalkTable::SecondStage { level: 1 },
    ];
    assert_eq!(tables, expected);
    assert_eq!(explanation.steps[5].low, 0x20_0003);
    let Outcome::Page {
        domain,
        output,
        page_shift,
        permissions,
    } = explanation.outcome
    else {
        panic!("{explanation}")
    };
    assert_eq!(
        (domain, output, page_shift),
        (DomainId(DOMAIN), PhysAddr(0x20_0123), 12)
    );
    assert!(permissions.contains(Access::READ | Access::WRITE));
    let text = explanation.to_string();
    assert!(text.contains("root entry at 0x1000"), "{text}");
    assert!(text.contains("second-stage entry, level 1"), "{text}");
}

#[test]
fn an_explanation_says_why_nothing_is_there() {
    let machine = Machine::new(VtdConfig::default());
    let outcome = |iova| machine.unit.explain(requester(), None, Iova(iova)).outcome;
    assert_eq!(outcome(0), Outcome::Disabled);
    let machine = Machine::translating(VtdConfig::default(), 4);
    let refused = |reason| Outcome::Refused {
        reason: Reason::Vtd(reason),
    };
    let explanation = machine.unit.explain(requester(), None, Iova(0x5000));
    assert_eq!(explanation.outcome, refused(FaultReason::ReadDenied));
    assert_eq!(explanation.steps.len(), 3);
    let pasid = Pasid::new(1);
    let explanation = machine.unit.explain(requester(), pasid, Iova(0x5000));
    assert_eq!(explanation.outcome, refused(FaultReason::PasidInLegacyMode));
    let through = context(4, 0).with_translation_type(TranslationType::PassThrough);
    machine.set_context(SOURCE, through);
    let outcome = machine
        .unit
        .explain(requester(), None, Iova(0x5000))
        .outcome;
    assert_eq!(
        outcome,
        Outcome::PassThrough {
            domain: DomainId(DOMAIN)
        }
    );
    assert!(machine.records().is_empty());
}

#[test]
fn an_inspection_lists_requesters_faults_and_counters() {
    let machine = Machine::translating(VtdConfig::default(), 4);
    machine.map(0x5000, 0x20_0000, 12, 3);
    machine.set_context(0xff, context(4, 0).with_domain(9).with_address_width(0));
    machine.read_at(0x5000).unwrap();
    machine.write_at(0x7000, 0).unwrap_err();
    let inspection = machine.unit.inspect();
    assert_eq!(inspection.requesters.len(), 2);
    assert!(matches!(
        inspection.requesters[0].context,
        InspectedContext::Valid {
            domain: DomainId(DOMAIN),
            levels: 4,
            ..
        }
    ));
    assert!(matches!(
        inspection.requesters[1].context,
        InspectedContext::Invalid {
            reason: FaultReason::ContextEntryInvalid
        }
    ));
    assert_eq!(inspection.cached_requesters, [SOURCE]);
    assert_eq!(inspection.refused, 1);
    let fault = &inspection.last_faults[0];
    assert_eq!(fault.fault.address, Iova(0x7000));
    assert_eq!(fault.steps.len(), 4, "{}", fault.text);
    assert_eq!(inspection.records.len(), 1);
    assert!(inspection.status.contains(&"translation enabled"));
    let text = serde_json::to_string(&inspection).unwrap();
    assert!(text.contains("\"GSTS_REG\""), "{text}");
    assert!(serde_json::to_string(&machine.unit.explain(requester(), None, Iova(0))).is_ok());
}

#[test]
fn an_inspection_is_bounded_however_many_requesters_there_are() {
    use vm_iommu_spec::vtd::RootEntry;
    let machine = Machine::translating(VtdConfig::default(), 4);
    for bus in 0..=255 {
        let entry = RootEntry::new().with_present(true);
        machine.set_root(bus, entry.with_context_table(PhysAddr(CONTEXTS)));
    }
    for devfn in 0..=255 {
        machine.set_context(devfn, context(4, TABLES));
    }
    let inspection = machine.unit.inspect();
    assert_eq!(inspection.requesters.len(), 1024);
    assert!(inspection.more_requesters);
    for page in 1..100 {
        machine.write_at(page << 12, 0).unwrap_err();
    }
    let inspection = machine.unit.inspect();
    assert_eq!((inspection.refused, inspection.last_faults.len()), (99, 32));
    assert_eq!(inspection.last_faults[31].fault.address, Iova(99 << 12));
}
