//! The program in guest memory: where its parts are, and how it is put there and read back.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use thiserror::Error;
use vm_iommu_dma::GuestRam;
use vm_iommu_pagetable::{BadAddress, TableMemory};
use vm_iommu_spec::PhysAddr;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::{Offsets, Operation, State, code_bytes, status};

/// Why a program could not be put into guest memory, or its status not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The program has more operations than there is room for.
    #[error("the program has {operations} operations, but there is room for {room}")]
    TooLong {
        /// How many it has.
        operations: usize,
        /// How many fit.
        room: usize,
    },
    /// The guest has too little memory.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// The guest has too little memory.
    #[error("the guest's memory is too small for the program")]
    Memory(#[from] GuestMemoryError),
}

/// Where the parts of the program are in guest memory: all within [`SIZE`](Self::SIZE) bytes from
/// a start that is a multiple of 4 KiB.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    start: PhysAddr,
}

impl Placement {
    /// Size of the whole in bytes.
    pub const SIZE: u64 = Self::SCRIPT + Self::SCRIPT_SIZE;

    const PAGE: u64 = 0x1000;
    const CODE: u64 = 0;
    const CODE_SIZE: u64 = 4 * Self::PAGE;
    const PML4: u64 = Self::CODE + Self::CODE_SIZE;
    const PDPT: u64 = Self::PML4 + Self::PAGE;
    /// Four page directories: the first 4 GiB, mapped to themselves.
    const DIRECTORIES: u64 = Self::PDPT + Self::PAGE;
    const GDT: u64 = Self::DIRECTORIES + 4 * Self::PAGE;
    const IDT: u64 = Self::GDT + Self::PAGE;
    const STACK: u64 = Self::IDT + Self::PAGE;
    const STATUS: u64 = Self::STACK + Self::PAGE;
    const RESULTS: u64 = Self::STATUS + Self::PAGE;
    const RESULTS_SIZE: u64 = 8 * Self::PAGE;
    const SCRIPT: u64 = Self::RESULTS + Self::RESULTS_SIZE;
    /// Room for as many operations as there is for results.
    const SCRIPT_SIZE: u64 = Self::RESULTS_SIZE / 8 * Operation::SIZE as u64;

    const CODE_SELECTOR: u16 = 0x08;
    const DATA_SELECTOR: u16 = 0x10;

    /// A placement from `start`, rounded down to a multiple of 4 KiB.
    pub const fn new(start: PhysAddr) -> Self {
        Self {
            start: start.align_down(Self::PAGE),
        }
    }

    /// The first byte.
    pub const fn start(&self) -> PhysAddr {
        self.start
    }

    /// The byte after the last.
    pub const fn end(&self) -> PhysAddr {
        self.at(Self::SIZE)
    }

    /// The counter of how often a vector was taken.
    pub const fn counter(&self, vector: u8) -> u64 {
        self.at(Self::STATUS + status::COUNTERS + 8 * vector as u64)
            .0
    }

    /// The registers with which the program starts, in 64-bit mode.
    pub fn registers(&self) -> kvm_regs {
        kvm_regs {
            rip: self.at(Self::CODE).0,
            rflags: 2,
            ..Default::default()
        }
    }

    /// Sets the system registers with which the program starts: 64-bit mode, the first 4 GiB
    /// mapped to themselves. What concerns the APIC is left alone.
    pub fn set_system_registers(&self, sregs: &mut kvm_sregs) {
        let segment = |selector: u16, type_: u8, l: u8, db: u8| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            dpl: 0,
            db,
            s: 1,
            l,
            g: 1,
            ..Default::default()
        };
        sregs.cs = segment(Self::CODE_SELECTOR, 0xb, 1, 0);
        let data = segment(Self::DATA_SELECTOR, 0x3, 0, 1);
        (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
        (sregs.fs, sregs.gs) = (data, data);
        sregs.gdt.base = self.at(Self::GDT).0;
        sregs.gdt.limit = 8 * 3 - 1;
        sregs.cr0 = 1 << 31 | 1 << 5 | 1 << 4 | 1; // PG, NE, ET, PE
        sregs.cr3 = self.at(Self::PML4).0;
        sregs.cr4 = 1 << 5; // PAE
        sregs.efer = 1 << 10 | 1 << 8; // LMA, LME
    }

    const fn at(&self, offset: u64) -> PhysAddr {
        PhysAddr(self.start.0 + offset)
    }
}

/// A program in guest memory.
#[derive(Debug)]
pub struct Image {
    placement: Placement,
    ram: GuestRam,
}

impl Image {
    /// Puts a program at `placement` into `ram`.
    ///
    /// # Errors
    /// [`ImageError`] if it does not fit.
    pub fn load(
        ram: &GuestRam,
        placement: Placement,
        program: impl IntoIterator<Item = Operation>,
    ) -> Result<Self, ImageError> {
        let image = Self {
            placement,
            ram: ram.clone(),
        };
        image.write_tables()?;
        image.write_code()?;
        image.write_script(program)?;
        Ok(image)
    }

