//! Splitting and merging large pages, and growing tables at the top.

use vm_iommu_spec::{Iova, PhysAddr};

use super::{Edit, EditError, EditFailure, Editable, Editor, Invalidation, Slot, TablePages};
use crate::TableMemory;
use crate::engine::{entry_address, entry_reach};

impl<F: Editable> Editor<F> {
    /// Replaces tables in a range whose pages form one larger page by that page, wherever the
    /// format has it. Flags are kept; where the hardware sets dirty flags, the larger page counts
    /// as written.
    ///
    /// # Errors
    /// [`EditFailure`]; what was merged until then stays merged, and is to be invalidated.
    pub fn coalesce<M: TableMemory + ?Sized>(
        &mut self,
        memory: &M,
        iova: Iova,
        length: u64,
    ) -> Result<Invalidation, EditFailure> {
        let last = self.last(iova, length)?;
        let mut edit = self.edit(memory);
        let outcome = edit.coalesce(self.root.0, self.format.root_level(), iova.0, last.0);
        let mut invalidation = edit.invalidation;
        if invalidation.tables {
            invalidation.cover(iova, last);
        }
        match outcome {
            Ok(()) => Ok(invalidation),
            Err(error) => Err(EditFailure {
                error,
                invalidation,
            }),
        }
    }

    /// Puts one more level on top, so that the tables translate 9 bits more. The root changes,
    /// and whatever points to it has to follow; the old root stays in use.
    ///
    /// # Errors
    /// [`EditError::Tallest`] if the format does not allow it, [`EditError::OutOfTables`].
    pub fn grow<M, P>(&mut self, memory: &M, pages: &mut P) -> Result<(), EditError>
    where
        M: TableMemory + ?Sized,
        P: TablePages + ?Sized,
    {
        let taller = self.format.taller().ok_or(EditError::Tallest)?;
        let root = pages.allocate_table().ok_or(EditError::OutOfTables)?;
        let entry = taller.table_entry(self.root.0, self.format.root_level());
        memory
            .store(root, entry)
            .map_err(|_| EditError::TableAccess { address: root })?;
        (self.format, self.root) = (taller, root);
        Ok(())
    }
}

