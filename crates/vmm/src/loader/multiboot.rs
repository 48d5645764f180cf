//! Multiboot 1 (specification 0.6.96): 32-bit ELF kernels, and flat ones that give their
//! addresses in the header.

use std::io::{Read, SeekFrom};

use vm_memory::{Bytes, GuestAddress};

use super::elf::{self, Class};
use super::error::Trouble;
use super::place::{PAGE, c_string, page_up, write};
use super::{Image, ImageError, Modules, Request};
use crate::boot::{self, CONVENTIONAL_END, EXTENDED_START, Entry, GDT_END, MapEntry, Protocol};

/// How much of the file's beginning the header is searched in (3.1).
pub(super) const SEARCH: usize = 8192;
/// The longest command line of a kernel or a module, in bytes.
const LONGEST_CMDLINE: usize = 0x1_0000;

const MAGIC: u32 = 0x1bad_b002;
/// Header flags that a loader must know or refuse (3.1.1).
const MANDATORY: u32 = 0xffff;
/// The known ones of these: page-aligned modules, memory information. Both are always given.
const KNOWN: u32 = 0b11;
/// Header flag: the addresses are valid and go before an ELF's (3.1.1).
const HAS_ADDRESSES: u32 = 1 << 16;

/// What a header says (3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Where in the file the header is.
    offset: usize,
    flags: u32,
    /// Where to load the file, if the header says so.
    pub addresses: Option<Addresses>,
}

/// The address fields of a header (3.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    header: u32,
    load: u32,
    load_end: u32,
    bss_end: u32,
    entry: u32,
}

impl Header {
    /// Finds the header in a file's beginning.
    pub fn find(head: &[u8]) -> Option<Self> {
        let head = &head[..head.len().min(SEARCH)];
        let word = |at: usize| {
            let bytes = head.get(at..)?.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*bytes))
        };
        (0..head.len()).step_by(4).find_map(|offset| {
            let (magic, flags, checksum) = (word(offset)?, word(offset + 4)?, word(offset + 8)?);
            if magic != MAGIC || magic.wrapping_add(flags).wrapping_add(checksum) != 0 {
                return None;
            }
            let addresses = if flags & HAS_ADDRESSES == 0 {
                None
            } else {
                Some(Addresses {
                    header: word(offset + 12)?,
                    load: word(offset + 16)?,
                    load_end: word(offset + 20)?,
                    bss_end: word(offset + 24)?,
                    entry: word(offset + 28)?,
                })
            };
            Some(Self {
                offset,
                flags,
                addresses,
            })
        })
    }
}

/// A part of the file and the memory that it takes.
struct Part {
    offset: u64,
    start: u64,
    file_size: u64,
    end: u64,
}

/// Loads the kernel where it wants to be, behind it the boot information, and behind that the
/// modules, each on a page.
pub fn load(
    request: &Request<'_>,
    image: &mut impl Image,
    modules: &mut Modules<'_>,
) -> Result<Entry, Trouble> {
    let memory = request.memory;
    let ram_end = boot::low_ram_end(memory).0;
    let (parts, entry) = parts(image)?;
    let mut kernel_end = EXTENDED_START.0;
    for part in &parts {
        check_place(part, ram_end)?;
        image
            .seek(SeekFrom::Start(part.offset))
            .map_err(ImageError::Read)?;
        memory
            .read_exact_volatile_from(GuestAddress(part.start), image, part.file_size as usize)
            .map_err(|source| ImageError::Memory {
                what: "the kernel",
                address: GuestAddress(part.start),
                source,
            })?;
        kernel_end = kernel_end.max(part.end);
    }
    if !parts
        .iter()
        .any(|part| (part.start..part.end).contains(&entry))
    {
        return Err(ImageError::Field {
            field: "entry point",
            value: entry,
        }
        .into());
    }
    let info = write_information(request, modules, kernel_end, ram_end)?;
    Ok(Entry {
        protocol: Protocol::Multiboot,
        start: GuestAddress(entry),
        info,
    })
}

/// What to load, and the entry point.
fn parts(image: &mut impl Image) -> Result<(Vec<Part>, u64), ImageError> {
    let mut head = Vec::new();
    image.seek(SeekFrom::Start(0)).map_err(ImageError::Read)?;
    image
        .by_ref()
        .take(SEARCH as u64)
        .read_to_end(&mut head)
        .map_err(ImageError::Read)?;
    let header = Header::find(&head).ok_or(ImageError::NoMultibootHeader)?;
    let flags = header.flags & MANDATORY;
    if flags & !KNOWN != 0 {
        return Err(ImageError::MultibootFlags {
            flags,
            known: KNOWN,
        });
    }
    if let Some(addresses) = header.addresses {
        let file_size = image.seek(SeekFrom::End(0)).map_err(ImageError::Read)?;
        let part = flat_part(header.offset as u64, &addresses, file_size)?;
        return Ok((vec![part], addresses.entry.into()));
    }
    let elf = elf::read(image, Class::Elf32)?;
    let parts = elf
        .segments
        .iter()
        .map(|segment| Part {
            offset: segment.offset,
            start: segment.phys,
            file_size: segment.file_size,
            end: segment.end(),
        })
        .collect();
    Ok((parts, elf.physical_entry()))
}

