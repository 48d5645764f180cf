//! What the story of an AMD-Vi unit brings to light.

use vm_iommu_amdvi::{AmdVi, Outcome, WalkStep, WalkTable};
use vm_iommu_spec::amd::registers::ExtendedFeature;
use vm_iommu_spec::amd::{DmaWord, DomainWord, EventEntry, HostPagingEntry};

use super::{Facts, Hex, device_id, requester};
use crate::demo::engine::{Image, ImageError};
use crate::demo::story::Story;
use crate::demo::story::amdvi::{Evidence, SETUP};
use crate::layout;

pub(super) fn found(
    evidence: &Evidence,
    story: &Story,
    image: &Image,
) -> Result<Facts, ImageError> {
    let feature = ExtendedFeature::from_bits(image.result(evidence.feature.0)?);
    Ok(Facts::FoundAmdVi {
        unit: Hex(layout::AMDVI),
        feature: Hex(feature.into_bits()),
        feature_2: Hex(image.result(evidence.feature2.0)?),
        host_levels: match feature.host_levels() {
            3 => 0,
            more => 4 + more,
        },
        device: story.refused.requester.to_string(),
        device_id: device_id(story, image)?,
    })
}

pub(super) fn translating(evidence: &Evidence, image: &Image) -> Result<Facts, ImageError> {
    Ok(Facts::TranslatingAmdVi {
        control: Hex(image.result(evidence.control.0)?),
        device_table: Hex(evidence.device_table.0),
        commands: 1 << SETUP.command_length,
        events: 1 << SETUP.event_length,
        interrupt_entries: SETUP.interrupts.map_or(0, |setup| 1 << setup.length),
    })
}

pub(super) fn refused(
    evidence: &Evidence,
    story: &Story,
    image: &Image,
) -> Result<Facts, ImageError> {
    let [low, high] = evidence.event;
    let entry = EventEntry::from_words(image.result(low.0)?, image.result(high.0)?);
    let name = match entry.event_code() {
        Some(code) => code.name(),
        None => "unknown",
    };
    Ok(Facts::Refused {
        requester: requester(entry.device()),
        page: Hex(entry.address()),
        access: if entry.write() { "write" } else { "read" },
        reason_code: entry.code(),
        reason: format!(
            "{name}, domain {:#x}, flags {:#05x}",
            entry.domain_or_pasid(),
            entry.flags()
        ),
        address: Hex(story.refused.address.0),
        record: "event",
    })
}

pub(super) fn walked(unit: &AmdVi, story: &Story) -> Facts {
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
    let says = match step.table {
        WalkTable::Device => {
            let dma = DmaWord::from_bits(step.low);
            let domain = DomainWord::from_bits(step.high.unwrap_or(0));
            format!(
                "domain {}, tables of {} levels at {}",
                domain.domain(),
                dma.mode(),
                dma.host_tables()
            )
        }
        WalkTable::Host { level } => {
            let entry = HostPagingEntry::from_bits(step.low);
            let what = match (level, entry.next_level()) {
                (1, _) | (_, 0 | 7) => "page",
                _ => "table",
            };
            match (entry.present(), entry.read(), entry.write()) {
                (false, ..) => "not present".to_owned(),
                (_, true, true) => format!("{what} at {}, read-write", entry.address()),
                (_, true, false) => format!("{what} at {}, read-only", entry.address()),
                (_, false, _) => format!("{what} at {}, write-only", entry.address()),
            }
        }
        _ => String::new(),
    };
    format!("{step}: {says}")
}
