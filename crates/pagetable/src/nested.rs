//! Two stages: tables whose addresses another set of tables translates. VT-d's nested translation
//! (section 3.8), and AMD's guest over host translation (AMD 48882, section 2.2.7).

use thiserror::Error;
use vm_iommu_spec::{Access, Iova, PhysAddr};

use crate::engine::{self, Position, Request, Tables};
use crate::walk::{Walk, WalkFault};
use crate::{BadAddress, TableMemory, Walker};

/// A first stage over a second: each table pointer of the first stage, each update of its flags
/// and the address that it yields are translated by the second.
#[derive(Clone, Copy, Debug)]
pub struct Nested<'a, F, S, M: ?Sized> {
    /// The format of the first stage (AMD: guest).
    pub first: &'a F,
    /// The format of the second stage (AMD: host).
    pub second: &'a S,
    /// The root table of the second stage.
    pub second_root: PhysAddr,
    /// Where the tables of both are.
    pub memory: &'a M,
}

/// A successful walk of both stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedWalk {
    /// What the address translates to.
    pub output: PhysAddr,
    /// Base-2 logarithm of the size in bytes of the largest page that both stages map as one.
    pub page_shift: u8,
    /// What both stages permit.
    pub permissions: Access,
    /// Those of [`permissions`](Self::permissions) that may be exercised again without another
    /// walk.
    pub cacheable: Access,
    /// The walk of the first stage; its output is the address that the second translates.
    pub first: Walk,
    /// The second stage's walk of that address.
    pub second: Walk,
}

/// A refused walk of two stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NestedFault {
    /// The first stage refused.
    #[error("first stage: {0}")]
    First(WalkFault),
    /// The second stage refused to translate an address of the first.
    #[error("second stage, for {purpose} at {address}: {fault}")]
    Second {
        /// The second stage's fault.
        fault: WalkFault,
        /// The address that it refused.
        address: Iova,
        /// What the address was needed for.
        purpose: Purpose,
    },
}

impl From<WalkFault> for NestedFault {
    fn from(fault: WalkFault) -> Self {
        Self::First(fault)
    }
}

/// What a second stage translated an address for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Purpose {
    /// To read an entry of the first stage.
    #[error("the first-stage entry of level {level}")]
    Entry {
        /// The entry's level.
        level: u8,
    },
    /// To set accessed or dirty flags in an entry of the first stage.
    #[error("the flags of the first-stage entry of level {level}")]
    Flags {
        /// The entry's level.
        level: u8,
    },
    /// The request's own access.
    #[error("the request")]
    Page,
}

impl<F: Walker, S: Walker, M: TableMemory + ?Sized> Nested<'_, F, S, M> {
    /// Translates `iova` for `access` through both stages; `root` is the root table of the first,
    /// an address that the second translates.
    ///
    /// The first stage's flags are set before the second translates the page: a refusal there
    /// may leave them set.
    ///
    /// # Errors
    /// [`NestedFault`] with the stage and the entry that refused.
    pub fn walk(
        &self,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<NestedWalk, NestedFault> {
        self.run(
            self.first.root(root),
            Request {
                address: iova.0,
                access,
                probe: false,
            },
        )
    }

    /// The same as [`walk`](Self::walk), but sets no flags in either stage.
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    pub fn probe(
        &self,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<NestedWalk, NestedFault> {
        self.run(
            self.first.root(root),
            Request {
                address: iova.0,
                access,
                probe: true,
            },
        )
    }

    /// The same as [`walk`](Self::walk), from a position of the first stage that a
    /// paging-structure cache holds for this address; repeated from `root` if that fails.
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    pub fn walk_from(
        &self,
        cached: Position,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<NestedWalk, NestedFault> {
        let request = Request {
            address: iova.0,
            access,
            probe: false,
        };
        self.run(cached, request)
            .or_else(|_| self.run(self.first.root(root), request))
    }

    fn run(&self, start: Position, request: Request) -> Result<NestedWalk, NestedFault> {
        let tables = Translated {
            nested: self,
            probe: request.probe,
        };
        let first = engine::walk(self.first, &tables, start, request)?;
        let second = tables.translate(first.output.0, request.access, Purpose::Page)?;
        Ok(NestedWalk {
            output: second.output,
            page_shift: first.page_shift.min(second.page_shift),
            permissions: first.permissions & second.permissions,
            cacheable: first.cacheable & second.cacheable,
            first,
            second,
        })
    }
}

/// The first stage's tables, as the second translates their addresses.
struct Translated<'a, F, S, M: ?Sized> {
    nested: &'a Nested<'a, F, S, M>,
    probe: bool,
}

impl<F: Walker, S: Walker, M: TableMemory + ?Sized> Translated<'_, F, S, M> {
    #[inline]
    fn translate(
        &self,
        address: u64,
        access: Access,
        purpose: Purpose,
    ) -> Result<Walk, NestedFault> {
        let Nested {
            second,
            second_root,
            memory,
            ..
        } = *self.nested;
        let request = Request {
            address,
            access,
            probe: self.probe,
        };
        engine::walk(
            second,
            &engine::Direct(memory),
            second.root(second_root),
            request,
        )
        .map_err(|fault| NestedFault::Second {
            fault,
            address: Iova(address),
            purpose,
        })
    }
}

impl<F: Walker, S: Walker, M: TableMemory + ?Sized> Tables for Translated<'_, F, S, M> {
    type Fault = NestedFault;

    #[inline]
    fn load(&self, level: u8, address: u64) -> Result<u64, Option<NestedFault>> {
        let walk = self.translate(address, Access::READ, Purpose::Entry { level });
        let walk = walk.map_err(Some)?;
        self.nested
            .memory
            .load(walk.output)
            .map_err(|BadAddress(_)| None)
    }

    fn update(
        &self,
        level: u8,
        address: u64,
        old: u64,
        new: u64,
    ) -> Result<bool, Option<NestedFault>> {
        let walk = self.translate(address, Access::WRITE, Purpose::Flags { level });
        let walk = walk.map_err(Some)?;
        match self.nested.memory.compare_exchange(walk.output, old, new) {
            Ok(found) => Ok(found.is_ok()),
            Err(BadAddress(_)) => Err(None),
        }
    }
}

#[cfg(test)]
mod tests;