impl<F: Editable, M: TableMemory + ?Sized> Edit<'_, F, M> {
    /// Splits pages until none reaches from outside of `first..=last` into it.
    pub(super) fn split_edges<P: TablePages + ?Sized>(
        &mut self,
        pages: &mut P,
        root: u64,
        level: u8,
        first: u64,
        last: u64,
    ) -> Result<(), EditError> {
        self.split_before(pages, root, level, first)?;
        match last.checked_add(1) {
            // The page that holds `last` must end there; otherwise it holds the next address.
            Some(next) => self.split_after(pages, root, level, last, next),
            None => Ok(()),
        }
    }

    /// Splits until the page that holds `iova` begins there.
    fn split_before<P: TablePages + ?Sized>(
        &mut self,
        pages: &mut P,
        root: u64,
        level: u8,
        iova: u64,
    ) -> Result<(), EditError> {
        self.split_while(pages, root, level, iova, |first, _| first < iova)
    }

    /// Splits until the page that holds `last` ends there, before `next`.
    fn split_after<P: TablePages + ?Sized>(
        &mut self,
        pages: &mut P,
        root: u64,
        level: u8,
        last: u64,
        next: u64,
    ) -> Result<(), EditError> {
        self.split_while(pages, root, level, last, |_, end| end >= next)
    }

    /// Splits the page that holds `iova` as long as `cut` says of its first and last address.
    fn split_while<P: TablePages + ?Sized>(
        &mut self,
        pages: &mut P,
        mut table: u64,
        mut level: u8,
        iova: u64,
        cut: impl Fn(u64, u64) -> bool,
    ) -> Result<(), EditError> {
        loop {
            let place = entry_address(table, level, iova);
            let entry = self.load(place)?;
            match self.slot(place, level, entry, iova)? {
                Slot::Vacant => return Ok(()),
                Slot::Table {
                    address,
                    level: below,
                } => (table, level) = (address, below),
                Slot::Page { address, shift } => {
                    let span = (1u64 << shift) - 1;
                    if !cut(iova & !span, iova | span) {
                        return Ok(());
                    }
                    self.invalidation.removes = true;
                    if shift > entry_reach(level) {
                        self.split_run(table, level, iova, address, shift)?;
                    } else {
                        self.split_page(pages, place, level, entry, address)?;
                    }
                }
            }
        }
    }

    /// Splits a page that takes several entries into one page for each.
    fn split_run(
        &mut self,
        table: u64,
        level: u8,
        iova: u64,
        address: u64,
        shift: u8,
    ) -> Result<(), EditError> {
        let reach = entry_reach(level);
        let first = iova & !((1 << shift) - 1);
        for slot in 0..1u64 << (shift - reach) {
            let offset = slot << reach;
            let place = entry_address(table, level, first + offset);
            let entry = self.load(place)?;
            let format = self.format;
            // A write through a cached translation of the whole page marked one entry only.
            self.update(place, entry, |entry| {
                format.reframe(entry, level, level, reach, address + offset) | format.dirty()
            })?;
        }
        Ok(())
    }

    /// Splits a page that takes one entry into a table of smaller ones.
    fn split_page<P: TablePages + ?Sized>(
        &mut self,
        pages: &mut P,
        place: u64,
        level: u8,
        entry: u64,
        address: u64,
    ) -> Result<(), EditError> {
        // No page of level 1 is cut: all are of 4096 bytes, or take several entries.
        let below = level.checked_sub(1).filter(|&below| below > 0);
        let below = below.ok_or(EditError::Contended {
            address: PhysAddr(place),
        })?;
        let table = pages.allocate_table().ok_or(EditError::OutOfTables)?;
        let pointer = self.format.table_entry(table.0, below);
        let reach = entry_reach(below);
        let mut current = entry;
        for _ in 0..super::MAX_REREADS {
            for index in 0..512 {
                let output = address + (index << reach);
                let small = self.format.reframe(current, level, below, reach, output);
                self.store(table.0 + index * 8, small)?;
            }
            let place = PhysAddr(place);
            match self.memory.compare_exchange(place, current, pointer) {
                Ok(Ok(_)) => {
                    self.invalidation.tables = true;
                    return Ok(());
                }
                // The hardware set a flag; the smaller pages take it over.
                Ok(Err(found)) => current = found,
                Err(_) => break,
            }
        }
        pages.free_table(table);
        Err(EditError::Contended {
            address: PhysAddr(place),
        })
    }

    fn coalesce(&mut self, table: u64, level: u8, first: u64, last: u64) -> Result<(), EditError> {
        let reach = entry_reach(level);
        let span = (1u64 << reach) - 1;
        let mut iova = first;
        loop {
            let end = (iova | span).min(last);
            let place = entry_address(table, level, iova);
            let entry = self.load(place)?;
            if let Slot::Table {
                address,
                level: below,
            } = self.slot(place, level, entry, iova)?
            {
                if below > 1 {
                    self.coalesce(address, below, iova, end)?;
                }
                let has_page = self.format.page_shifts(level) >> reach & 1 != 0;
                if has_page && below + 1 == level {
                    self.merge_table(place, level, entry, address, iova & !span)?;
                }
            }
            match end {
                end if end >= last => return Ok(()),
                end => iova = end + 1,
            }
        }
    }

    /// Replaces the pointer to a table of `level - 1` by a page, if its pages form one.
    fn merge_table(
        &mut self,
        place: u64,
        level: u8,
        pointer: u64,
        table: u64,
        first: u64,
    ) -> Result<(), EditError> {
        let below = level - 1;
        let reach = entry_reach(below);
        let format = self.format;
        let flags = format.flags(true, true);
        let mut merged: Option<(u64, u64)> = None;
        let mut set = 0;
        for index in 0..512 {
            let iova = first.wrapping_add(index << reach);
            let entry = self.load(table + index * 8)?;
            let slot = self.slot(table + index * 8, below, entry, iova)?;
            let Slot::Page { address, shift } = slot else {
                return Ok(());
            };
            let output = address + (iova & ((1 << shift) - 1));
            // The entry without its address and flags.
            let kind = format.reframe(entry & !flags, below, below, reach, 0);
            set |= entry & flags;
            match merged {
                None if output & ((1 << entry_reach(level)) - 1) != 0 => return Ok(()),
                None => merged = Some((kind, output)),
                Some(expected) if expected != (kind, output - (index << reach)) => return Ok(()),
                Some(_) => {}
            }
        }
        let Some((kind, output)) = merged else {
            return Ok(());
        };
        let large = format.reframe(kind, below, level, entry_reach(level), output);
        // A write through the old table may set a dirty flag there after it was read.
        self.update(place, pointer, |_| large | set | format.dirty())?;
        self.invalidation.removes = true;
        self.invalidation.bytes += 1 << entry_reach(level);
        self.retire(table, below, first)
    }
}
