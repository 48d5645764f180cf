//! What each step of the story brought to light, for a person and for a program.

mod amdvi;
mod vtd;

use std::fmt;

use serde::Serialize;
use vm_iommu_spec::{Iova, PhysAddr, RequesterId};

use super::engine::{Image, ImageError};
use super::story::{DESTINATION, Evidence, LENGTH, SOURCE, Step, Story, VECTOR};
use crate::machine::Unit;

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
    /// The VT-d unit and the device are found.
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
    /// The VT-d unit is set up and translates.
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
    /// The AMD-Vi unit and the device are found.
    FoundAmdVi {
        /// Where the unit's registers are.
        unit: Hex,
        /// EFR.
        feature: Hex,
        /// EFR2.
        feature_2: Hex,
        /// The most levels that its host tables may have.
        host_levels: u8,
        /// Where the device is.
        device: String,
        /// Its vendor and device identifiers.
        device_id: String,
    },
    /// The AMD-Vi unit is set up and translates.
    TranslatingAmdVi {
        /// The control register.
        control: Hex,
        /// Where the device table is.
        device_table: Hex,
        /// How many commands the command buffer holds.
        commands: u32,
        /// How many events the log holds.
        events: u32,
        /// How many entries the device's interrupt remapping table has.
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
        /// The fault reason, or the code of the event, as the record says.
        reason_code: u8,
        /// The same in words.
        reason: String,
        /// The address asked for.
        address: Hex,
        /// What a record is called.
        #[serde(skip)]
        record: &'static str,
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
        Ok(match (step, &story.evidence) {
            (Step::Found, Evidence::Vtd(evidence)) => vtd::found(evidence, story, image)?,
            (Step::Found, Evidence::AmdVi(evidence)) => amdvi::found(evidence, story, image)?,
            (Step::Translating, Evidence::Vtd(evidence)) => vtd::translating(evidence, image)?,
            (Step::Translating, Evidence::AmdVi(evidence)) => amdvi::translating(evidence, image)?,
            (Step::Moved, _) => Self::Moved {
                bytes: LENGTH,
                read: SOURCE.into(),
                written: DESTINATION.into(),
            },
            (Step::Interrupted, evidence) => Self::Interrupted {
                entry: match evidence {
                    Evidence::Vtd(evidence) => evidence.interrupt.0,
                    Evidence::AmdVi(evidence) => evidence.interrupt.index,
                },
                message_address: Hex(story.message.address),
                message_data: Hex(story.message.data.into()),
                vector: Hex(VECTOR.into()),
                taken: image.taken(VECTOR)?,
            },
            (Step::Refused, Evidence::Vtd(evidence)) => vtd::refused(evidence, story, image)?,
            (Step::Refused, Evidence::AmdVi(evidence)) => amdvi::refused(evidence, story, image)?,
        })
    }

    /// How `unit` walks to the address that it refused, level by level.
    pub fn of_walk(unit: &Unit, story: &Story) -> Self {
        match unit {
            Unit::Vtd(unit) => vtd::walked(unit, story),
            Unit::AmdVi(unit) => amdvi::walked(unit, story),
        }
    }
}

/// The device's identifiers, as the guest loaded them.
fn device_id(story: &Story, image: &Image) -> Result<String, ImageError> {
    let identity = image.result(story.identity.0)?;
    Ok(format!("{:04x}:{:04x}", identity & 0xffff, identity >> 16))
}

/// A requester by the identifier that a record has.
fn requester(source: u16) -> String {
    RequesterId::from_source_id(0, source).to_string()
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
            Self::FoundAmdVi {
                unit,
                feature,
                feature_2,
                host_levels,
                device,
                device_id,
            } => write!(
                f,
                "found an AMD-Vi unit at {unit}: EFR {feature}, EFR2 {feature_2}, host tables of \
                 up to {host_levels} levels; and edu ({device_id}) at {device}"
            ),
            Self::TranslatingAmdVi {
                control,
                device_table,
                commands,
                events,
                interrupt_entries,
            } => write!(
                f,
                "set it up: buffer of {commands} commands, log of {events} events, device table \
                 at {device_table}, {interrupt_entries} interrupt remapping entries a device; \
                 translation is on (control {control})"
            ),
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
                record,
                ..
            } => write!(
                f,
                "edu was refused a DMA at {address}, which is not mapped; the guest read the \
                 {record}: {access} of page {page} by {requester}, {reason}"
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
