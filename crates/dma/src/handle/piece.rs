//! Pieces of host memory, as translations yield and copies use them.

use std::ptr::NonNull;

use vm_iommu_spec::{Iova, MSI_WINDOW};
use vm_memory::VolatileSlice;

use crate::{HostRange, IotlbEntry, Translation};

/// Host memory behind the start of a range.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) host: NonNull<u8>,
    pub(crate) len: usize,
}

impl Piece {
    /// Its first `len` bytes, if it has as many.
    pub(crate) fn at_most(self, len: usize) -> Self {
        Self {
            len: self.len.min(len),
            ..self
        }
    }
}

/// An output address in the run of host memory that holds it.
pub(super) struct Output {
    pub(super) run: HostRange,
    pub(super) offset: u64,
}

impl Output {
    /// The largest part of the translated page around `address` that the run holds, and that has
    /// no interrupt address in it.
    pub(super) fn cacheable(&self, address: Iova, translation: &Translation) -> Option<IotlbEntry> {
        (12..=translation.page_shift).rev().find_map(|page_shift| {
            let size = 1_u64 << page_shift;
            let page = address.align_down(size);
            let last = Iova(page.0 | (size - 1));
            if page <= *MSI_WINDOW.end() && last >= *MSI_WINDOW.start() {
                return None;
            }
            let offset = self.offset.checked_sub(address.offset_in(size))?;
            if self.run.len.checked_sub(offset)? < size {
                return None;
            }
            Some(IotlbEntry {
                page,
                page_shift,
                permissions: translation.permissions,
                attributes: translation.attributes,
                // SAFETY: `offset` is within the run.
                host: unsafe { self.run.host.add(offset as usize) },
            })
        })
    }
}

pub(super) fn piece_of(output: &Output) -> Piece {
    Piece {
        // SAFETY: the offset is within the run.
        host: unsafe { output.run.host.add(output.offset as usize) },
        len: (output.run.len - output.offset) as usize,
    }
}

#[inline]
pub(super) fn piece_of_page(entry: &IotlbEntry, address: Iova) -> Piece {
    let offset = address.offset_in(1 << entry.page_shift);
    let rest = (1_u64 << entry.page_shift) - offset;
    Piece {
        // SAFETY: the entry's page is host memory as a whole, and `offset` is within it.
        host: unsafe { entry.host.add(offset as usize) },
        len: rest as usize,
    }
}

/// Copies from guest memory: small ranges word by word, each in one access.
///
/// # Safety
/// `host` must be as many bytes of guest memory as `buffer` has.
#[inline]
pub(super) unsafe fn copy_out(host: NonNull<u8>, buffer: &mut [u8]) {
    if let Ok(word) = <&mut [u8; 8]>::try_from(&mut *buffer)
        && host.cast::<u64>().is_aligned()
    {
        // SAFETY: as the caller promises; the word is aligned.
        *word = unsafe { host.cast::<u64>().read_volatile() }.to_ne_bytes();
    } else if buffer.len() <= size_of::<u64>() {
        // SAFETY: as the caller promises.
        unsafe { VolatileSlice::new(host.as_ptr(), buffer.len()) }.copy_to(buffer);
    } else {
        // SAFETY: as the caller promises; guest memory is never borrowed, so they do not overlap.
        unsafe { host.copy_to_nonoverlapping(NonNull::from(&mut *buffer).cast(), buffer.len()) };
    }
}

/// Copies to guest memory: small ranges word by word, each in one access.
///
/// # Safety
/// `host` must be as many bytes of guest memory as `data` has.
#[inline]
pub(super) unsafe fn copy_in(host: NonNull<u8>, data: &[u8]) {
    if let Ok(word) = <[u8; 8]>::try_from(data)
        && host.cast::<u64>().is_aligned()
    {
        // SAFETY: as the caller promises; the word is aligned.
        unsafe { host.cast::<u64>().write_volatile(u64::from_ne_bytes(word)) };
    } else if data.len() <= size_of::<u64>() {
        // SAFETY: as the caller promises.
        unsafe { VolatileSlice::new(host.as_ptr(), data.len()) }.copy_from(data);
    } else {
        // SAFETY: as in `copy_out`.
        unsafe { host.copy_from_nonoverlapping(NonNull::from(data).cast(), data.len()) };
    }
}
