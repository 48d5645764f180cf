//! The hardware's side of a table format.

use vm_iommu_spec::{Access, Iova, PhysAddr};

use crate::TableMemory;
use crate::engine::{self, Direct, Format, Position, Request};
use crate::walk::{Translation, Visited, Walk, WalkFault};

/// The hardware's side of a table format: from an address to a [`Translation`] or a
/// [`WalkFault`].
///
/// Implemented by the formats of this crate. A walk allocates nothing and loads at most one entry
/// of each level. Where the format is configured to set accessed and dirty flags, it does so by
/// compare-and-exchange after all checks passed; if another party changes an entry meanwhile, the
/// walk is repeated, at most 8 times, and then refused as
/// [contended](crate::Reason::Contended).
pub trait Walker: Format {
    /// The position of the table at `root`, a multiple of 4096: where uncached walks start.
    fn root(&self, root: PhysAddr) -> Position {
        Position::root(root, self.root_level())
    }

    /// Translates `iova` for `access` with the tables at `root`, as a unit does for a request.
    ///
    /// # Errors
    /// [`WalkFault`] with the entry that refused and why.
    #[inline]
    fn translate<M: TableMemory + ?Sized>(
        &self,
        memory: &M,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<Translation, WalkFault> {
        let request = Request::new(iova, access);
        engine::translate(self, &Direct(memory), self.root(root), request)
    }

    /// The same as [`translate`](Self::translate), from a position that a paging-structure cache
    /// holds for this address. What fails from there is repeated from `root`, so a fault never
    /// rests on what was cached.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    #[inline]
    fn translate_from<M: TableMemory + ?Sized>(
        &self,
        memory: &M,
        cached: Position,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<Translation, WalkFault> {
        let request = Request::new(iova, access);
        engine::translate(self, &Direct(memory), cached, request)
            .or_else(|_| engine::translate(self, &Direct(memory), self.root(root), request))
    }

    /// The same as [`translate`](Self::translate), with a record of the entries visited, which
    /// costs more than the translation.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    fn walk<M: TableMemory + ?Sized>(
        &self,
        memory: &M,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<Walk, WalkFault> {
        let request = Request::new(iova, access);
        engine::walk(self, &Direct(memory), self.root(root), request)
    }

    /// The same as [`walk`](Self::walk), but sets no flags.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    fn probe<M: TableMemory + ?Sized>(
        &self,
        memory: &M,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<Walk, WalkFault> {
        let request = Request::probe(iova, access);
        engine::walk(self, &Direct(memory), self.root(root), request)
    }

    /// The same as [`translate_from`](Self::translate_from), with a record of the entries
    /// visited: those below the position, or if the walk was repeated, all.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    fn walk_from<M: TableMemory + ?Sized>(
        &self,
        memory: &M,
        cached: Position,
        root: PhysAddr,
        iova: Iova,
        access: Access,
    ) -> Result<Walk, WalkFault> {
        let request = Request::new(iova, access);
        engine::walk(self, &Direct(memory), cached, request)
            .or_else(|_| engine::walk(self, &Direct(memory), self.root(root), request))
    }

    /// The positions that a successful walk (not a probe) of `iova` from `start` passed, the topmost first:
    /// what a paging-structure cache may hold for all addresses that share the bits above
    /// [`Position::reach`].
    fn positions<'a>(
        &'a self,
        start: Position,
        iova: Iova,
        visited: &'a Visited,
    ) -> impl Iterator<Item = Position> + 'a {
        engine::positions(self, start, iova.0, visited)
    }
}

impl<F: Format> Walker for F {}
