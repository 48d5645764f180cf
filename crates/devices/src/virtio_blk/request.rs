//! Requests (virtio 1.2, section 5.2.6).

use std::io;
use std::sync::atomic::Ordering;

use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_iommu_dma::DmaHandle;
use vm_iommu_virtio::{BufferError, Chain, Cursor};

use super::{
    BlockBackend, ID_BYTES, MAX_DATA, MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS,
    MAX_WRITE_ZEROES_SECTORS, SECTOR, VirtioBlk,
};

/// The length of the header: type, reserved, sector.
const HEADER: usize = 16;
/// The length of a range to discard or to zero: sector, number of sectors, flags.
const RANGE: usize = 16;

/// Why a request failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A type, or a flag of a range, that the device does not offer.
    #[error("request type {kind} with flags {flags:#x} is not supported")]
    Unsupported {
        /// The type.
        kind: u32,
        /// The flags of the range, 0 where there are none.
        flags: u32,
    },
    /// The disk is read-only.
    #[error("request type {kind} would write to a read-only disk")]
    ReadOnly {
        /// The type.
        kind: u32,
    },
    /// The sectors are not on the disk.
    #[error("{sectors} sectors from {sector} are not on the disk")]
    OutOfRange {
        /// The first one.
        sector: u64,
        /// How many.
        sectors: u64,
    },
    /// The data is not whole sectors or whole ranges, none at all, or more than was offered; or
    /// it lies in a buffer of the wrong direction.
    #[error("{bytes} bytes of data do not fit request type {kind}")]
    Length {
        /// The type.
        kind: u32,
        /// Bytes of data in the chain.
        bytes: u64,
    },
    /// The guest's buffer could not be accessed.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// The host failed.
    #[error("the disk's backend failed: {0}")]
    Backend(#[from] io::Error),
}

impl RequestError {
    fn status(&self) -> u32 {
        match self {
            Self::Unsupported { .. } => VIRTIO_BLK_S_UNSUPP,
            _ => VIRTIO_BLK_S_IOERR,
        }
    }
}

impl VirtioBlk {
    /// Serves one request; the bytes written to the guest's buffer, from its start.
    pub(super) fn request(&self, dma: &DmaHandle, chain: &Chain, bounce: &mut [u8]) -> u32 {
        let Some((mut input, status_at)) = chain.writable.split_last() else {
            self.log
                .warn(format_args!("a request without a status byte"));
            return 0;
        };
        let room = input.left();
        let status = match self.execute(dma, chain.readable.cursor(), &mut input, bounce) {
            Ok(()) => VIRTIO_BLK_S_OK,
            Err(error) => {
                self.log.warn(format_args!("request failed: {error}"));
                error.status()
            }
        };
        let told = match dma.write(status_at, &[status as u8]) {
            Ok(()) => true,
            Err(error) => {
                self.log.warn(format_args!("no status: {error}"));
                false
            }
        };
        // The status counts only if nothing before it was left unwritten.
        let data = room - input.left();
        let written = data + u64::from(told && input.left() == 0);
        u32::try_from(written).unwrap_or(u32::MAX)
    }

