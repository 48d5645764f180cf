//! Small images of every format, and what tests need to look at guest memory.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::boot::Entry;
use crate::config::{KernelConfig, Module};
use crate::loader::{LoadError, load};

pub const MIB: u64 = 1 << 20;
pub const RSDP: GuestAddress = GuestAddress(0xe_0000);

pub fn memory(mib: u64) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), (mib * MIB) as usize)]).unwrap()
}

pub fn read(memory: &GuestMemoryMmap, address: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    memory
        .read_slice(&mut bytes, GuestAddress(address))
        .unwrap();
    bytes
}

pub fn word(memory: &GuestMemoryMmap, address: u64) -> u32 {
    memory.read_obj(GuestAddress(address)).unwrap()
}

pub fn long(memory: &GuestMemoryMmap, address: u64) -> u64 {
    memory.read_obj(GuestAddress(address)).unwrap()
}

pub fn text(memory: &GuestMemoryMmap, address: u64) -> String {
    let bytes: Vec<u8> = (address..)
        .map(|at| memory.read_obj::<u8>(GuestAddress(at)).unwrap())
        .take_while(|&byte| byte != 0)
        .collect();
    String::from_utf8(bytes).unwrap()
}

/// A folder with a kernel in it.
pub struct Files {
    dir: TempDir,
    pub config: KernelConfig,
}

impl Files {
    pub fn new(kernel: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        fs::write(&path, kernel).unwrap();
        Self {
            dir,
            config: KernelConfig {
                path,
                initrds: Vec::new(),
                cmdline: String::new(),
            },
        }
    }

    pub fn cmdline(mut self, cmdline: &str) -> Self {
        self.config.cmdline = cmdline.to_owned();
        self
    }

    pub fn module(mut self, content: &[u8], cmdline: &str) -> Self {
        let name = format!("module{}", self.config.initrds.len());
        let path = self.path(&name);
        fs::write(&path, content).unwrap();
        self.config.initrds.push(Module {
            path,
            cmdline: cmdline.to_owned(),
        });
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(self.dir.path()).join(name)
    }

    pub fn load(&self, memory: &GuestMemoryMmap) -> Result<Entry, LoadError> {
        load(memory, &self.config, RSDP)
    }

    /// The message of the error that loading gives.
    pub fn complaint(&self, memory: &GuestMemoryMmap) -> String {
        let error = self.load(memory).unwrap_err().to_string();
        let (_, message) = error.split_once("kernel: ").unwrap_or(("", &error));
        message.to_owned()
    }
}

/// Overwrites `bytes` at `at`.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A bzImage: one setup sector, protocol 2.15, and a kernel of 0x1000 bytes `0xc3`.
pub fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 0x400];
    put(&mut image, 0x1f1, &[1]);
    put(&mut image, 0x1fe, &0xaa55u16.to_le_bytes());
    put(&mut image, 0x200, &[0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020fu16.to_le_bytes());
    // LOADED_HIGH and CAN_USE_HEAP.
    put(&mut image, 0x211, &[0x81]);
    put(&mut image, 0x214, &0x10_0000u32.to_le_bytes());
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut image, 0x234, &[1]);
    put(&mut image, 0x236, &0x7fu16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut image, 0x260, &0x40_0000u32.to_le_bytes());
    image.extend([0xc3; 0x1000]);
    image
}

/// A segment for the ELF builders: type, file offset, virtual and physical address, sizes.
pub type Segment = (u32, u64, u64, u64, u64, u64);

/// A 64-bit ELF with these program headers and `content` at 0x1000.
pub fn elf64(entry: u64, segments: &[Segment], content: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 64];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &2u16.to_le_bytes());
    put(&mut image, 18, &62u16.to_le_bytes());
    put(&mut image, 24, &entry.to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &56u16.to_le_bytes());
    put(&mut image, 56, &(segments.len() as u16).to_le_bytes());
    for &(kind, offset, virt, phys, file_size, memory_size) in segments {
        image.extend(kind.to_le_bytes());
        image.extend(5u32.to_le_bytes());
        for field in [offset, virt, phys, file_size, memory_size, 4] {
            image.extend(field.to_le_bytes());
        }
    }
    image.resize(0x1000, 0);
    image.extend(content);
    image
}

/// A 32-bit ELF with these program headers and `content` at 0x1000.
pub fn elf32(entry: u32, segments: &[Segment], content: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 52];
    put(&mut image, 0, b"\x7fELF\x01\x01\x01");
    put(&mut image, 16, &2u16.to_le_bytes());
    put(&mut image, 18, &3u16.to_le_bytes());
    put(&mut image, 24, &entry.to_le_bytes());
    put(&mut image, 28, &52u32.to_le_bytes());
    put(&mut image, 42, &32u16.to_le_bytes());
    put(&mut image, 44, &(segments.len() as u16).to_le_bytes());
    for &(kind, offset, virt, phys, file_size, memory_size) in segments {
        for field in [
            kind.into(),
            offset,
            virt,
            phys,
            file_size,
            memory_size,
            5,
            4,
        ] {
            image.extend((field as u32).to_le_bytes());
        }
    }
    image.resize(0x1000, 0);
    image.extend(content);
    image
}

/// A note segment's content: Xen's entry point note.
pub fn pvh_note(entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    for field in [4u32, 4, 18] {
        note.extend(field.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(entry.to_le_bytes());
    note
}

/// A PVH kernel of 0x20 bytes at 2 MiB, 0x3000 in memory, followed by its note.
pub fn pvh() -> Vec<u8> {
    let mut content = vec![0x90; 0x20];
    content.extend(pvh_note(0x20_0010));
    elf64(
        0xffff_ffff_8020_0000,
        &[
            (1, 0x1000, 0xffff_ffff_8020_0000, 0x20_0000, 0x20, 0x3000),
            (4, 0x1020, 0, 0, 20, 20),
        ],
        &content,
    )
}

/// A multiboot header with these flags, and the addresses if there are any.
pub fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    let mut header = Vec::new();
    for field in [magic, flags, 0u32.wrapping_sub(magic).wrapping_sub(flags)] {
        header.extend(field.to_le_bytes());
    }
    for field in addresses {
        header.extend(field.to_le_bytes());
    }
    header
}

/// A multiboot kernel at 4 MiB: its header, then 0x20 bytes of code; 0x5000 bytes in memory.
pub fn multiboot() -> Vec<u8> {
    let mut content = multiboot_header(0, &[]);
    content.extend([0x90; 0x20]);
    elf32(
        0x40_000c,
        &[(1, 0x1000, 0x40_0000, 0x40_0000, 0x2c, 0x5000)],
        &content,
    )
}
