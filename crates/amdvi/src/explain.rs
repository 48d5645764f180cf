//! What the tables say about an address, step by step.

use std::fmt;

use serde::Serialize;
use vm_iommu_pagetable::{Nested, Visited, Walk, Walker};
use vm_iommu_spec::amd::DeviceTableEntry;
use vm_iommu_spec::{
    Access, DmaRequest, DomainId, FaultReason, Iova, Pasid, PhysAddr, RequesterId,
};

use crate::event::Refusal;
use crate::ranges::{self, Ruling};
use crate::translate::{Binding, Bound, Stage};
use crate::unit::AmdVi;

/// A table that a walk passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum WalkTable {
    /// The device table.
    Device,
    /// A guest CR3 table; 1 is the lowest level.
    GuestCr3 {
        /// Its level.
        level: u8,
    },
    /// A guest table; 1 is the lowest level.
    Guest {
        /// Its level.
        level: u8,
    },
    /// A host table; 1 is the lowest level.
    Host {
        /// Its level.
        level: u8,
    },
    /// An interrupt remapping table.
    InterruptRemapping {
        /// The index of the entry.
        index: u16,
    },
}

impl fmt::Display for WalkTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => f.write_str("device table entry"),
            Self::GuestCr3 { level } => write!(f, "guest CR3 entry, level {level}"),
            Self::Guest { level } => write!(f, "guest entry, level {level}"),
            Self::Host { level } => write!(f, "host entry, level {level}"),
            Self::InterruptRemapping { index } => {
                write!(f, "interrupt remapping entry {index}")
            }
        }
    }
}

/// An entry that a walk read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WalkStep {
    /// In which table.
    pub table: WalkTable,
    /// Where. Of a guest table under host tables, the guest physical address.
    pub address: PhysAddr,
    /// The entry, or its lowest 64 bits.
    pub low: u64,
    /// Bits 127:64 of a longer entry.
    pub high: Option<u64>,
    /// Bits 191:128 and 255:192 of a device table entry.
    pub rest: Option<[u64; 2]>,
}

impl fmt::Display for WalkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: ", self.table, self.address)?;
        if let Some([third, fourth]) = self.rest {
            write!(f, "{fourth:016x}_{third:016x}_")?;
        }
        match self.high {
            Some(high) => write!(f, "{high:016x}_{:016x}", self.low),
            None => write!(f, "{:016x}", self.low),
        }
    }
}

impl WalkStep {
    fn new(table: WalkTable, address: PhysAddr, low: u64) -> Self {
        Self {
            table,
            address,
            low,
            high: None,
            rest: None,
        }
    }

    pub(crate) fn of_device(address: PhysAddr, entry: DeviceTableEntry) -> Self {
        let [low, high, third, fourth] = entry.words();
        Self {
            high: Some(high),
            rest: Some([third, fourth]),
            ..Self::new(WalkTable::Device, address, low)
        }
    }

    pub(crate) fn of_guest_cr3(level: u8, address: PhysAddr, entry: u64) -> Self {
        Self::new(WalkTable::GuestCr3 { level }, address, entry)
    }

    pub(crate) fn of_walk(visited: &Visited, guest: bool) -> Vec<Self> {
        let table = |level| match guest {
            true => WalkTable::Guest { level },
            false => WalkTable::Host { level },
        };
        visited
            .iter()
            .map(|step| Self::new(table(step.level), step.address, step.entry))
            .collect()
    }

    pub(crate) fn of_irte(index: u16, address: PhysAddr, low: u64, high: Option<u64>) -> Self {
        Self {
            high,
            ..Self::new(WalkTable::InterruptRemapping { index }, address, low)
        }
    }
}

/// What becomes of requests to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Outcome {
    /// The unit is disabled: the address is physical.
    Disabled,
    /// The address passes untranslated: V of the device table entry is clear, or the range is
    /// excluded or special.
    PassThrough {
        /// The requester's domain, if its entry is valid.
        domain: Option<DomainId>,
    },
    /// A page holds the address.
    Page {
        /// The requester's domain.
        domain: DomainId,
        /// What the address translates to.
        output: PhysAddr,
        /// The size of the page as a power of two in bytes.
        page_shift: u8,
        /// What requests may do.
        permissions: Access,
    },
    /// Every request is refused.
    Refused {
        /// Why.
        reason: FaultReason,
    },
}

/// What the tables say about an address now, whatever the caches hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Who asks.
    pub requester: RequesterId,
    /// For which address space.
    pub pasid: Option<Pasid>,
    /// Where.
    pub address: Iova,
    /// The entries read, in their order.
    pub steps: Vec<WalkStep>,
    /// What came of it.
    pub outcome: Outcome,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.address, self.requester)?;
        if let Some(pasid) = self.pasid {
            write!(f, " pasid {pasid}")?;
        }
        f.write_str(":")?;
        for step in &self.steps {
            write!(f, "\n  {step}")?;
        }
        match self.outcome {
            Outcome::Disabled => f.write_str("\n  the unit is disabled"),
            Outcome::PassThrough { domain: None } => f.write_str("\n  passes untranslated"),
            Outcome::PassThrough {
                domain: Some(domain),
            } => write!(f, "\n  domain {domain} passes untranslated"),
            Outcome::Page {
                domain,
                output,
                page_shift,
                permissions,
            } => {
                let size = 1_u64 << page_shift.min(63);
                write!(
                    f,
                    "\n  domain {domain}: {output}, {permissions}, in a page of {size:#x} bytes"
                )
            }
            Outcome::Refused { reason } => write!(f, "\n  refused: {reason}"),
        }
    }
}

