//! Mapping.

use core::sync::atomic::Ordering;

use vm_iommu_spec::{Access, Iova, PhysAddr};

use super::{Edit, EditError, EditFailure, Editable, Editor, Invalidation, Mapping};
use super::{Slot, TablePages};
use crate::engine::{entry_address, entry_reach};
use crate::{AttributeFlags, TableMemory};

/// How far a mapping has come.
struct Run<'a> {
    mapping: &'a Mapping,
    /// The next address to map.
    iova: u64,
    /// What it translates to.
    output: u64,
    /// The last address to map.
    last: u64,
    done: bool,
}

impl Run<'_> {
    /// Base-2 logarithm of the largest of the page sizes `shifts` that fits here; `None` if none
    /// does.
    #[inline]
    fn page_shift(&self, shifts: u64) -> Option<u8> {
        let aligned = (self.iova | self.output).trailing_zeros();
        let remaining = (self.last - self.iova).saturating_add(1).ilog2();
        let limit = aligned
            .min(remaining)
            .min(self.mapping.max_page_shift.into())
            .min(63);
        let fitting = shifts & (u64::MAX >> (63 - limit));
        fitting.checked_ilog2().map(|shift| shift as u8)
    }

    #[inline]
    fn advance(&mut self, size: u64) {
        match self.iova.checked_add(size) {
            Some(next) if next <= self.last => {
                self.iova = next;
                // A last page may end on the last byte of the output space.
                self.output = self.output.wrapping_add(size);
            }
            _ => self.done = true,
        }
    }
}

impl<F: Editable> Editor<F> {
    /// Maps a range with the largest pages that fit. All of it must be unmapped before.
    ///
    /// # Errors
    /// [`EditError`]; then nothing of the range is mapped.
    pub fn map<M, P>(
        &mut self,
        memory: &M,
        pages: &mut P,
        mapping: &Mapping,
    ) -> Result<Invalidation, EditFailure>
    where
        M: TableMemory + ?Sized,
        P: TablePages + ?Sized,
    {
        let &Mapping {
            iova,
            output,
            length,
            permissions,
            ..
        } = mapping;
        let last = self.last(iova, length)?;
        let output_last = output.last_byte(length).filter(|_| output.is_aligned(4096));
        if output_last.is_none_or(|last| last.0 >> self.format.output_width() != 0) {
            return Err(EditError::Output { output, length }.into());
        }
        self.check_permissions(permissions)?;
        if mapping.max_page_shift < 12 {
            return Err(EditError::Misaligned { iova, length }.into());
        }
        let mut run = Run {
            mapping,
            iova: iova.0,
            output: output.0,
            last: last.0,
            done: false,
        };
        let mut edit = self.edit(memory);
        let outcome = edit.map(pages, self.root.0, self.format.root_level(), &mut run);
        let mut invalidation = edit.invalidation;
        match outcome {
            Ok(()) => {
                invalidation.bytes = length;
                invalidation.cover(iova, last);
                Ok(invalidation)
            }
            Err(error) => {
                let mapped = run.iova - iova.0;
                if mapped != 0 {
                    match self.unmap(memory, pages, iova, mapped) {
                        Ok(undone) => invalidation.merge(undone),
                        Err(failure) => invalidation.merge(failure.invalidation),
                    }
                }
                Err(EditFailure {
                    error,
                    invalidation,
                })
            }
        }
    }

    /// Whether the format can express exactly `permissions` in a page's entry.
    pub(super) fn check_permissions(&self, permissions: Access) -> Result<(), EditError> {
        let mut mapping = Mapping::new(Iova(0), PhysAddr(0), 4096, permissions);
        mapping.attributes.flags = AttributeFlags::USER;
        let entry = self.format.page_entry(1, 12, 0, &mapping);
        let present = self.format.decode(1, entry, 0).is_ok();
        let data = Access::READ | Access::WRITE;
        let known = (data | Access::EXECUTE).contains(permissions);
        let expressed = self.format.permissions(entry ^ F::DENIALS, permissions);
        let exact =
            expressed.contains(permissions) && (expressed - permissions) & data == Access::empty();
        if present && known && exact {
            Ok(())
        } else {
            Err(EditError::Permissions { permissions })
        }
    }
}

