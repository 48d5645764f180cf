//! 64-bit ELF kernels with a PVH entry (Xen's "x86/HVM direct boot ABI").

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::elf::{self as loader, PvhBootCapability};
use vm_memory::GuestAddress;

use super::elf::{self, Class};
use super::error::Trouble;
use super::place::{c_string, check_range, place_high, write};
use super::{Image, ImageError, Modules, Request};
use crate::boot::{
    self, BOOT_PARAMS, CMDLINE, CMDLINE_END, EXTENDED_START, Entry, PVH_START_INFO, Protocol,
};

/// `hvm_start_info.magic`: "xEn3" with the top bit of the E set.
const MAGIC: u32 = 0x336e_c578;
/// The start info with a memory map.
const VERSION: u32 = 1;

/// Loads the segments where the ELF wants them, the modules as high as they go, and describes
/// both below 1 MiB.
pub fn load(
    request: &Request<'_>,
    image: &mut impl Image,
    modules: &mut Modules<'_>,
) -> Result<Entry, Trouble> {
    let memory = request.memory;
    let ram_end = boot::low_ram_end(memory).0;
    let headers = elf::read(image, Class::Elf64)?;
    let mut kernel_end = 0;
    for segment in &headers.segments {
        check_range(segment.phys, segment.end(), EXTENDED_START.0, ram_end)?;
        kernel_end = segment.end().max(kernel_end);
    }
    let loaded = loader::Elf::load(memory, None, image, None)
        .map_err(|source| ImageError::Loader { source })?;
    let PvhBootCapability::PvhEntryPresent(start) = loaded.pvh_boot_cap else {
        return Err(ImageError::NoPvhNote.into());
    };
    if !headers
        .segments
        .iter()
        .any(|s| (s.phys..s.end()).contains(&start.0))
    {
        return Err(ImageError::Field {
            field: "PVH entry point",
            value: start.0,
        }
        .into());
    }

    let mut strings = Strings::new();
    let cmdline = strings.add(request.cmdline)?;
    let mut list = Vec::with_capacity(modules.len());
    let mut ceiling = ram_end;
    for module in modules.iter_mut() {
        let address =
            place_high(module.size, kernel_end, ceiling).ok_or_else(|| module.no_room(ceiling))?;
        module.copy(memory, GuestAddress(address))?;
        list.push(hvm_modlist_entry {
            paddr: address,
            size: module.size,
            cmdline_paddr: strings.add(module.cmdline)?,
            reserved: 0,
        });
        ceiling = address;
    }
    write(memory, "the command lines", CMDLINE, &strings.bytes)?;
    write_start_info(request, cmdline, &list)?;
    Ok(Entry {
        protocol: Protocol::Pvh,
        start,
        info: PVH_START_INFO,
    })
}

/// Command lines, one after another from [`CMDLINE`].
struct Strings {
    bytes: Vec<u8>,
}

impl Strings {
    fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Adds a text and returns its guest address.
    fn add(&mut self, text: &str) -> Result<u64, ImageError> {
        let all = (CMDLINE_END.0 - CMDLINE.0) as usize;
        let address = CMDLINE.0 + self.bytes.len() as u64;
        let room = all.saturating_sub(self.bytes.len() + 1);
        self.bytes.extend(c_string(text, room)?);
        Ok(address)
    }
}

fn write_start_info(
    request: &Request<'_>,
    cmdline: u64,
    modules: &[hvm_modlist_entry],
) -> Result<(), ImageError> {
    let map: Vec<hvm_memmap_table_entry> = boot::memory_map(request.memory)
        .iter()
        .map(|entry| hvm_memmap_table_entry {
            addr: entry.start.0,
            size: entry.size,
            type_: entry.kind as u32,
            reserved: 0,
        })
        .collect();
    let map_at = PVH_START_INFO.0 + size_of::<hvm_start_info>() as u64;
    let modules_at = map_at + size_of_val(map.as_slice()) as u64;
    let info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        flags: 0,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { modules_at },
        cmdline_paddr: cmdline,
        rsdp_paddr: request.rsdp.0,
        memmap_paddr: map_at,
        memmap_entries: map.len() as u32,
        reserved: 0,
    };
    let mut bytes = Vec::new();
    for word in [info.magic, info.version, info.flags, info.nr_modules] {
        bytes.extend(word.to_le_bytes());
    }
    for long in [
        info.modlist_paddr,
        info.cmdline_paddr,
        info.rsdp_paddr,
        info.memmap_paddr,
        info.memmap_entries.into(),
    ] {
        bytes.extend(long.to_le_bytes());
    }
    for entry in &map {
        for long in [entry.addr, entry.size, entry.type_.into()] {
            bytes.extend(long.to_le_bytes());
        }
    }
    for module in modules {
        for long in [module.paddr, module.size, module.cmdline_paddr, 0] {
            bytes.extend(long.to_le_bytes());
        }
    }
    let room = BOOT_PARAMS.0 - PVH_START_INFO.0;
    if bytes.len() as u64 > room {
        return Err(ImageError::NoRoom {
            what: "the list of modules",
            size: bytes.len() as u64,
        });
    }
    write(
        request.memory,
        "the PVH start information",
        PVH_START_INFO,
        &bytes,
    )
}
