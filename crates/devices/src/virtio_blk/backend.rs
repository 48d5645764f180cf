//! Where a disk's bytes live.

use std::io;

/// A disk's bytes. All calls may block, may come from several threads at once, and stay within
/// [`len`](Self::len); offsets and lengths are in bytes, multiples of 512.
pub trait BlockBackend: Send + Sync {
    /// The size in bytes; constant.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `data` from `offset`.
    ///
    /// # Errors
    /// The host's.
    fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// The host's.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes every write that completed survive a loss of power.
    ///
    /// # Errors
    /// The host's.
    fn flush(&self) -> io::Result<()>;

    /// Says that the contents of a range are not needed any more. May do nothing.
    ///
    /// # Errors
    /// The host's.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Fills a range with zeroes; with `unmap` it may also free it.
    ///
    /// # Errors
    /// The host's.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
}
