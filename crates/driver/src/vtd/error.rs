//! What can go wrong.

use thiserror::Error;
use vm_iommu_pagetable::{BadAddress, EditError};
use vm_iommu_spec::DomainId;
use vm_iommu_spec::vtd::registers::{GlobalBits, QueueError};

use super::InterruptIndex;
use crate::TimedOut;

/// Why the driver could not do what it was asked.
///
/// Everything but [`Stuck`](Self::Stuck), [`Queue`](Self::Queue) and
/// [`BadAddress`](Self::BadAddress) is found before anything is stored, or has been undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The capability registers read as all ones.
    #[error("no unit answers: the capability registers read as all ones")]
    Absent,
    /// The unit lacks something that the driver needs or was asked for.
    #[error("the unit has no {0}")]
    Unsupported(Feature),
    /// A table or queue size beyond what a register can say.
    #[error("size field {given} is larger than {most}")]
    Size {
        /// The size asked for, as the register's field.
        given: u8,
        /// The field's largest value.
        most: u8,
    },
    /// The unit did not answer a command.
    #[error("the unit did not {wait}")]
    Stuck {
        /// What it was to do.
        wait: Wait,
        /// How long it was given.
        #[source]
        source: TimedOut,
    },
    /// The unit refused a descriptor. The queue goes on without it.
    #[error("the invalidation queue stopped at descriptor {index}: {error}")]
    Queue {
        /// The descriptor's place in the queue, in units of 16 bytes.
        index: u16,
        /// Why it was refused.
        error: QueueError,
    },
    /// There are no pages left for tables.
    #[error("out of memory for tables")]
    OutOfMemory,
    /// What was allocated for tables is no memory.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// All domain identifiers that the unit supports are in use.
    #[error("all {count} domain identifiers are in use")]
    OutOfDomains {
        /// How many the unit has.
        count: u32,
    },
    /// There is no such domain.
    #[error("no domain {0}")]
    NoDomain(DomainId),
    /// The domain still has requesters.
    #[error("domain {0} still has requesters")]
    DomainInUse(DomainId),
    /// A bus still has requesters with a domain.
    #[error("bus {0:#04x} still has requesters with a domain")]
    BusInUse(u8),
    /// A pass-through domain has no tables to map in.
    #[error("domain {0} passes requests through and maps nothing")]
    PassThrough(DomainId),
    /// The tables of a domain could not be edited so.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// All entries of the interrupt remapping table are in use.
    #[error("all {entries} interrupt remapping entries are in use")]
    OutOfInterrupts {
        /// How many the table has.
        entries: u32,
    },
    /// The interrupt remapping entry was not allocated.
    #[error("interrupt remapping entry {0} is not allocated")]
    NoInterrupt(InterruptIndex),
    /// The destination does not fit without EIME.
    #[error("interrupt destination {0:#x} needs extended interrupt mode")]
    Destination(u32),
}

/// What a unit may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Feature {
    /// ECAP.C. Without it a driver must write its tables back from the caches of processors.
    #[error("coherent access to tables")]
    Coherency,
    /// ECAP.QI.
    #[error("queued invalidation")]
    QueuedInvalidation,
    /// ECAP.IR, or it was not set up.
    #[error("interrupt remapping")]
    InterruptRemapping,
    /// ECAP.EIM.
    #[error("extended interrupt mode")]
    ExtendedInterruptMode,
    /// ECAP.PT.
    #[error("pass-through translation")]
    PassThrough,
    /// A bit of CAP.SAGAW.
    #[error("tables of {0} levels")]
    Levels(u8),
}

/// What the driver waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Wait {
    /// A status bit is to be set.
    #[error("carry out the command {0:?}")]
    Command(GlobalBits),
    /// A status bit is to be cleared.
    #[error("turn off {0:?}")]
    Disable(GlobalBits),
    /// The invalidation queue of an earlier driver is to run empty.
    #[error("drain the invalidation queue that it was found with")]
    FoundQueue,
    /// A wait descriptor is to write its status.
    #[error("complete the queued invalidations")]
    Invalidations,
}
