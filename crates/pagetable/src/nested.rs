//! Two stages: tables whose addresses another set of tables translates. VT-d's nested translation
//! (section 3.8), and AMD's guest over host translation (AMD 48882, section 2.2.7).

use thiserror::Error;
use vm_iommu_spec::{Access, Iova, PhysAddr};

use crate::engine::{self, Position, Request, Tables};
use crate::walk::{AttributeFlags, Attributes, Translation, Walk, WalkFault};
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

/// A translation by both stages; `T` is a [`Walk`] or a [`Translation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedWalk<T = Walk> {
    /// What the address translates to.
    pub output: PhysAddr,
    /// Base-2 logarithm of the size in bytes of the largest page that both stages map as one.
    pub page_shift: u8,
    /// What both stages permit.
    pub permissions: Access,
    /// Those of [`permissions`](Self::permissions) that may be exercised again without another
    /// walk.
    pub cacheable: Access,
    /// The first stage's; its output is the address that the second translates.
    pub first: T,
    /// The second stage's translation of that address.
    pub second: T,
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
    #[inline]
    pub fn translate(
        &self,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<NestedWalk<Translation>, NestedFault> {
        self.translate_at(self.first.root(root), iova, access)
    }

    /// The same as [`translate`](Self::translate), from a position of the first stage that a
    /// paging-structure cache holds for this address; repeated from `root` if that fails.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    #[inline]
    pub fn translate_from(
        &self,
        cached: Position,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<NestedWalk<Translation>, NestedFault> {
        self.translate_at(cached, iova, access)
            .or_else(|_| self.translate_at(self.first.root(root), iova, access))
    }

    /// The same as [`translate`](Self::translate), with a record of the entries visited for the
    /// address and for the first stage's output.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    pub fn walk(
        &self,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<NestedWalk, NestedFault> {
        self.run(self.first.root(root), Request::new(iova, access))
    }

    /// The same as [`translate_from`](Self::translate_from), with a record of the entries visited:
    /// of the first stage those below the position, or if the walk was repeated, all.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    pub fn walk_from(
        &self,
        cached: Position,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<NestedWalk, NestedFault> {
        let request = Request::new(iova, access);
        self.run(cached, request)
            .or_else(|_| self.run(self.first.root(root), request))
    }

    /// The same as [`walk`](Self::walk), but sets no flags in either stage.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    pub fn probe(
        &self,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<NestedWalk, NestedFault> {
        self.run(self.first.root(root), Request::probe(iova, access))
    }

    #[inline]
    fn translate_at(
        &self,
        start: Position,
        iova: Iova,
        access: Access,
    ) -> Result<NestedWalk<Translation>, NestedFault> {
        let tables = Translated {
            nested: self,
            probe: false,
        };
        let request = Request::new(iova, access);
        let first = engine::translate(self.first, &tables, start, request)?;
        let second = tables.translate(first.output.0, access, Purpose::Page)?;
        Ok(NestedWalk::of(&first, &second, first, second))
    }

    fn run(&self, start: Position, request: Request) -> Result<NestedWalk, NestedFault> {
        let tables = Translated {
            nested: self,
            probe: request.probe,
        };
        let first = engine::walk(self.first, &tables, start, request)?;
        let address = first.output.0;
        let (direct, start) = (
            engine::Direct(self.memory),
            self.second.root(self.second_root),
        );
        let second = engine::walk(self.second, &direct, start, Request { address, ..request })
            .map_err(|fault| refused(fault, address, Purpose::Page))?;
        Ok(NestedWalk::of(
            &first.translation,
            &second.translation,
            first,
            second,
        ))
    }
}

impl NestedWalk<Translation> {
    /// What both stages say of the page: the single bits of either, and the first's memory type
    /// unless the second's overrides it.
    pub fn attributes(&self) -> Attributes {
        let (first, second) = (self.first.attributes, self.second.attributes);
        let overrides = second.flags.contains(AttributeFlags::IGNORE_PAT);
        Attributes {
            flags: first.flags | second.flags,
            memory_type: if overrides {
                second.memory_type
            } else {
                first.memory_type
            },
        }
    }
}

impl NestedWalk {
    /// The same without the entries visited.
    pub fn translation(&self) -> NestedWalk<Translation> {
        NestedWalk {
            output: self.output,
            page_shift: self.page_shift,
            permissions: self.permissions,
            cacheable: self.cacheable,
            first: self.first.translation,
            second: self.second.translation,
        }
    }
}

impl<T> NestedWalk<T> {
    #[inline]
    fn of(first: &Translation, second: &Translation, walk1: T, walk2: T) -> Self {
        Self {
            output: second.output,
            page_shift: first.page_shift.min(second.page_shift),
            permissions: first.permissions & second.permissions,
            cacheable: first.cacheable & second.cacheable,
            first: walk1,
            second: walk2,
        }
    }
}

#[cold]
fn refused(fault: WalkFault, address: u64, purpose: Purpose) -> NestedFault {
    NestedFault::Second {
        fault,
        address: Iova(address),
        purpose,
    }
}

/// The first stage's tables, as the second translates their addresses.
struct Translated<'a, F, S, M: ?Sized> {
    nested: &'a Nested<'a, F, S, M>,
    probe: bool,
}

impl<F: Walker, S: Walker, M: TableMemory + ?Sized> Translated<'_, F, S, M> {
    /// Where an entry of the first stage is read. A function of its own, because neither what else
    /// a translation says nor other accesses matter here, and four or five of these are a walk.
    #[inline(never)]
    fn entry(&self, level: u8, address: u64) -> Result<PhysAddr, NestedFault> {
        let purpose = Purpose::Entry { level };
        let translation = self.translate(address, Access::READ, purpose);
        translation.map(|translation| translation.output)
    }

    #[inline(always)]
    fn translate(
        &self,
        address: u64,
        access: Access,
        purpose: Purpose,
    ) -> Result<Translation, NestedFault> {
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
        engine::translate(
            second,
            &engine::Direct(memory),
            second.root(second_root),
            request,
        )
        .map_err(|fault| refused(fault, address, purpose))
    }
}

impl<F: Walker, S: Walker, M: TableMemory + ?Sized> Tables for Translated<'_, F, S, M> {
    type Fault = NestedFault;

    #[inline]
    fn load(&self, level: u8, address: u64) -> Result<u64, Option<NestedFault>> {
        let place = self.entry(level, address).map_err(Some)?;
        self.nested.memory.load(place).map_err(|BadAddress(_)| None)
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
