//! The ACPI tables of the machine, hardware-reduced (ACPI 6.5, 3.11.1): no PM timer, no fixed
//! events, no 8259; power-off and reset through the FADT's registers.

mod dsdt;
mod error;
mod tables;
#[cfg(test)]
mod tests;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub use error::AcpiError;

use crate::layout;

/// Where the tables begin; the RSDP is the first thing there.
pub const RSDP: GuestAddress = GuestAddress(*layout::ACPI_TABLES.start());

/// The sleep type of S5, soft off, as `\_S5` names it: what a guest writes to the sleep control
/// register's `SLP_TYP` field to switch the machine off.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// `SLP_EN` of the sleep control register (ACPI 6.5, 4.8.3.7): the write puts the machine to
/// sleep.
pub const SLEEP_ENABLE: u8 = 1 << 5;

/// Whether a value written to the sleep control register switches the machine off.
#[must_use]
pub fn is_power_off(sleep_control: u8) -> bool {
    sleep_control & SLEEP_ENABLE != 0 && (sleep_control >> 2 & 7) == SLEEP_TYPE_OFF
}

const OEM_ID: [u8; 6] = *b"VMIOMU";
const OEM_TABLE_ID: [u8; 8] = *b"VMIOMMU ";
const OEM_REVISION: u32 = 1;

/// Size of the header that all tables but the RSDP have (ACPI 6.5, 5.2.6).
const HEADER: usize = 36;
/// Tables begin at multiples of this.
const ALIGNMENT: u64 = 16;

/// What the tables depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcpiConfig {
    /// Number of CPUs; their APIC ids are 0 and up.
    pub cpus: u16,
    /// Complete tables of others, listed with the machine's own: a remapping unit's DMAR.
    pub extra: Vec<Vec<u8>>,
}

/// Writes all tables to [`layout::ACPI_TABLES`] and returns the RSDP's address, [`RSDP`].
///
/// # Errors
///
/// A foreign table is malformed, or the tables do not fit.
pub fn write_tables(
    memory: &GuestMemoryMmap,
    config: &AcpiConfig,
) -> Result<GuestAddress, AcpiError> {
    let mut area = Area {
        memory,
        next: RSDP.0,
    };
    let rsdp = area.reserve(Rsdp::len())?;
    let dsdt = area.write(&dsdt::build(config.cpus))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(area.write_table(&tables::fadt(dsdt))?);
    xsdt.add_entry(area.write_table(&tables::madt(config.cpus))?);
    xsdt.add_entry(area.write_table(&tables::mcfg())?);
    for table in &config.extra {
        check_table(table)?;
        xsdt.add_entry(area.write(table)?);
    }
    let xsdt = area.write_table(&xsdt)?;
    area.put(rsdp, &bytes_of(&Rsdp::new(OEM_ID, xsdt)))?;
    Ok(GuestAddress(rsdp))
}

/// The part of guest memory that the tables fill from the bottom up.
struct Area<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Area<'_> {
    fn reserve(&mut self, size: usize) -> Result<u64, AcpiError> {
        let start = self.next;
        let room = *layout::ACPI_TABLES.end() + 1 - start;
        if size as u64 > room {
            return Err(AcpiError::NoRoom { size, room });
        }
        self.next = (start + size as u64).next_multiple_of(ALIGNMENT);
        Ok(start)
    }

    fn write_table(&mut self, table: &dyn Aml) -> Result<u64, AcpiError> {
        self.write(&bytes_of(table))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<u64, AcpiError> {
        let start = self.reserve(bytes.len())?;
        self.put(start, bytes)?;
        Ok(start)
    }

    fn put(&self, start: u64, bytes: &[u8]) -> Result<(), AcpiError> {
        let address = GuestAddress(start);
        self.memory
            .write_slice(bytes, address)
            .map_err(|source| AcpiError::Memory { address, source })
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A foreign table must say its own length and sum up to 0, or guests ignore it without a word.
fn check_table(table: &[u8]) -> Result<(), AcpiError> {
    let Some((header, _)) = table.split_first_chunk::<HEADER>() else {
        return Err(AcpiError::TableTooShort { given: table.len() });
    };
    let [s0, s1, s2, s3, l0, l1, l2, l3, ..] = *header;
    let signature = [s0, s1, s2, s3];
    let stated = u32::from_le_bytes([l0, l1, l2, l3]);
    if stated as usize != table.len() {
        return Err(AcpiError::TableLength {
            signature: String::from_utf8_lossy(&signature).into_owned(),
            stated,
            given: table.len(),
        });
    }
    let sum = table.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    if sum != 0 {
        return Err(AcpiError::TableChecksum {
            signature: String::from_utf8_lossy(&signature).into_owned(),
            sum,
        });
    }
    Ok(())
}