impl<F: Editable, M: TableMemory + ?Sized> Edit<'_, F, M> {
    /// Maps as much of `run` as the table translates.
    fn map<P: TablePages + ?Sized>(
        &mut self,
        pages: &mut P,
        table: u64,
        level: u8,
        run: &mut Run<'_>,
    ) -> Result<(), EditError> {
        let shifts = self.format.page_shifts(level);
        if level == 1 && shifts & ((2 << run.mapping.max_page_shift.min(62)) - 1) == 1 << 12 {
            let moved = self.map_smallest(table, run);
            if run.done || moved && entry_address(0, level, run.iova) == 0 {
                return Ok(());
            }
        }
        loop {
            let place = entry_address(table, level, run.iova);
            match run.page_shift(shifts) {
                Some(shift) if self.map_page(place, level, shift, run)? => {
                    run.advance(1 << shift);
                }
                _ => {
                    let (below, below_level) = self.table_below(pages, place, level, run.iova)?;
                    self.map(pages, below, below_level, run)?;
                }
            }
            // The next entry is the first of another table if all index bits are zero.
            if run.done || entry_address(0, level, run.iova) == 0 {
                return Ok(());
            }
        }
    }

    /// Maps pages of 4096 bytes as far as entries are vacant, if the memory lends the table.
    /// Yields whether it mapped any.
    fn map_smallest(&mut self, table: u64, run: &mut Run<'_>) -> bool {
        let first = entry_address(0, 1, run.iova) as usize / 8;
        let count = ((run.last - run.iova) >> 12)
            .saturating_add(1)
            .min(512 - first as u64);
        let first_entry = self.format.page_entry(1, 12, run.output, run.mapping);
        let mut mapped = 0;
        self.memory.with_table(PhysAddr(table), &mut |words| {
            let (mut entry, mut bytes) = (first_entry, 0);
            for word in words.iter().skip(first).take(count as usize) {
                if word.load(Ordering::Acquire) != 0 {
                    break;
                }
                word.store(entry, Ordering::Release);
                // The address field counts pages.
                entry = entry.wrapping_add(4096);
                bytes += 4096;
            }
            mapped = bytes;
        });
        if mapped != 0 {
            run.advance(mapped);
        }
        mapped != 0
    }

    /// Writes a page's entries, unless a table that is in use takes their place.
    #[inline]
    fn map_page(
        &mut self,
        place: u64,
        level: u8,
        shift: u8,
        run: &Run<'_>,
    ) -> Result<bool, EditError> {
        let reach = entry_reach(level);
        let count = 1u64 << (shift - reach);
        let entry = self
            .format
            .page_entry(level, shift, run.output, run.mapping);
        for slot in 0..count {
            let place = place + slot * 8;
            let found = self.load(place)?;
            if found != 0 && !self.vacate(place, level, found, run.iova + (slot << reach))? {
                return Ok(false);
            }
        }
        for slot in 0..count {
            self.store(place + slot * 8, entry)?;
        }
        Ok(true)
    }

    /// Makes an entry vacant that maps nothing; `false` if it leads to a table in use.
    #[cold]
    fn vacate(&mut self, place: u64, level: u8, entry: u64, iova: u64) -> Result<bool, EditError> {
        match self.slot(place, level, entry, iova)? {
            Slot::Vacant => Ok(true),
            Slot::Page { .. } => Err(EditError::AlreadyMapped { iova: Iova(iova) }),
            Slot::Table {
                address,
                level: below,
            } => {
                if self.mapped_bytes(address, below, iova)? != 0 {
                    return Ok(false);
                }
                self.store(place, 0)?;
                self.retire(address, below, iova)?;
                Ok(true)
            }
        }
    }

    /// The table that an entry points to, made if there is none.
    fn table_below<P: TablePages + ?Sized>(
        &mut self,
        pages: &mut P,
        place: u64,
        level: u8,
        iova: u64,
    ) -> Result<(u64, u8), EditError> {
        let entry = self.load(place)?;
        match self.slot(place, level, entry, iova)? {
            Slot::Table { address, level } => Ok((address, level)),
            Slot::Page { .. } => Err(EditError::AlreadyMapped { iova: Iova(iova) }),
            // Level 1 has only pages; its slots are never asked for a table.
            Slot::Vacant if level == 1 => Err(EditError::OutOfTables),
            Slot::Vacant => {
                let table = pages.allocate_table().ok_or(EditError::OutOfTables)?;
                let entry = self.format.table_entry(table.0, level - 1);
                if let Err(error) = self.store(place, entry) {
                    pages.free_table(table);
                    return Err(error);
                }
                Ok((table.0, level - 1))
            }
        }
    }
}