/// A page as found by a walk from the root.
struct Found {
    output: PhysAddr,
    page_shift: u8,
    permissions: Access,
    steps: Vec<WalkStep>,
}

impl AmdVi {
    /// What the tables say about `address` of `requester`. Reads the tables as they are now;
    /// records nothing, sets no accessed or dirty flag, and changes no cache.
    pub fn explain(
        &self,
        requester: RequesterId,
        pasid: Option<Pasid>,
        address: Iova,
    ) -> Explanation {
        let mut steps = Vec::new();
        let outcome = self
            .outcome(requester, pasid, address, &mut steps)
            .unwrap_or_else(|mut refusal| {
                // Those of the device table and the guest CR3 tables may be in both.
                if !refusal.steps.starts_with(&steps) {
                    refusal.steps.splice(0..0, steps.iter().copied());
                }
                steps = refusal.steps;
                Outcome::Refused {
                    reason: refusal
                        .reason
                        .map_or(FaultReason::Contended, FaultReason::Amd),
                }
            });
        Explanation {
            requester,
            pasid,
            address,
            steps,
            outcome,
        }
    }

    fn outcome(
        &self,
        requester: RequesterId,
        pasid: Option<Pasid>,
        address: Iova,
        steps: &mut Vec<WalkStep>,
    ) -> Result<Outcome, Refusal> {
        let snapshot = self.snapshot();
        if !snapshot.control.enable() {
            return Ok(match pasid {
                None => Outcome::Disabled,
                Some(_) => Outcome::Refused {
                    reason: FaultReason::NotMemory,
                },
            });
        }
        // A walk that asks for nothing is refused only by what refuses every request.
        let request = DmaRequest {
            pasid,
            probe: true,
            ..DmaRequest::new(requester, address, Access::empty())
        };
        let bound = match self.binding(&snapshot, &request, steps)? {
            Binding::Device(bound) => bound,
            _ => return Ok(Outcome::PassThrough { domain: None }),
        };
        let device = &bound.device;
        let domain = device.domain;
        let ranges = ranges::of(&self.config, &snapshot, device, bound.is_guest());
        let pass = Outcome::PassThrough {
            domain: Some(domain),
        };
        if ranges.ruling(device, &request)? == Ruling::Forward {
            return Ok(pass);
        }
        let access = self.checked_access(device, &request)?;
        let mut denied = Access::empty();
        denied.set(Access::READ | Access::EXECUTE, !device.read);
        denied.set(Access::WRITE, !device.write);
        if matches!(bound.stage, Stage::Direct) && denied.is_empty() {
            return Ok(pass);
        }
        let found = self.probe(&bound, address, access)?;
        steps.extend(found.steps);
        Ok(Outcome::Page {
            domain,
            output: found.output,
            page_shift: ranges.fit(address, found.page_shift),
            permissions: found.permissions - denied,
        })
    }

    /// Walks the tables of `bound` from the root, without setting flags.
    fn probe(&self, bound: &Bound, address: Iova, access: Access) -> Result<Found, Refusal> {
        let guest = bound.is_guest();
        let of = |walk: Walk| Found {
            output: walk.output,
            page_shift: walk.page_shift,
            permissions: walk.permissions,
            steps: WalkStep::of_walk(&walk.visited, guest),
        };
        let refused = |fault| Refusal::of_walk(&fault, guest);
        self.ram.tables(|memory| match &bound.stage {
            Stage::Direct => {
                let page = crate::translate::direct(address);
                Ok(Found {
                    output: page.output,
                    page_shift: page.page_shift,
                    permissions: page.permissions,
                    steps: Vec::new(),
                })
            }
            Stage::Host(format, root) => {
                let walk = format.probe(memory, *root, address, access);
                walk.map(of).map_err(refused)
            }
            Stage::Guest(format, root) => {
                let walk = format.probe(memory, *root, address, access);
                walk.map(of).map_err(refused)
            }
            Stage::Nested {
                first,
                first_root,
                second,
                second_root,
            } => {
                let nested = Nested {
                    first,
                    second,
                    second_root: *second_root,
                    memory,
                };
                let walk = nested
                    .probe(*first_root, address, access)
                    .map_err(Refusal::of_nested)?;
                let mut steps = WalkStep::of_walk(&walk.first.visited, true);
                steps.extend(WalkStep::of_walk(&walk.second.visited, false));
                Ok(Found {
                    output: walk.output,
                    page_shift: walk.page_shift,
                    permissions: walk.permissions,
                    steps,
                })
            }
        })
    }
}
