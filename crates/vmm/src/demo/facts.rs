//! What each step of the story brought to light, for a person and for a program.

use std::fmt;

use serde::Serialize;
use vm_iommu_spec::vtd::registers::{Capability, ExtendedCapability, Version};
use vm_iommu_spec::vtd::{ContextEntry, FaultRecord, RootEntry, SecondStageEntry};
use vm_iommu_spec::{Iova, PhysAddr};
use vm_iommu_vtd::{Explanation, WalkStep, WalkTable};

use super::engine::{Image, ImageError};
use super::story::{DESTINATION, LENGTH, SETUP, SOURCE, Step, Story, VECTOR};
use crate::layout;

/// A number that is written in hexadecimal, in text as in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a step brought to light. All register values are those that the guest loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Facts {
    /// The unit and the device are found.
    Found {
        /// Where the unit's registers are.
        unit: Hex,
        /// Its version.
        version: String,
        /// CAP.
        capability: Hex,
        /// ECAP.
        extended_capability: Hex,
        /// The number of levels that its tables may have.
        table_levels: Vec<u8>,
        /// Where the device is.
        device: String,
        /// Its vendor and device identifiers.
        device_id: String,
    },
    /// The unit is set up and translates.
    Translating {
        /// GSTS.
        status: Hex,
        /// Where the root table is.
        root_table: Hex,
        /// How many descriptors the queue holds.
        queue_descriptors: u32,
        /// How many entries the interrupt remapping table has.
        interrupt_entries: u32,
    },
    /// Data has moved through the tables.
    Moved {
        /// How many bytes.
        bytes: u64,
        /// What the device read.
        read: Mapped,
        /// What the device wrote.
        written: Mapped,
    },
    /// A remapped interrupt was taken.
    Interrupted {
        /// The entry of the interrupt remapping table.
        entry: u16,
        /// The address of the message that the device wrote.
        message_address: Hex,
        /// Its data.
        message_data: Hex,
        /// The vector that the processor took.
        vector: Hex,
        /// How often.
        taken: u64,
    },
    /// A request was refused and its record read.
    Refused {
        /// Who asked, as the record says.
        requester: String,
        /// The page asked for, as the record says.
        page: Hex,
        /// Whether it was to be read or written, as the record says.
        access: &'static str,
        /// The fault reason, as the record says.
        reason_code: u8,
        /// The same in words.
        reason: String,
        /// The address asked for.
        address: Hex,
    },
    /// Why it was refused.
    Walked {
        /// The address.
        address: Hex,
        /// Each entry that the unit read, and what it says.
        walk: Vec<String>,
        /// What came of it.
        outcome: String,
    },
}

/// An address of the device's, and the memory that it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Mapped {
    iova: Hex,
    memory: Hex,
}

impl From<(Iova, PhysAddr)> for Mapped {
    fn from((iova, memory): (Iova, PhysAddr)) -> Self {
        Self {
            iova: Hex(iova.0),
            memory: Hex(memory.0),
        }
    }
}

