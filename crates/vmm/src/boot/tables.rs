//! The boot CPU's descriptor and page tables.

use kvm_bindings::kvm_segment;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, GDT, PAGE_TABLES};

/// Code segment selector, as Linux's boot protocol demands.
pub const CODE_SELECTOR: u16 = 0x10;
/// Data segment selector, as Linux's boot protocol demands.
pub const DATA_SELECTOR: u16 = 0x18;
/// Task segment selector.
const TASK_SELECTOR: u16 = 0x20;

/// Descriptor of a flat, readable 64-bit code segment.
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
/// Descriptor of a flat, readable 32-bit code segment.
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
/// Descriptor of a flat, writable data segment.
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// Descriptor of a busy task segment at 0, a size that VM entry accepts.
const TASK: u64 = 0x0000_8b00_0000_0067;

/// Whether the code segment is for 64-bit or for 32-bit mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeSize {
    /// Protected mode.
    Bits32,
    /// Long mode.
    Bits64,
}

/// A descriptor table, and what the segment registers cache of it.
pub struct Segments {
    /// The code segment.
    pub code: kvm_segment,
    /// The segment of DS, ES, FS, GS and SS.
    pub data: kvm_segment,
    /// The task register.
    pub task: kvm_segment,
    /// Limit of the table, in bytes less one.
    pub limit: u16,
}

/// Writes the descriptor table to [`GDT`].
pub fn write_gdt(memory: &GuestMemoryMmap, size: CodeSize) -> Result<Segments, BootError> {
    let code = match size {
        CodeSize::Bits32 => CODE_32,
        CodeSize::Bits64 => CODE_64,
    };
    // The last entry is the upper half of a 64-bit task descriptor.
    let table = [0, 0, code, DATA, TASK, 0];
    let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    write(memory, "the descriptor table", GDT, &bytes)?;
    Ok(Segments {
        code: segment(code, CODE_SELECTOR),
        data: segment(DATA, DATA_SELECTOR),
        task: segment(TASK, TASK_SELECTOR),
        limit: (bytes.len() - 1) as u16,
    })
}

/// What a segment register holds after it was loaded with `descriptor` (Intel SDM 3A, 3.4.5).
fn segment(descriptor: u64, selector: u16) -> kvm_segment {
    let bit = |at: u32| (descriptor >> at & 1) as u8;
    let granular = bit(55);
    let raw_limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    kvm_segment {
        base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
        limit: if granular == 1 {
            raw_limit << 12 | 0xfff
        } else {
            raw_limit
        },
        selector,
        type_: (descriptor >> 40 & 0xf) as u8,
        present: bit(47),
        dpl: (descriptor >> 45 & 3) as u8,
        db: bit(54),
        s: bit(44),
        l: bit(53),
        g: granular,
        avl: bit(52),
        unusable: 0,
        padding: 0,
    }
}

/// Maps the low 4 GiB to themselves with 2 MiB pages, and returns the level 4 table's address.
pub fn write_identity_map(memory: &GuestMemoryMmap) -> Result<GuestAddress, BootError> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    const TABLE: u64 = 0x1000;
    const GIBIBYTES: u64 = 4;

    let level4 = PAGE_TABLES.0;
    let level3 = level4 + TABLE;
    let level2 = level3 + TABLE;
    let mut entries = vec![0; (TABLE / 8 * (2 + GIBIBYTES)) as usize];
    entries[0] = level3 | PRESENT_WRITABLE;
    for gib in 0..GIBIBYTES {
        entries[512 + gib as usize] = (level2 + gib * TABLE) | PRESENT_WRITABLE;
    }
    for (page, entry) in entries[1024..].iter_mut().enumerate() {
        *entry = (page as u64) << 21 | LARGE | PRESENT_WRITABLE;
    }
    let bytes: Vec<u8> = entries
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    write(memory, "the page tables", PAGE_TABLES, &bytes)?;
    Ok(PAGE_TABLES)
}

fn write(
    memory: &GuestMemoryMmap,
    what: &'static str,
    address: GuestAddress,
    bytes: &[u8],
) -> Result<(), BootError> {
    memory
        .write_slice(bytes, address)
        .map_err(|source| BootError::NoMemory {
            what,
            address,
            source,
        })
}
