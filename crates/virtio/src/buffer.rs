//! Scattered buffers, and positions in them.

use thiserror::Error;
use vm_iommu_dma::{DmaHandle, Partial};
use vm_iommu_spec::Iova;

/// Why bytes could not be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BufferError {
    /// The buffer has fewer bytes left.
    #[error("{wanted} bytes wanted, {left} left in the buffer")]
    Short {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes there were.
        left: u64,
    },
    /// The DMA was refused.
    #[error(transparent)]
    Dma(Partial),
}

/// The readable, or the writable, part of a request: pieces of the device's address space in
/// order, none empty, none passing the end of the address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buffer {
    pieces: Vec<(Iova, u32)>,
    len: u64,
}

impl Buffer {
    pub(crate) fn push(&mut self, address: Iova, len: u32) {
        self.pieces.push((address, len));
        // At most 32768 pieces of 32 bits each.
        self.len += u64::from(len);
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many pieces it has.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// A position at its start.
    #[must_use]
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor {
            pieces: &self.pieces,
            offset: 0,
            left: self.len,
        }
    }

    /// Splits off the last byte: where many device types want their status. `None` if empty.
    #[must_use]
    pub fn split_last(&self) -> Option<(Cursor<'_>, Iova)> {
        let &(address, len) = self.pieces.last()?;
        let mut rest = self.cursor();
        rest.left -= 1;
        Some((rest, address.last_byte(len.into())?))
    }
}

/// A position in a [`Buffer`], and how far it may go.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    pieces: &'a [(Iova, u32)],
    /// Bytes of the first piece that are behind the position.
    offset: u32,
    left: u64,
}

impl Cursor<'_> {
    /// Bytes ahead.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Reads the next `data.len()` bytes.
    ///
    /// # Errors
    /// See [`BufferError`]; of a short buffer nothing is read. After a fault the position is at
    /// the piece that faulted.
    pub fn read(&mut self, dma: &DmaHandle, data: &mut [u8]) -> Result<(), BufferError> {
        self.each(data.len(), |address, from, to| {
            dma.read(address, &mut data[from..to])
        })
    }

    /// Writes `data`.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write(&mut self, dma: &DmaHandle, data: &[u8]) -> Result<(), BufferError> {
        self.each(data.len(), |address, from, to| {
            dma.write(address, &data[from..to])
        })
    }

    fn each(
        &mut self,
        len: usize,
        mut transfer: impl FnMut(Iova, usize, usize) -> Result<(), Partial>,
    ) -> Result<(), BufferError> {
        if self.left < len as u64 {
            return Err(BufferError::Short {
                wanted: len,
                left: self.left,
            });
        }
        let mut done = 0;
        while let (true, Some((&(start, piece), rest))) = (done < len, self.pieces.split_first()) {
            let count = (len - done).min((piece - self.offset) as usize);
            // Within the piece, which does not wrap.
            let address = Iova(start.0 + u64::from(self.offset));
            transfer(address, done, done + count).map_err(BufferError::Dma)?;
            done += count;
            self.left -= count as u64;
            self.offset += count as u32;
            if self.offset == piece {
                self.offset = 0;
                self.pieces = rest;
            }
        }
        Ok(())
    }
}
