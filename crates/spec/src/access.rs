//! What a request asks for.

use core::fmt;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::{Iova, Pasid, RequesterId};

/// What a request does to memory: any of read, write and execute, and whether it asks with
/// supervisor privilege (which only a request with PASID can).
///
/// An atomic operation both reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Access(u8);

bitflags! {
    impl Access: u8 {
        /// Reads memory.
        const READ = 1;
        /// Writes memory.
        const WRITE = 1 << 1;
        /// Fetches instructions (the Execute-Requested field of a request with PASID).
        const EXECUTE = 1 << 2;
        /// Asks with supervisor privilege (the Privileged-Mode-Requested field).
        const PRIVILEGED = 1 << 3;
        /// Is an AtomicOp; set together with [`READ`](Self::READ) and [`WRITE`](Self::WRITE).
        const ATOMIC = 1 << 4;
    }
}

impl Access {
    /// An atomic read-modify-write.
    pub const ATOMIC_OP: Self = Self(1 | 1 << 1 | 1 << 4);

    /// Whether memory is to be read.
    pub const fn reads(self) -> bool {
        self.0 & Self::READ.0 != 0
    }

    /// Whether memory is to be written.
    pub const fn writes(self) -> bool {
        self.0 & Self::WRITE.0 != 0
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            match (self.contains(Self::ATOMIC), self.reads(), self.writes()) {
                (true, ..) => "atomic",
                (false, true, true) => "read-write",
                (false, true, false) => "read",
                (false, false, true) => "write",
                (false, false, false) => "no access",
            },
        )?;
        if self.contains(Self::EXECUTE) {
            f.write_str("+execute")?;
        }
        if self.contains(Self::PRIVILEGED) {
            f.write_str("+privileged")?;
        }
        Ok(())
    }
}

/// The AT field of a PCI Express memory request: what its address already is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AddressType {
    /// An address to be translated; the ordinary case.
    #[default]
    Untranslated,
    /// A device asks for the translation itself (ATS).
    TranslationRequest,
    /// The device translated the address with its own TLB.
    Translated,
}

/// One request of a device, as it arrives at a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmaRequest {
    /// Who asks.
    pub requester: RequesterId,
    /// The address space it names, if the request carries a PASID.
    pub pasid: Option<Pasid>,
    /// Where: the first byte.
    pub address: Iova,
    /// What for.
    pub access: Access,
    /// What the address is.
    pub address_type: AddressType,
    /// A question, not an access: the answer is computed, but a failure records no fault and no
    /// accessed or dirty bit is written.
    pub probe: bool,
}

impl DmaRequest {
    /// An untranslated request without PASID.
    pub const fn new(requester: RequesterId, address: Iova, access: Access) -> Self {
        Self {
            requester,
            pasid: None,
            address,
            access,
            address_type: AddressType::Untranslated,
            probe: false,
        }
    }

    /// The fault that refuses this request for `reason`.
    pub const fn fault(&self, reason: crate::FaultReason) -> crate::Fault {
        crate::Fault {
            requester: self.requester,
            pasid: self.pasid,
            address: self.address,
            access: self.access,
            reason,
        }
    }
}
