//! What can go wrong.

use thiserror::Error;
use vm_iommu_pagetable::{BadAddress, EditError};
use vm_iommu_spec::{DomainId, PhysAddr, RequesterId};

use super::InterruptIndex;
use crate::TimedOut;

/// Why the driver could not do what it was asked.
///
/// Everything but [`Stuck`](Self::Stuck), [`Command`](Self::Command) and
/// [`BadAddress`](Self::BadAddress) is found before anything is stored, or has been undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The feature register reads as all ones.
    #[error("no unit answers: the feature register reads as all ones")]
    Absent,
    /// The unit lacks something that the driver was asked for.
    #[error("the unit has no {0}")]
    Unsupported(Feature),
    /// A table or buffer size that a register cannot say.
    #[error("size field {given} is not between {least} and {most}")]
    Size {
        /// The size asked for, as the register's field.
        given: u8,
        /// The field's smallest value.
        least: u8,
        /// The field's largest value.
        most: u8,
    },
    /// The unit did not do what it was told.
    #[error("the unit did not {wait}")]
    Stuck {
        /// What it was to do.
        wait: Wait,
        /// How long it was given.
        #[source]
        source: TimedOut,
    },
    /// The unit stopped at a command. The command buffer was emptied and started again.
    #[error("the unit stopped at the command at {address}")]
    Command {
        /// Where the command was.
        address: PhysAddr,
    },
    /// There are no pages left for tables.
    #[error("out of memory for tables")]
    OutOfMemory,
    /// What was allocated for tables is no memory.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// The device table has no entry for the requester.
    #[error("the device table has no entry for {0}")]
    BeyondDeviceTable(RequesterId),
    /// All domain identifiers are in use.
    #[error("all domain identifiers are in use")]
    OutOfDomains,
    /// There is no such domain.
    #[error("no domain {0}")]
    NoDomain(DomainId),
    /// The domain still has requesters.
    #[error("domain {0} still has requesters")]
    DomainInUse(DomainId),
    /// A pass-through domain has no tables to map in.
    #[error("domain {0} passes requests through and maps nothing")]
    PassThrough(DomainId),
    /// The tables of a domain could not be edited so.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// All entries of the requester's interrupt remapping table are in use.
    #[error("all {entries} interrupt remapping entries are in use")]
    OutOfInterrupts {
        /// How many the table has.
        entries: u16,
    },
    /// The interrupt remapping entry was not allocated.
    #[error("interrupt remapping entry {0} is not allocated")]
    NoInterrupt(InterruptIndex),
    /// Interrupts can only be fixed or go to the lowest priority.
    #[error("interrupt remapping entries cannot express the delivery mode")]
    DeliveryMode,
    /// The destination does not fit without x2APIC mode.
    #[error("interrupt destination {0:#x} needs x2APIC mode")]
    Destination(u32),
}

/// What a unit may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Feature {
    /// EFR.HATS.
    #[error("host tables of {0} levels")]
    HostLevels(u8),
    /// EFR.GTSup and EFR.GIOSup, or EFR.GATS.
    #[error("guest tables of {0} levels for requests without PASID")]
    GuestLevels(u8),
    /// EFR.XTSup and EFR.GASup.
    #[error("x2APIC mode")]
    X2Apic,
    /// EFR2.NumIntRemapSup.
    #[error("interrupt remapping tables of {0} entries")]
    InterruptEntries(u16),
    /// It was not set up.
    #[error("interrupt remapping")]
    InterruptRemapping,
}

/// What the driver waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Wait {
    /// EventLogRun and CmdBufRun are to be cleared.
    #[error("stop the command buffer and the event log that it was found with")]
    Stopped,
    /// CmdBufRun is to be cleared.
    #[error("stop the command buffer")]
    CommandsStopped,
    /// EventLogRun is to be cleared.
    #[error("stop the event log")]
    EventsStopped,
    /// A COMPLETION_WAIT is to store its data.
    #[error("complete its commands")]
    Commands,
}
