//! IOMMU Status Register (MMIO offset 2020h) and Hardware Event Status Register (0050h).

use bitfield_struct::bitfield;
use bitflags::bitflags;

/// IOMMU Status Register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Status(u64);

bitflags! {
    impl Status: u64 {
        /// EventOverflow: an event found no room. Cleared by writing 1.
        const EVENT_OVERFLOW = 1;
        /// EventLogInt: an event was logged. Cleared by writing 1.
        const EVENT_INTERRUPT = 1 << 1;
        /// ComWaitInt: a COMPLETION_WAIT with I set completed. Cleared by writing 1.
        const COMPLETION_WAIT_INTERRUPT = 1 << 2;
        /// EventLogRun: the event log is running. Read-only.
        const EVENT_RUN = 1 << 3;
        /// CmdBufRun: commands are processed. Read-only.
        const COMMAND_RUN = 1 << 4;
        /// PprOverflow: a page request found no room. Cleared by writing 1.
        const PPR_OVERFLOW = 1 << 5;
        /// PprInt: a page request was logged. Cleared by writing 1.
        const PPR_INTERRUPT = 1 << 6;
        /// PprLogRun: the PPR log is running. Read-only.
        const PPR_RUN = 1 << 7;
        /// GALogRun: the GA log is running. Read-only.
        const GA_RUN = 1 << 8;
        /// GALOverflow: a guest's interrupt found no room. Cleared by writing 1.
        const GA_OVERFLOW = 1 << 9;
        /// GAInt: a guest's interrupt was logged. Cleared by writing 1.
        const GA_INTERRUPT = 1 << 10;
        /// PprOverflowB. Cleared by writing 1.
        const PPR_OVERFLOW_B = 1 << 11;
        /// PprLogActive. Read-only.
        const PPR_ACTIVE = 1 << 12;
        /// EvtOverflowB. Cleared by writing 1.
        const EVENT_OVERFLOW_B = 1 << 15;
        /// EvtLogActive. Read-only.
        const EVENT_ACTIVE = 1 << 16;
        /// PprOverflowEarlyB. Cleared by writing 1.
        const PPR_OVERFLOW_EARLY_B = 1 << 17;
        /// PprOverflowEarly: the PPR log reached its threshold. Cleared by writing 1.
        const PPR_OVERFLOW_EARLY = 1 << 18;
    }
}

/// Hardware Event Status Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct HardwareEventStatus {
    /// HEV: the Hardware Event registers hold an event. Cleared by writing 0.
    pub valid: bool,
    /// HEO: another was lost. Cleared by writing 0.
    pub overflow: bool,
    #[bits(62)]
    __: u64,
}
