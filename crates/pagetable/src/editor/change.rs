//! Unmapping, changing permissions and reading dirty flags.

use core::sync::atomic::{AtomicU64, Ordering};

use vm_iommu_spec::{Access, Iova, PhysAddr};

use super::{Edit, EditError, EditFailure, Editable, Editor, Invalidation, Slot, TablePages};
use crate::TableMemory;
use crate::engine::{entry_address, entry_reach, table_reach};

impl<F: Editable> Editor<F> {
    /// Unmaps what is mapped of a range; the rest of it may be unmapped already. Pages that reach
    /// beyond the range are split, for which tables may be needed.
    ///
    /// # Errors
    /// [`EditError`]; then all is still mapped, unless the tables themselves are not accessible.
    pub fn unmap<M, P>(
        &mut self,
        memory: &M,
        pages: &mut P,
        iova: Iova,
        length: u64,
    ) -> Result<Invalidation, EditFailure>
    where
        M: TableMemory + ?Sized,
        P: TablePages + ?Sized,
    {
        let last = self.last(iova, length)?;
        let mut edit = self.edit(memory);
        let level = self.format.root_level();
        let outcome = edit
            .split_edges(pages, self.root.0, level, iova.0, last.0)
            .and_then(|()| edit.unmap(self.root.0, level, iova.0, last.0));
        edit.finish(outcome, iova, last)
    }

    /// Gives all pages in a range other permissions; what is not mapped stays so. Pages that
    /// reach beyond the range are split, for which tables may be needed.
    ///
    /// # Errors
    /// [`EditError`]; then nothing has changed, unless the tables themselves are not accessible.
    pub fn protect<M, P>(
        &mut self,
        memory: &M,
        pages: &mut P,
        iova: Iova,
        length: u64,
        permissions: Access,
    ) -> Result<Invalidation, EditFailure>
    where
        M: TableMemory + ?Sized,
        P: TablePages + ?Sized,
    {
        let last = self.last(iova, length)?;
        self.check_permissions(permissions)?;
        let mut edit = self.edit(memory);
        let level = self.format.root_level();
        let outcome = edit
            .split_edges(pages, self.root.0, level, iova.0, last.0)
            .and_then(|()| {
                edit.each_page(self.root.0, level, iova.0, last.0, &mut |edit, page| {
                    let change = |entry| edit.format.with_permissions(entry, permissions);
                    if change(page.entry) != page.entry {
                        edit.update(page.place, page.entry, change)?;
                        edit.invalidation.bytes += page.last - page.first + 1;
                        edit.invalidation.removes = true;
                    }
                    Ok(())
                })
            });
        edit.finish(outcome, iova, last)
    }

    /// Calls `dirty` with the first address and the size in bytes of each page in a range that
    /// was written, and clears their dirty flags if `clear`. A page that reaches beyond the range
    /// is reported whole.
    ///
    /// # Errors
    /// [`EditError`], if the range is none or the tables are not accessible.
    pub fn read_dirty<M>(
        &mut self,
        memory: &M,
        iova: Iova,
        length: u64,
        clear: bool,
        mut dirty: impl FnMut(Iova, u64),
    ) -> Result<Invalidation, EditFailure>
    where
        M: TableMemory + ?Sized,
    {
        let last = self.last(iova, length)?;
        let mut edit = self.edit(memory);
        let level = self.format.root_level();
        let flag = self.format.dirty();
        let mut reported = None;
        let outcome = edit.each_page(self.root.0, level, iova.0, last.0, &mut |edit, page| {
            let size = 1 << page.shift;
            let start = Iova(page.first).align_down(size);
            if reported == Some(start) {
                return Ok(());
            }
            reported = Some(start);
            // The hardware marks any one of the entries that a page takes.
            let entries = 1u64 << (page.shift - entry_reach(page.level));
            let places = (0..entries).map(|slot| (page.place & !(entries * 8 - 1)) + slot * 8);
            let mut written = false;
            for place in places {
                let entry = edit.load(place)?;
                if entry & flag == 0 {
                    continue;
                }
                written = true;
                if clear {
                    edit.update(place, entry, |entry| entry & !flag)?;
                    edit.invalidation.removes = true;
                }
            }
            if written {
                dirty(start, size);
                if clear {
                    edit.invalidation.bytes = edit.invalidation.bytes.saturating_add(size);
                    let last = start.last_byte(size).unwrap_or(Iova(u64::MAX));
                    edit.invalidation.cover(start, last);
                }
            }
            Ok(())
        });
        edit.finish(outcome, iova, last)
    }
}

/// One entry that maps a page or a part of one, within the range that is visited.
pub(super) struct PageSlot {
    pub(super) place: u64,
    pub(super) entry: u64,
    pub(super) level: u8,
    /// Base-2 logarithm of the page's size.
    pub(super) shift: u8,
    /// The first address in the range that the entry translates.
    pub(super) first: u64,
    /// The last one.
    pub(super) last: u64,
}

