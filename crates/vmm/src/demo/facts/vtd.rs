//! What the story of a VT-d unit brings to light.

use vm_iommu_spec::vtd::registers::{Capability, ExtendedCapability, Version};
use vm_iommu_spec::vtd::{ContextEntry, FaultRecord, RootEntry, SecondStageEntry};
use vm_iommu_vtd::{Outcome, Vtd, WalkStep, WalkTable};

use super::{Facts, Hex, device_id, requester};
use crate::demo::engine::{Image, ImageError};
use crate::demo::story::Story;
use crate::demo::story::vtd::{Evidence, SETUP};
use crate::layout;

pub(super) fn found(
    evidence: &Evidence,
    story: &Story,
    image: &Image,
) -> Result<Facts, ImageError> {
    let version = Version::from_bits(image.result(evidence.version.0)? as u32);
    let capability = Capability::from_bits(image.result(evidence.capability.0)?);
    let extended = ExtendedCapability::from_bits(image.result(evidence.extended.0)?);
    let widths = capability.adjusted_widths();
    Ok(Facts::Found {
        unit: Hex(layout::VTD),
        version: format!("{}.{}", version.major(), version.minor()),
        capability: Hex(capability.into_bits()),
        extended_capability: Hex(extended.into_bits()),
        table_levels: (1..=3)
            .filter(|bit| widths >> bit & 1 != 0)
            .map(|bit| bit + 2)
            .collect(),
        device: story.refused.requester.to_string(),
        device_id: device_id(story, image)?,
    })
}

pub(super) fn translating(evidence: &Evidence, image: &Image) -> Result<Facts, ImageError> {
    Ok(Facts::Translating {
        status: Hex(image.result(evidence.status.0)?),
        root_table: Hex(evidence.root.0),
        queue_descriptors: 256 << SETUP.queue_size,
        interrupt_entries: SETUP.interrupts.map_or(0, |setup| 2 << setup.size),
    })
}

pub(super) fn refused(
    evidence: &Evidence,
    story: &Story,
    image: &Image,
) -> Result<Facts, ImageError> {
    let [low, high] = evidence.record;
    let record = FaultRecord::from_words(image.result(low.0)?, image.result(high.0)?);
    Ok(Facts::Refused {
        requester: requester(record.source()),
        page: Hex(record.page()),
        access: if record.read() { "read" } else { "write" },
        reason_code: record.reason(),
        reason: match record.fault_reason() {
            Some(reason) => reason.to_string(),
            None => "unknown".to_owned(),
        },
        address: Hex(story.refused.address.0),
        record: "fault record",
    })
}

pub(super) fn walked(unit: &Vtd, story: &Story) -> Facts {
    let request = &story.refused;
    let explanation = unit.explain(request.requester, request.pasid, request.address);
    Facts::Walked {
        address: Hex(explanation.address.0),
        walk: explanation.steps.iter().map(describe).collect(),
        outcome: match explanation.outcome {
            Outcome::Refused { reason } => format!("refused: {reason}"),
            ref other => format!("{other:?}"),
        },
    }
}

/// One entry of a walk and what it says.
fn describe(step: &WalkStep) -> String {
    let high = step.high.unwrap_or(0);
    let says = match step.table {
        WalkTable::Root => {
            let entry = RootEntry::from_words(step.low, high);
            match entry.present() {
                true => format!("context table at {}", entry.context_table()),
                false => "not present".to_owned(),
            }
        }
        WalkTable::Context => {
            let entry = ContextEntry::from_words(step.low, high);
            match entry.present() {
                true => format!(
                    "domain {}, tables of {} levels at {}",
                    entry.domain(),
                    entry.address_width() + 2,
                    entry.tables()
                ),
                false => "not present".to_owned(),
            }
        }
        WalkTable::SecondStage { level } => {
            let entry = SecondStageEntry::from_bits(step.low);
            let what = if level == 1 || entry.page_size() {
                "page"
            } else {
                "table"
            };
            match (entry.read(), entry.write()) {
                (false, false) => "not present".to_owned(),
                (true, true) => format!("{what} at {}, read-write", entry.address()),
                (true, false) => format!("{what} at {}, read-only", entry.address()),
                (false, true) => format!("{what} at {}, write-only", entry.address()),
            }
        }
        _ => String::new(),
    };
    format!("{step}: {says}")
}
