//! Why a request was refused.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Access, Iova, Pasid, RequesterId, amd, vtd};

/// A refused request: who asked for what, and why it was refused.
///
/// A unit records a fault once, where its specification says; the value travels back to the
/// device, which sees an aborted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error, Serialize, Deserialize)]
#[error("{access} of {address} by {requester}{} refused: {reason}", DisplayPasid(*.pasid))]
pub struct Fault {
    /// Who asked.
    pub requester: RequesterId,
    /// The PASID of the request, if it carried one.
    pub pasid: Option<Pasid>,
    /// The address asked for. For an interrupt request, the address of the message.
    pub address: Iova,
    /// What it was asked for.
    pub access: Access,
    /// Why it was refused.
    pub reason: FaultReason,
}

struct DisplayPasid(Option<Pasid>);

impl core::fmt::Display for DisplayPasid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Some(pasid) => write!(f, " pasid {pasid}"),
            None => Ok(()),
        }
    }
}

/// Why a request was refused: by a unit, with its specification's reason, or before or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FaultReason {
    /// A VT-d unit refused, with the fault reason it records.
    #[error("{0}")]
    Vtd(vtd::FaultReason),
    /// An AMD-Vi unit refused, for a reason that an event code and its flags tell.
    #[error("{0}")]
    Amd(amd::FaultReason),
    /// The function's Bus Master Enable bit is clear; the request never left it.
    #[error("bus mastering is disabled")]
    BusMasterDisabled,
    /// The function is in reset, or was removed.
    #[error("the function is stopped")]
    Stopped,
    /// The range passes the end of the 64-bit address space.
    #[error("the range wraps the address space")]
    AddressWrap,
    /// An access to the interrupt window (0xFEEx_xxxx) that is no interrupt: a read, or a write
    /// that is not one aligned doubleword.
    #[error("not an interrupt message, but in the interrupt address range")]
    InterruptRange,
    /// The address, translated or not, is not memory: a device's registers, a hole, or the unit
    /// itself. The fabric answers Unsupported Request.
    #[error("no memory at the target address")]
    NotMemory,
    /// The memory is a program's own: it can be copied, but no device can reach it.
    #[error("a program's private memory: share it (memfd, MAP_SHARED) for devices to reach it")]
    CopyOnly,
    /// The unit told the device that translated requests may not reach the page.
    #[error("the page is for untranslated requests alone")]
    UntranslatedOnly,
    /// An atomic access that is not naturally aligned.
    #[error("misaligned atomic access")]
    Misaligned,
    /// Not refused, but nothing is left to deliver: the interrupt is that of a guest's virtual
    /// APIC, and the unit raised it there, or would.
    #[error("the interrupt is a guest's")]
    DeliveredToGuest,
    /// The table entry kept changing while the unit tried to update it; the device may retry.
    #[error("table entry contended")]
    Contended,
}
