//! Registers as words with masks.

use serde::Serialize;
use thiserror::Error;

/// One register: where it is, and what a write does to each of its bits. Bits in no mask are
/// read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// The specification's name.
    pub name: &'static str,
    /// Offset in bytes from the start of the window; a multiple of the size.
    pub offset: u16,
    /// Size in bytes, 4 or 8.
    pub size: u8,
    /// Value after reset.
    pub reset: u64,
    /// Bits that take the value written.
    pub read_write: u64,
    /// Bits that are cleared where a 1 is written.
    pub write_1_to_clear: u64,
    /// Bits that are commands: they always read as 0, and what is written goes to the unit.
    pub command: u64,
}

/// An access that no register answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IgnoredAccess {
    /// Neither 4 nor 8 bytes long, or not aligned to its length.
    #[error("access of {len} bytes at {offset:#x} is not an aligned word")]
    Misaligned {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: usize,
    },
    /// 8 bytes over two registers of 4.
    #[error("access of 8 bytes at {offset:#x} spans two registers")]
    Straddling {
        /// Offset in bytes.
        offset: u64,
    },
    /// No register is there.
    #[error("no register at {offset:#x}")]
    NoRegister {
        /// Offset in bytes.
        offset: u64,
    },
}

/// A write that took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// The offset of the register.
    pub register: u16,
    /// What was written to the command bits; 0 elsewhere.
    pub command: u64,
    /// The bits that the access covered.
    pub touched: u64,
}

/// A register that holds something, for inspection.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct InspectedRegister {
    /// The specification's name.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: u16,
    /// Value.
    pub value: u64,
}

/// The registers of a unit.
#[derive(Clone, Debug)]
pub struct RegisterFile {
    registers: Vec<Register>,
    values: Vec<u64>,
    /// For each 4 bytes of the window, the index of the register there.
    places: Vec<Option<u16>>,
}

impl RegisterFile {
    /// The file of `registers`, none of which overlap, in a window of `size` bytes; at their
    /// reset values.
    pub fn new(registers: Vec<Register>, size: u64) -> Self {
        let mut places = vec![None; (size / 4) as usize];
        for (index, register) in registers.iter().enumerate() {
            let first = usize::from(register.offset / 4);
            places[first..][..usize::from(register.size / 4)].fill(Some(index as u16));
        }
        let values = registers.iter().map(|register| register.reset).collect();
        Self {
            registers,
            values,
            places,
        }
    }

    /// The declarations.
    pub fn registers(&self) -> &[Register] {
        &self.registers
    }

    /// Every register that is not 0, in the order of the offsets.
    pub fn inspect(&self) -> Vec<InspectedRegister> {
        let mut found: Vec<_> = self
            .registers
            .iter()
            .map(|register| InspectedRegister {
                name: register.name,
                offset: register.offset,
                value: self.get(register.offset),
            })
            .filter(|register| register.value != 0)
            .collect();
        found.sort_by_key(|register| register.offset);
        found
    }

    /// The value of the register that begins at `offset`; 0 if there is none.
    pub fn get(&self, offset: u16) -> u64 {
        match self.at(u64::from(offset)) {
            Some(index) => self.values[index],
            None => 0,
        }
    }

    /// Sets the register that begins at `offset`, past all masks.
    pub fn set(&mut self, offset: u16, value: u64) {
        if let Some(index) = self.at(u64::from(offset)) {
            self.values[index] = value;
        }
    }

    /// Software's read of `data.len()` bytes.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), IgnoredAccess> {
        let (index, shift) = self.locate(offset, data.len())?;
        let value = self.values[index] & !self.registers[index].command;
        let bytes = (value >> shift).to_le_bytes();
        data.copy_from_slice(&bytes[..data.len()]);
        Ok(())
    }

    /// Software's write. A half of a register leaves the other half alone, whatever its bits do.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<Write, IgnoredAccess> {
        let (index, shift) = self.locate(offset, data.len())?;
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        let written = u64::from_le_bytes(bytes) << shift;
        let touched = u64::MAX >> (64 - 8 * data.len()) << shift;
        let register = &self.registers[index];
        let value = &mut self.values[index];
        let replaced = register.read_write & touched;
        *value = *value & !replaced | written & replaced;
        *value &= !(written & register.write_1_to_clear & touched);
        Ok(Write {
            register: register.offset,
            command: written & register.command,
            touched,
        })
    }

    fn at(&self, offset: u64) -> Option<usize> {
        let place = self.places.get(usize::try_from(offset / 4).ok()?)?;
        place.map(usize::from)
    }

    /// The register that an access hits, and the lowest bit of it that the access covers.
    fn locate(&self, offset: u64, len: usize) -> Result<(usize, u32), IgnoredAccess> {
        if !matches!(len, 4 | 8) || !offset.is_multiple_of(len as u64) {
            return Err(IgnoredAccess::Misaligned { offset, len });
        }
        let index = self
            .at(offset)
            .ok_or(IgnoredAccess::NoRegister { offset })?;
        let register = &self.registers[index];
        if len > usize::from(register.size) {
            return Err(IgnoredAccess::Straddling { offset });
        }
        let shift = 8 * (offset - u64::from(register.offset)) as u32;
        Ok((index, shift))
    }
}