impl<F: Editable, M: TableMemory + ?Sized> Edit<'_, F, M> {
    fn finish(
        mut self,
        outcome: Result<(), EditError>,
        first: Iova,
        last: Iova,
    ) -> Result<Invalidation, EditFailure> {
        if self.invalidation.removes || self.invalidation.tables {
            self.invalidation.cover(first, last);
        }
        match outcome {
            Ok(()) => Ok(self.invalidation),
            Err(error) => Err(EditFailure {
                error,
                invalidation: self.invalidation,
            }),
        }
    }

    /// Clears all entries for `first..=last`, at whose edges no page is cut.
    fn unmap(&mut self, table: u64, level: u8, first: u64, last: u64) -> Result<(), EditError> {
        if level == 1 {
            return self.unmap_lowest(table, first, last);
        }
        let reach = entry_reach(level);
        let span = (1u64 << reach) - 1;
        let mut iova = first;
        loop {
            let end = (iova | span).min(last);
            let place = entry_address(table, level, iova);
            let entry = self.load(place)?;
            if entry != 0 {
                match self.slot(place, level, entry, iova)? {
                    Slot::Vacant => {}
                    Slot::Page { .. } => {
                        self.store(place, 0)?;
                        self.invalidation.bytes += end - iova + 1;
                        self.invalidation.removes = true;
                    }
                    Slot::Table {
                        address,
                        level: below,
                    } => {
                        if iova & span == 0 && end & span == span {
                            self.store(place, 0)?;
                            let bytes = self.mapped_bytes(address, below, iova)?;
                            self.invalidation.bytes += bytes;
                            self.invalidation.removes |= bytes != 0;
                            self.retire(address, below, iova)?;
                        } else {
                            self.unmap(address, below, iova, end)?;
                        }
                    }
                }
            }
            match end {
                end if end >= last => return Ok(()),
                end => iova = end + 1,
            }
        }
    }

    /// Clears the entries of a table of level 1.
    fn unmap_lowest(&mut self, table: u64, first: u64, last: u64) -> Result<(), EditError> {
        let start = entry_address(0, 1, first) / 8;
        let count = ((last - first) >> 12) + 1;
        let mut pages = 0;
        let format = &self.format;
        let lent = self.memory.with_table(PhysAddr(table), &mut |words| {
            let mut cleared = 0;
            for word in words.iter().skip(start as usize).take(count as usize) {
                if format.is_present(word.load(Ordering::Acquire)) {
                    word.store(0, Ordering::Release);
                    cleared += 1;
                }
            }
            pages = cleared;
        });
        if !lent {
            for place in (start..start + count).map(|index| table + index * 8) {
                let entry = self.load(place)?;
                if self.format.is_present(entry) {
                    self.store(place, 0)?;
                    pages += 1;
                }
            }
        }
        self.invalidation.bytes += pages * 4096;
        self.invalidation.removes |= pages != 0;
        Ok(())
    }

    /// Calls `visit` for each entry that maps pages in `first..=last`.
    pub(super) fn each_page(
        &mut self,
        table: u64,
        level: u8,
        first: u64,
        last: u64,
        visit: &mut dyn FnMut(&mut Self, PageSlot) -> Result<(), EditError>,
    ) -> Result<(), EditError> {
        let span = (1u64 << entry_reach(level)) - 1;
        let mut iova = first;
        loop {
            let end = (iova | span).min(last);
            let place = entry_address(table, level, iova);
            let entry = self.load(place)?;
            match self.slot(place, level, entry, iova)? {
                Slot::Vacant => {}
                Slot::Page { shift, .. } => {
                    visit(
                        self,
                        PageSlot {
                            place,
                            entry,
                            level,
                            shift,
                            first: iova,
                            last: end,
                        },
                    )?;
                }
                Slot::Table { address, level } => {
                    self.each_page(address, level, iova, end, visit)?;
                }
            }
            match end {
                end if end >= last => return Ok(()),
                end => iova = end + 1,
            }
        }
    }

    /// How many bytes a table maps; `iova` is any address that it translates.
    pub(super) fn mapped_bytes(
        &mut self,
        table: u64,
        level: u8,
        iova: u64,
    ) -> Result<u64, EditError> {
        let mut bytes = 0u64;
        if level == 1 {
            let format = &self.format;
            let lent = self.memory.with_table(PhysAddr(table), &mut |words| {
                let present = |word: &&AtomicU64| format.is_present(word.load(Ordering::Acquire));
                bytes = words.iter().filter(present).count() as u64 * 4096;
            });
            if lent {
                return Ok(bytes);
            }
        }
        let (first, _) = table_range(level, iova);
        for index in 0..512 {
            let place = table + index * 8;
            let iova = first.wrapping_add(index << entry_reach(level));
            let entry = self.load(place)?;
            bytes = bytes.saturating_add(match self.slot(place, level, entry, iova)? {
                Slot::Vacant => 0,
                Slot::Page { .. } => 1 << entry_reach(level),
                Slot::Table { address, level } => self.mapped_bytes(address, level, iova)?,
            });
        }
        Ok(bytes)
    }

    /// Retires a table that no entry points to any more, and the tables below it.
    pub(super) fn retire(&mut self, table: u64, level: u8, iova: u64) -> Result<(), EditError> {
        self.invalidation.tables = true;
        self.invalidation.retired.push(PhysAddr(table));
        if level == 1 {
            return Ok(());
        }
        let (first, _) = table_range(level, iova);
        for index in 0..512 {
            let place = table + index * 8;
            let iova = first.wrapping_add(index << entry_reach(level));
            let entry = self.load(place)?;
            if let Slot::Table { address, level } = self.slot(place, level, entry, iova)? {
                self.retire(address, level, iova)?;
            }
        }
        Ok(())
    }
}

/// The first and the last address that the table translates which translates `iova`.
fn table_range(level: u8, iova: u64) -> (u64, u64) {
    let span = 1u64
        .checked_shl(table_reach(level).into())
        .unwrap_or(0)
        .wrapping_sub(1);
    (iova & !span, iova | span)
}