    /// What the guest is doing.
    ///
    /// # Errors
    /// [`ImageError::BadAddress`], for which [`load`](Self::load) has left no room.
    pub fn state(&self) -> Result<State, ImageError> {
        let word = |offset| self.ram.load(self.placement.at(Placement::STATUS + offset));
        let index = word(status::INDEX)?;
        Ok(match word(status::STATE)? {
            0 => State::Starting,
            status::FINISHED => State::Finished,
            status::FAILED => State::Failed {
                index,
                value: word(status::LAST_VALUE)?,
            },
            status::EXCEPTION => State::Exception {
                index,
                vector: word(status::VECTOR)?,
                frame: [word(status::FRAME)?, word(status::FRAME + 8)?],
                address: word(status::FAULT_ADDRESS)?,
            },
            _ => State::Running(index),
        })
    }

    /// How often the guest took a vector.
    ///
    /// # Errors
    /// As [`state`](Self::state).
    pub fn taken(&self, vector: u8) -> Result<u64, ImageError> {
        Ok(self.ram.load(PhysAddr(self.placement.counter(vector)))?)
    }

    /// What the [`Operation::Wait`] with this index loaded when its condition was met; 0 before.
    ///
    /// # Errors
    /// As [`state`](Self::state), if the program is not so long.
    pub fn result(&self, index: usize) -> Result<u64, ImageError> {
        let offset = Placement::RESULTS + 8 * index as u64;
        Ok(self.ram.load(self.placement.at(offset))?)
    }

    fn write_tables(&self) -> Result<(), BadAddress> {
        const PRESENT_WRITABLE: u64 = 3;
        const LARGE: u64 = 1 << 7;
        let at = |offset| self.placement.at(offset);
        self.ram.store(
            at(Placement::PML4),
            at(Placement::PDPT).0 | PRESENT_WRITABLE,
        )?;
        for directory in 0..4 {
            let table = at(Placement::DIRECTORIES + directory * Placement::PAGE);
            self.ram.store(
                at(Placement::PDPT + 8 * directory),
                table.0 | PRESENT_WRITABLE,
            )?;
            for entry in 0..512 {
                let page = (directory * 512 + entry) << 21;
                self.ram.store(
                    PhysAddr(table.0 + 8 * entry),
                    page | LARGE | PRESENT_WRITABLE,
                )?;
            }
        }
        // Null, 64-bit code, data.
        for (index, descriptor) in [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
            .into_iter()
            .enumerate()
        {
            self.ram
                .store(at(Placement::GDT + 8 * index as u64), descriptor)?;
        }
        for vector in 0..256 {
            let handler = at(Placement::CODE).0 + Offsets::stubs() + vector * Offsets::STUB_SIZE;
            // A present interrupt gate for ring 0.
            let low = handler & 0xffff
                | u64::from(Placement::CODE_SELECTOR) << 16
                | 0x8e << 40
                | (handler >> 16 & 0xffff) << 48;
            self.ram.store(at(Placement::IDT + 16 * vector), low)?;
            self.ram
                .store(at(Placement::IDT + 16 * vector + 8), handler >> 32)?;
        }
        Ok(())
    }

    fn write_code(&self) -> Result<(), ImageError> {
        let mut code = code_bytes().to_vec();
        let mut fill = |offset: usize, bytes: &[u8]| {
            code[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        let address = |offset| self.placement.at(offset).0.to_le_bytes();
        fill(Offsets::SCRIPT, &address(Placement::SCRIPT));
        fill(Offsets::STATUS, &address(Placement::STATUS));
        fill(Offsets::RESULTS, &address(Placement::RESULTS));
        fill(Offsets::STACK, &address(Placement::STACK + Placement::PAGE));
        fill(Offsets::IDT_LIMIT, &0xfff_u16.to_le_bytes());
        fill(Offsets::IDT_BASE, &address(Placement::IDT));
        let start = GuestAddress(self.placement.at(Placement::CODE).0);
        Ok(self.ram.memory().write_slice(&code, start)?)
    }

    fn write_script(&self, program: impl IntoIterator<Item = Operation>) -> Result<(), ImageError> {
        let room = Placement::SCRIPT_SIZE as usize / Operation::SIZE;
        let program: Vec<_> = program.into_iter().collect();
        if program.len() > room {
            return Err(ImageError::TooLong {
                operations: program.len(),
                room,
            });
        }
        let words = program.iter().flat_map(Operation::encode);
        for (address, word) in (self.placement.at(Placement::SCRIPT).0..)
            .step_by(8)
            .zip(words)
        {
            self.ram.store(PhysAddr(address), word)?;
        }
        Ok(())
    }
}
