//! One of the two that are compared: a machine with RAM, a remapping unit's registers and a
//! device whose DMA the unit remaps.

use crate::qtest::QtestError;

/// A machine, driven from outside. Physical addresses are bytes from 0, registers are offsets in
/// bytes from the unit's base.
///
/// The device has a buffer of [`SLOTS`] words of 64 bits; each of its transfers moves one of
/// them. The buffer itself is read and written only while the unit does not translate.
pub trait Side {
    /// Stores a word in RAM.
    ///
    /// # Errors
    /// Only QEMU has any: the connection to it failed. The same holds for the other methods.
    fn store(&mut self, address: u64, word: u64) -> Result<(), QtestError>;

    /// Loads a word from RAM.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn load(&mut self, address: u64) -> Result<u64, QtestError>;

    /// Loads several words from RAM.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn load_all(&mut self, addresses: &[u64]) -> Result<Vec<u64>, QtestError>;

    /// Fills `length` bytes of RAM with zeros.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn clear(&mut self, address: u64, length: u64) -> Result<(), QtestError>;

    /// Reads a register of 32 bits.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn read32(&mut self, register: u16) -> Result<u32, QtestError>;

    /// Reads a register of 64 bits.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn read64(&mut self, register: u16) -> Result<u64, QtestError>;

    /// Reads two registers of 64 bits, one after the other.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn read128(&mut self, register: u16) -> Result<[u64; 2], QtestError>;

    /// Writes a register of 32 bits.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn write32(&mut self, register: u16, value: u32) -> Result<(), QtestError>;

    /// Writes a register of 64 bits.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn write64(&mut self, register: u16, value: u64) -> Result<(), QtestError>;

    /// Has the device read the word at `iova` into a slot; 0 arrives if nothing answers.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn dma_read(&mut self, iova: u64, slot: u16) -> Result<(), QtestError>;

    /// Has the device write a slot's word to `iova`.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn dma_write(&mut self, iova: u64, slot: u16) -> Result<(), QtestError>;

    /// Sets all slots.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn set_slots(&mut self, words: &[u64; SLOTS]) -> Result<(), QtestError>;

    /// The words in all slots.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn slots(&mut self) -> Result<[u64; SLOTS], QtestError>;

    /// Gives the unit time to do what it was told.
    ///
    /// # Errors
    /// See [`store`](Self::store).
    fn settle(&mut self) -> Result<(), QtestError>;
}

/// The number of words in the device's buffer.
pub const SLOTS: usize = 64;

/// The source id of the device: 00:03.0.
pub const SOURCE: u16 = 3 << 3;

/// Where both machines have RAM, and what it is used for.
pub mod layout {
    use std::ops::Range;

    /// Size of RAM in bytes, from 0. What a PC has between 640 KiB and 1 MiB is not used.
    pub const RAM: u64 = 2 << 30;
    /// Everything that the unit reads: tables, queue, status.
    pub const STRUCTURES: Range<u64> = 0x10_0000..0x14_0000;
    /// The root table.
    pub const ROOT: u64 = 0x10_0000;
    /// The context table of bus 0.
    pub const CONTEXTS: u64 = 0x10_1000;
    /// The invalidation queue, one page.
    pub const QUEUE: u64 = 0x10_2000;
    /// Where waits of the queue write their status.
    pub const STATUS: u64 = 0x10_3000;
    /// Through here the device's buffer is read and written.
    pub const BOUNCE: u64 = 0x15_0000;
    /// Second-stage tables.
    pub const TABLES: Range<u64> = 0x11_0000..0x13_0000;
    /// What pages may be mapped to.
    pub const DATA: Range<u64> = 0x20_0000..RAM;
}
