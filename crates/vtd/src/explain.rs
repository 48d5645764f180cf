//! What the tables say about an address, step by step.

use std::fmt;

use serde::Serialize;
use vm_iommu_pagetable::Visited;
use vm_iommu_spec::vtd::registers::TableMode;
use vm_iommu_spec::vtd::{self, Irte, TranslationType};
use vm_iommu_spec::{
    Access, DmaRequest, DomainId, FaultReason, Iova, Pasid, PhysAddr, RequesterId,
};

use crate::context::ContextLookup;
use crate::unit::Vtd;

/// A table that a walk passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum WalkTable {
    /// The root table.
    Root,
    /// A context table.
    Context,
    /// A second-stage table; 1 is the lowest level.
    SecondStage {
        /// Its level.
        level: u8,
    },
    /// The interrupt remapping table.
    InterruptRemapping {
        /// The index of the entry.
        index: u16,
    },
}

impl fmt::Display for WalkTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root entry"),
            Self::Context => f.write_str("context entry"),
            Self::SecondStage { level } => write!(f, "second-stage entry, level {level}"),
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
    /// Where.
    pub address: PhysAddr,
    /// The entry, or its lower half.
    pub low: u64,
    /// The upper half of an entry of 128 bits.
    pub high: Option<u64>,
}

impl fmt::Display for WalkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: ", self.table, self.address)?;
        match self.high {
            Some(high) => write!(f, "{high:016x}_{:016x}", self.low),
            None => write!(f, "{:016x}", self.low),
        }
    }
}

impl WalkStep {
    pub(crate) fn of_lookup(lookup: &ContextLookup) -> Vec<Self> {
        let root = lookup.root.map(|(address, entry)| {
            let [low, high] = entry.words();
            Self::wide(WalkTable::Root, address, low, high)
        });
        let context = lookup.entry.map(|(address, entry)| {
            let [low, high] = entry.words();
            Self::wide(WalkTable::Context, address, low, high)
        });
        root.into_iter().chain(context).collect()
    }

    pub(crate) fn of_walk(visited: &Visited) -> Vec<Self> {
        let step = |step: vm_iommu_pagetable::Step| Self {
            table: WalkTable::SecondStage { level: step.level },
            address: step.address,
            low: step.entry,
            high: None,
        };
        visited.iter().map(step).collect()
    }

    pub(crate) fn of_irte(index: u16, address: PhysAddr, entry: Irte) -> Self {
        let [low, high] = entry.words();
        Self::wide(WalkTable::InterruptRemapping { index }, address, low, high)
    }

    fn wide(table: WalkTable, address: PhysAddr, low: u64, high: u64) -> Self {
        Self {
            table,
            address,
            low,
            high: Some(high),
        }
    }
}

/// What becomes of requests to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Outcome {
    /// Translation is disabled: the address is physical.
    Disabled,
    /// The requester passes through: the address is physical.
    PassThrough {
        /// Its domain.
        domain: DomainId,
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
            Outcome::Disabled => f.write_str("\n  translation is disabled"),
            Outcome::PassThrough { domain } => {
                write!(f, "\n  domain {domain} passes through untranslated")
            }
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

impl Vtd {
    /// What the tables say about `address` of `requester`. Reads the tables as they are now;
    /// records nothing and changes no cache.
    pub fn explain(
        &self,
        requester: RequesterId,
        pasid: Option<Pasid>,
        address: Iova,
    ) -> Explanation {
        let mut steps = Vec::new();
        let outcome = self
            .outcome(requester, pasid, address, &mut steps)
            .unwrap_or_else(|reason| Outcome::Refused { reason });
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
    ) -> Result<Outcome, FaultReason> {
        let snapshot = self.snapshot();
        if !snapshot.translates() {
            return match pasid {
                None => Ok(Outcome::Disabled),
                Some(_) => Err(FaultReason::NotMemory),
            };
        }
        if snapshot.root.mode() != TableMode::Legacy {
            return Err(FaultReason::Vtd(vtd::FaultReason::RootTableAddressInvalid));
        }
        if pasid.is_some() {
            return Err(FaultReason::Vtd(vtd::FaultReason::PasidInLegacyMode));
        }
        let source = requester.source_id();
        let lookup = ContextLookup::new(&self.ram, snapshot.root, source, &self.table_rules);
        *steps = WalkStep::of_lookup(&lookup);
        let context = lookup.outcome.map_err(FaultReason::Vtd)?;
        let domain = context.domain;
        if context.translation_type == TranslationType::PassThrough {
            return Ok(Outcome::PassThrough { domain });
        }
        // A walk that asks for nothing is refused only by what refuses every request.
        let mut request = DmaRequest::new(requester, address, Access::empty());
        request.probe = true;
        match self.walk(&context, &request) {
            Ok(walk) => {
                steps.extend(WalkStep::of_walk(&walk.visited));
                Ok(Outcome::Page {
                    domain,
                    output: walk.output,
                    page_shift: walk.page_shift,
                    permissions: walk.permissions,
                })
            }
            Err(refusal) => {
                steps.extend(WalkStep::of_walk(&refusal.visited));
                Err(refusal
                    .reason
                    .map_or(FaultReason::Contended, FaultReason::Vtd))
            }
        }
    }
}