impl Facts {
    /// What `step` brought to light, once the guest has done it.
    ///
    /// # Errors
    /// The guest's memory cannot be read.
    pub fn gather(step: Step, story: &Story, image: &Image) -> Result<Self, ImageError> {
        let evidence = &story.evidence;
        Ok(match step {
            Step::Found => {
                let version = Version::from_bits(image.result(evidence.version.0)? as u32);
                let capability = Capability::from_bits(image.result(evidence.capability.0)?);
                let extended = ExtendedCapability::from_bits(image.result(evidence.extended.0)?);
                let identity = image.result(evidence.identity.0)?;
                let widths = capability.adjusted_widths();
                Self::Found {
                    unit: Hex(layout::VTD),
                    version: format!("{}.{}", version.major(), version.minor()),
                    capability: Hex(capability.into_bits()),
                    extended_capability: Hex(extended.into_bits()),
                    table_levels: (1..=3)
                        .filter(|bit| widths >> bit & 1 != 0)
                        .map(|bit| bit + 2)
                        .collect(),
                    device: story.refused.requester.to_string(),
                    device_id: format!("{:04x}:{:04x}", identity & 0xffff, identity >> 16),
                }
            }
            Step::Translating => Self::Translating {
                status: Hex(image.result(evidence.status.0)?),
                root_table: Hex(story.root.0),
                queue_descriptors: 256 << SETUP.queue_size,
                interrupt_entries: SETUP.interrupts.map_or(0, |setup| 2 << setup.size),
            },
            Step::Moved => Self::Moved {
                bytes: LENGTH,
                read: SOURCE.into(),
                written: DESTINATION.into(),
            },
            Step::Interrupted => {
                let message = story.interrupt.message();
                Self::Interrupted {
                    entry: story.interrupt.0,
                    message_address: Hex(message.address),
                    message_data: Hex(message.data.into()),
                    vector: Hex(VECTOR.into()),
                    taken: image.taken(VECTOR)?,
                }
            }
            Step::Refused => {
                let [low, high] = evidence.record;
                let record = FaultRecord::from_words(image.result(low.0)?, image.result(high.0)?);
                let source = vm_iommu_spec::RequesterId::from_source_id(0, record.source());
                Self::Refused {
                    requester: source.to_string(),
                    page: Hex(record.page()),
                    access: if record.read() { "read" } else { "write" },
                    reason_code: record.reason(),
                    reason: match record.fault_reason() {
                        Some(reason) => reason.to_string(),
                        None => "unknown".to_owned(),
                    },
                    address: Hex(story.refused.address.0),
                }
            }
        })
    }

    /// The walk of an address, level by level.
    pub fn of_walk(explanation: &Explanation) -> Self {
        Self::Walked {
            address: Hex(explanation.address.0),
            walk: explanation.steps.iter().map(describe).collect(),
            outcome: match explanation.outcome {
                vm_iommu_vtd::Outcome::Refused { reason } => format!("refused: {reason}"),
                ref other => format!("{other:?}"),
            },
        }
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

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found {
                unit,
                version,
                capability,
                extended_capability,
                table_levels,
                device,
                device_id,
            } => {
                let levels: Vec<String> = table_levels.iter().map(u8::to_string).collect();
                write!(
                    f,
                    "found a VT-d unit at {unit}: version {version}, CAP {capability}, ECAP \
                     {extended_capability}, tables of {} levels; and edu ({device_id}) at {device}",
                    levels.join(" or ")
                )
            }
            Self::Translating {
                status,
                root_table,
                queue_descriptors,
                interrupt_entries,
            } => write!(
                f,
                "set it up: queue of {queue_descriptors} descriptors, root table at \
                 {root_table}, {interrupt_entries} interrupt remapping entries; translation is on \
                 (GSTS {status})"
            ),
            Self::Moved {
                bytes,
                read,
                written,
            } => write!(
                f,
                "edu read {bytes} bytes at {} (memory {}) and wrote them at {} (memory {}): equal",
                read.iova, read.memory, written.iova, written.memory
            ),
            Self::Interrupted {
                entry,
                message_address,
                message_data,
                vector,
                taken,
            } => write!(
                f,
                "edu's interrupt ({message_address}, data {message_data}) was remapped by entry \
                 {entry} to vector {vector}, taken {}",
                match taken {
                    1 => "once".to_owned(),
                    times => format!("{times} times"),
                }
            ),
            Self::Refused {
                requester,
                page,
                access,
                reason,
                address,
                ..
            } => write!(
                f,
                "edu was refused a DMA at {address}, which is not mapped; the guest read the \
                 fault record: {access} of page {page} by {requester}, {reason}"
            ),
            Self::Walked {
                address,
                walk,
                outcome,
            } => {
                write!(f, "the unit's walk of {address}:")?;
                for entry in walk {
                    write!(f, "\n      {entry}")?;
                }
                write!(f, "\n      {outcome}")
            }
        }
    }
}
