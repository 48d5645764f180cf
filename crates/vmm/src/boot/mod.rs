//! The state in which the first CPU meets a kernel: what is in its registers, and the tables in
//! guest memory that these registers point to.
//!
//! Everything here is a plain function over guest memory; the machine applies the result to its
//! boot CPU.

mod cpu;
mod error;
mod memory_map;
mod tables;
#[cfg(test)]
mod tests;

use vm_memory::GuestAddress;

pub use cpu::{BOOT_MSRS, CpuState, initial_state};
pub use error::BootError;
pub use memory_map::{MapEntry, MapKind, low_ram_end, memory_map};

/// How a kernel wants to be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Linux's 64-bit entry: long mode, the low 4 GiB mapped to themselves, RSI pointing to the
    /// boot parameters.
    Linux64,
    /// PVH: 32-bit protected mode without paging, EBX pointing to the start info.
    Pvh,
    /// Multiboot 1: 32-bit protected mode without paging, EBX pointing to the boot information,
    /// EAX holding the loader's magic.
    Multiboot,
}

/// A loaded kernel's way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The state that the kernel expects.
    pub protocol: Protocol,
    /// The first instruction.
    pub start: GuestAddress,
    /// What the kernel is told about the machine, in its protocol's format.
    pub info: GuestAddress,
}

/// The global descriptor table that the boot CPU starts with, one page at most.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// First address past [`GDT`]'s page; a kernel may be loaded from here on.
pub const GDT_END: GuestAddress = GuestAddress(0x1000);
/// PVH start information, its module list and memory map.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x1000);
/// Linux's boot parameters ("zero page"), 4 KiB.
pub const BOOT_PARAMS: GuestAddress = GuestAddress(0x7000);
/// Page tables of the Linux 64-bit entry: a level 4 table, a level 3 table, four level 2 tables.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// Command lines, up to [`CMDLINE_END`].
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// First address past the command lines.
pub const CMDLINE_END: GuestAddress = GuestAddress(0x4_0000);
/// End of the RAM below the legacy hole; the rest up to 640 KiB is where firmware keeps its data.
pub const CONVENTIONAL_END: GuestAddress = GuestAddress(0x9_fc00);
/// Where RAM goes on above the legacy hole.
pub const EXTENDED_START: GuestAddress = GuestAddress(0x10_0000);