/// The one part of a file that gives its addresses in the header, which is at `offset`.
fn flat_part(offset: u64, addresses: &Addresses, file_size: u64) -> Result<Part, ImageError> {
    let field = |field, value: u32| ImageError::Field {
        field,
        value: value.into(),
    };
    let before_header = addresses
        .header
        .checked_sub(addresses.load)
        .ok_or_else(|| field("load_addr", addresses.load))?;
    let start = offset
        .checked_sub(before_header.into())
        .ok_or_else(|| field("header_addr", addresses.header))?;
    // `start` is at or before the header, which is in the file.
    let rest = file_size.saturating_sub(start);
    let size = match addresses.load_end {
        0 => rest,
        end => u64::from(
            end.checked_sub(addresses.load)
                .ok_or_else(|| field("load_end_addr", end))?,
        ),
    };
    if size > rest {
        return Err(ImageError::Truncated { what: "the kernel" });
    }
    let load_end = u64::from(addresses.load) + size;
    let end = match addresses.bss_end {
        0 => load_end,
        end if u64::from(end) < load_end => return Err(field("bss_end_addr", end)),
        end => end.into(),
    };
    Ok(Part {
        offset: start,
        start: addresses.load.into(),
        file_size: size,
        end,
    })
}

/// A part may be in conventional memory, past the boot CPU's tables, or above 1 MiB.
fn check_place(part: &Part, ram_end: u64) -> Result<(), ImageError> {
    let low = part.start >= GDT_END.0 && part.end <= CONVENTIONAL_END.0;
    let high = part.start >= EXTENDED_START.0 && part.end <= ram_end;
    if low || high {
        return Ok(());
    }
    Err(ImageError::OutsideRam {
        start: part.start,
        end: part.end,
        least: EXTENDED_START.0,
        most: ram_end,
    })
}

/// Size of the boot information without what it points to, rounded up (3.3).
const INFORMATION: usize = 0x80;
/// Size of an entry of the module list.
const MODULE: usize = 16;
/// Flags: memory sizes, command line, modules, memory map, loader's name (3.3).
const GIVEN: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;

/// Writes the boot information and its lists to the page after the kernel, and the modules behind
/// it; returns the information's address.
fn write_information(
    request: &Request<'_>,
    modules: &mut Modules<'_>,
    kernel_end: u64,
    ram_end: u64,
) -> Result<GuestAddress, Trouble> {
    let memory = request.memory;
    let strings: Vec<Vec<u8>> = modules
        .iter()
        .map(|module| command(&module.path.to_string_lossy(), module.cmdline))
        .collect::<Result<_, _>>()?;
    let cmdline = command(&request.name, request.cmdline)?;
    let loader = b"vm-iommu\0";
    let map = memory_map(&boot::memory_map(memory));

    let map_at = INFORMATION;
    let modules_at = map_at + map.len();
    let loader_at = modules_at + modules.len() * MODULE;
    let cmdline_at = loader_at + loader.len();
    let strings_at = cmdline_at + cmdline.len();
    let size = strings_at + strings.iter().map(Vec::len).sum::<usize>();
    let no_room = || ImageError::NoRoom {
        what: "the boot information",
        size: size as u64,
    };
    let base = page_up(kernel_end).ok_or_else(no_room)?;
    let mut free = base
        .checked_add(size as u64)
        .filter(|&end| end <= ram_end)
        .ok_or_else(no_room)?;
    // All of it is below `ram_end`, which is below 4 GiB.
    let address = |offset: usize| base as u32 + offset as u32;

    let mut list = Vec::with_capacity(modules.len() * MODULE);
    let mut string_at = strings_at;
    for (module, string) in modules.iter_mut().zip(&strings) {
        let start = page_up(free).ok_or_else(|| module.no_room(ram_end))?;
        let end = start
            .checked_add(module.size)
            .filter(|&end| end <= ram_end)
            .ok_or_else(|| module.no_room(ram_end))?;
        module.copy(memory, GuestAddress(start))?;
        for word in [start as u32, end as u32, address(string_at), 0] {
            list.extend(word.to_le_bytes());
        }
        string_at += string.len();
        // An empty module takes a page too, so that no two modules have one address.
        free = end.max(start + PAGE);
    }

    let mut bytes = vec![0; INFORMATION];
    let mut put = |at: usize, word: u32| bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    put(0, GIVEN);
    put(4, (CONVENTIONAL_END.0 / 1024) as u32);
    put(8, (ram_end.saturating_sub(EXTENDED_START.0) / 1024) as u32);
    put(16, address(cmdline_at));
    put(20, modules.len() as u32);
    put(24, address(modules_at));
    put(44, map.len() as u32);
    put(48, address(map_at));
    put(64, address(loader_at));
    bytes.extend(map);
    bytes.extend(list);
    bytes.extend(loader);
    bytes.extend(cmdline);
    bytes.extend(strings.concat());
    write(memory, "the boot information", GuestAddress(base), &bytes)?;
    Ok(GuestAddress(base))
}

/// A program's path and its arguments, as a kernel expects its command line.
fn command(path: &str, arguments: &str) -> Result<Vec<u8>, ImageError> {
    if arguments.is_empty() {
        c_string(path, LONGEST_CMDLINE)
    } else {
        c_string(&format!("{path} {arguments}"), LONGEST_CMDLINE)
    }
}

/// The memory map in multiboot's form: each entry behind its own size (3.3).
fn memory_map(map: &[MapEntry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in map {
        bytes.extend(20u32.to_le_bytes());
        bytes.extend(entry.start.0.to_le_bytes());
        bytes.extend(entry.size.to_le_bytes());
        bytes.extend((entry.kind as u32).to_le_bytes());
    }
    bytes
}
