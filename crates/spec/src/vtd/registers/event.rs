//! Status registers and the interrupts that announce them (sections 11.4.7 and 11.4.9).

use bitfield_struct::bitfield;

/// FSTS_REG (section 11.4.7.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FaultStatus {
    /// PFO: a fault found no free recording register. Cleared by writing 1.
    pub overflow: bool,
    /// PPF: the F field of some recording register is set. Read-only.
    pub pending: bool,
    /// AFO: overflow of the advanced log.
    pub advanced_overflow: bool,
    /// APF: pending faults in the advanced log.
    pub advanced_pending: bool,
    /// IQE: the invalidation queue stopped at an error. Cleared by writing 1.
    pub queue_error: bool,
    /// ICE: a device-TLB answered with an unexpected completion. Cleared by writing 1.
    pub completion_error: bool,
    /// ITE: a device-TLB did not answer. Cleared by writing 1.
    pub timeout_error: bool,
    #[bits(1)]
    __: u8,
    /// FRI, 8 bits: where the first fault was recorded when PPF was set.
    #[bits(8)]
    pub record_index: u8,
    #[bits(16)]
    __: u16,
}

/// FECTL_REG, IECTL_REG and PECTL_REG (sections 11.4.7.2, 11.4.9.6 and 11.4.11.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct EventControl {
    #[bits(30)]
    __: u32,
    /// IP: the interrupt waits for IM to be cleared. Read-only.
    pub pending: bool,
    /// IM: the interrupt is masked.
    pub masked: bool,
}

/// ICS_REG (section 11.4.9.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InvalidationStatus {
    /// IWC: a wait descriptor with the interrupt flag completed. Cleared by writing 1.
    pub wait_complete: bool,
    #[bits(31)]
    __: u32,
}
