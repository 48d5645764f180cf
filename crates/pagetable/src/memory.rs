//! The memory that tables live in.

use core::sync::atomic::AtomicU64;

use thiserror::Error;
use vm_iommu_spec::PhysAddr;

/// An address that is not memory: outside every region, or not aligned to the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no table memory at {0}")]
pub struct BadAddress(pub PhysAddr);

/// Memory that holds tables, queues and status words, as a unit accesses it: naturally aligned
/// 64-bit words in little-endian order, each accessed as one.
///
/// The other side is hostile: any word may change between two loads.
pub trait TableMemory: Send + Sync {
    /// Loads the 64-bit word at `address`, a multiple of 8, with acquire ordering.
    ///
    /// # Errors
    /// [`BadAddress`] if the word is misaligned or not in memory.
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress>;

    /// Stores `new` at `address` if the word there is `old`; yields the word found, as `Ok` if
    /// it was stored and as `Err` if not.
    ///
    /// # Errors
    /// The outer error is [`BadAddress`], if the word is misaligned or not in memory.
    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress>;

    /// Stores `value` at `address`, a multiple of 8, with release ordering.
    ///
    /// # Errors
    /// [`BadAddress`] if the word is misaligned or not in memory.
    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress>;

    /// Stores the 32-bit `value` at `address`, a multiple of 4, with release ordering: the width
    /// of the status words that units write.
    ///
    /// # Errors
    /// [`BadAddress`] if the word is misaligned or not in memory.
    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress>;

    /// Lends the 512 words of the table at `table`, a multiple of 4096, to `access`, if all of it
    /// is in memory and the memory can lend it: for those who store many words of one table.
    /// Whether it did; `false` says nothing more, the words may be accessible one by one.
    fn with_table(&self, table: PhysAddr, access: &mut dyn FnMut(&[AtomicU64; 512])) -> bool {
        let _ = (table, access);
        false
    }
}

impl<M: TableMemory + ?Sized> TableMemory for &M {
    #[inline]
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress> {
        (**self).load(address)
    }

    #[inline]
    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress> {
        (**self).compare_exchange(address, old, new)
    }

    #[inline]
    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress> {
        (**self).store(address, value)
    }

    #[inline]
    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress> {
        (**self).store_u32(address, value)
    }

    #[inline]
    fn with_table(&self, table: PhysAddr, access: &mut dyn FnMut(&[AtomicU64; 512])) -> bool {
        (**self).with_table(table, access)
    }
}
