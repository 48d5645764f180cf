//! The boot CPU's registers.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::tables::{self, CodeSize, Segments};
use super::{BootError, Entry, GDT, Protocol};

/// Model-specific registers that firmware would have set, as (index, value), on every CPU: all
/// memory is write-back unless the page tables say otherwise (MTRRs on, no ranges), and fast
/// string operations are on.
pub const BOOT_MSRS: &[(u32, u64)] = &[(0x2ff, 1 << 11 | 6), (0x1a0, 1)];

/// Value in EAX that tells a multiboot kernel its loader (Multiboot 0.6.96, 3.2).
const MULTIBOOT_LOADER_MAGIC: u64 = 0x2bad_b002;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_FIXED: u64 = 1 << 1;

/// Registers of the boot CPU at its first instruction.
pub struct CpuState {
    regs: kvm_regs,
    segments: Segments,
    mode: Mode,
}

/// The processor mode of a protocol's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Protected mode without paging.
    Protected,
    /// Long mode with this level 4 table.
    Long(GuestAddress),
}

/// Writes the tables that `entry`'s protocol needs to guest memory, and says what the boot CPU's
/// registers must hold.
///
/// # Errors
///
/// There is no RAM where the tables go.
pub fn initial_state(memory: &GuestMemoryMmap, entry: &Entry) -> Result<CpuState, BootError> {
    let mut regs = kvm_regs {
        rip: entry.start.0,
        rflags: RFLAGS_FIXED,
        ..kvm_regs::default()
    };
    let (size, mode) = match entry.protocol {
        Protocol::Linux64 => {
            regs.rsi = entry.info.0;
            let level4 = tables::write_identity_map(memory)?;
            (CodeSize::Bits64, Mode::Long(level4))
        }
        Protocol::Pvh => {
            regs.rbx = entry.info.0;
            (CodeSize::Bits32, Mode::Protected)
        }
        Protocol::Multiboot => {
            regs.rax = MULTIBOOT_LOADER_MAGIC;
            regs.rbx = entry.info.0;
            (CodeSize::Bits32, Mode::Protected)
        }
    };
    Ok(CpuState {
        regs,
        segments: tables::write_gdt(memory, size)?,
        mode,
    })
}

impl CpuState {
    /// The general registers, for `KVM_SET_REGS`.
    #[must_use]
    pub fn regs(&self) -> kvm_regs {
        self.regs
    }

    /// The special registers, for `KVM_SET_SREGS`, given those of a CPU after reset (from
    /// `KVM_GET_SREGS`), whose APIC base and interrupt table are kept.
    #[must_use]
    pub fn sregs(&self, reset: kvm_sregs) -> kvm_sregs {
        let data: kvm_segment = self.segments.data;
        let mut sregs = kvm_sregs {
            cs: self.segments.code,
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: self.segments.task,
            cr0: CR0_PE | CR0_ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
            ..reset
        };
        sregs.gdt.base = GDT.0;
        sregs.gdt.limit = self.segments.limit;
        if let Mode::Long(level4) = self.mode {
            sregs.cr0 |= CR0_PG;
            sregs.cr3 = level4.0;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
        }
        sregs
    }
}