    fn execute(
        &self,
        dma: &DmaHandle,
        mut output: Cursor<'_>,
        input: &mut Cursor<'_>,
        bounce: &mut [u8],
    ) -> Result<(), RequestError> {
        let mut header = [0; HEADER];
        output.read(dma, &mut header)?;
        let (kind, _reserved, sector) = fields(&header);
        let writes = matches!(
            kind,
            VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
        );
        if self.read_only && writes {
            return Err(RequestError::ReadOnly { kind });
        }
        match kind {
            VIRTIO_BLK_T_IN => {
                let offset = self.data_at(kind, sector, input, &output)?;
                self.read(dma, offset, input, bounce)
            }
            VIRTIO_BLK_T_OUT => {
                let offset = self.data_at(kind, sector, &output, input)?;
                self.write(dma, offset, &mut output, bounce)?;
                self.settle()
            }
            VIRTIO_BLK_T_FLUSH if !self.read_only => Ok(self.backend(dma).flush()?),
            VIRTIO_BLK_T_GET_ID => {
                let len = input.left().min(ID_BYTES as u64) as usize;
                Ok(input.write(dma, &self.id[..len])?)
            }
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
                self.ranges(dma, kind, &mut output)?;
                self.settle()
            }
            _ => Err(RequestError::Unsupported { kind, flags: 0 }),
        }
    }

    /// Where the data of a transfer begins in the backend, once its length is checked: it is in
    /// `data`, and nothing is in `other`, the buffer of the other direction.
    fn data_at(
        &self,
        kind: u32,
        sector: u64,
        data: &Cursor<'_>,
        other: &Cursor<'_>,
    ) -> Result<u64, RequestError> {
        let bytes = data.left();
        if bytes == 0 || bytes > MAX_DATA || !bytes.is_multiple_of(SECTOR) || other.left() > 0 {
            return Err(RequestError::Length { kind, bytes });
        }
        self.offset(sector, bytes / SECTOR)
    }

    /// The byte offset of `sector`, if all `sectors` from there are on the disk.
    fn offset(&self, sector: u64, sectors: u64) -> Result<u64, RequestError> {
        match sector.checked_add(sectors) {
            // Below the backend's length in bytes, so that the product does not overflow.
            Some(end) if end <= self.sectors => Ok(sector * SECTOR),
            _ => Err(RequestError::OutOfRange { sector, sectors }),
        }
    }

    fn read(
        &self,
        dma: &DmaHandle,
        mut offset: u64,
        input: &mut Cursor<'_>,
        bounce: &mut [u8],
    ) -> Result<(), RequestError> {
        while input.left() > 0 {
            let part = first(bounce, input.left());
            self.backend(dma).read_at(offset, part)?;
            input.write(dma, part)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn write(
        &self,
        dma: &DmaHandle,
        mut offset: u64,
        output: &mut Cursor<'_>,
        bounce: &mut [u8],
    ) -> Result<(), RequestError> {
        while output.left() > 0 {
            let part = first(bounce, output.left());
            output.read(dma, part)?;
            self.backend(dma).write_at(offset, part)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Discards, or fills with zeroes, the ranges in `output`.
    fn ranges(
        &self,
        dma: &DmaHandle,
        kind: u32,
        output: &mut Cursor<'_>,
    ) -> Result<(), RequestError> {
        let discard = kind == VIRTIO_BLK_T_DISCARD;
        let (max_ranges, max_sectors, known_flags) = if discard {
            (MAX_DISCARD_SEGMENTS, MAX_DISCARD_SECTORS, 0)
        } else {
            let flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
            (1, MAX_WRITE_ZEROES_SECTORS, flags)
        };
        let bytes = output.left();
        let whole = bytes.is_multiple_of(RANGE as u64);
        if bytes == 0 || !whole || bytes > u64::from(max_ranges) * RANGE as u64 {
            return Err(RequestError::Length { kind, bytes });
        }
        // All are checked before any is touched.
        let mut ranges = Vec::with_capacity(max_ranges as usize);
        while output.left() > 0 {
            let mut range = [0; RANGE];
            output.read(dma, &mut range)?;
            let (sector, sectors, flags) = range_fields(&range);
            if flags & !known_flags != 0 {
                return Err(RequestError::Unsupported { kind, flags });
            }
            let offset = self.offset(sector, sectors.into())?;
            if sectors > max_sectors {
                let sectors = sectors.into();
                return Err(RequestError::OutOfRange { sector, sectors });
            }
            ranges.push((offset, u64::from(sectors) * SECTOR, flags));
        }
        for (offset, len, flags) in ranges.into_iter().filter(|&(_, len, _)| len > 0) {
            if discard {
                self.backend(dma).discard(offset, len)?;
            } else {
                let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
                self.backend(dma).write_zeroes(offset, len, unmap)?;
            }
        }
        Ok(())
    }

    /// The backend, which may block: meanwhile no invalidation looks for accesses of this queue.
    fn backend(&self, dma: &DmaHandle) -> &dyn BlockBackend {
        dma.park();
        &*self.backend
    }

    /// Makes what was just written safe, unless the driver asks for that by itself.
    fn settle(&self) -> Result<(), RequestError> {
        if !self.writeback.load(Ordering::Acquire) {
            self.backend.flush()?;
        }
        Ok(())
    }
}

/// The part of `bounce` that the next of `left` bytes fill.
fn first(bounce: &mut [u8], left: u64) -> &mut [u8] {
    let len = left.min(bounce.len() as u64) as usize;
    &mut bounce[..len]
}

/// Two doublewords and a quadword, little-endian.
fn fields(bytes: &[u8; 16]) -> (u32, u32, u64) {
    let all = u128::from_le_bytes(*bytes);
    (all as u32, (all >> 32) as u32, (all >> 64) as u64)
}

/// A quadword and two doublewords, little-endian.
fn range_fields(bytes: &[u8; 16]) -> (u64, u32, u32) {
    let all = u128::from_le_bytes(*bytes);
    (all as u64, (all >> 64) as u32, (all >> 96) as u32)
}
