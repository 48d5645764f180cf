//! Linux's bzImage, by the 64-bit boot protocol.

use std::io::SeekFrom;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::bootparam::{boot_params, setup_header};
use linux_loader::loader::bzimage::BzImage;
use vm_memory::{ByteValued, GuestAddress};

use super::error::Trouble;
use super::place::{c_string, check_range, place_high, write};
use super::{Image, ImageError, Modules, Request};
use crate::boot::{
    self, BOOT_PARAMS, CMDLINE, CMDLINE_END, EXTENDED_START, Entry, MapEntry, Protocol,
};

/// Where the setup header is in the file and in the boot parameters.
const HEADER: usize = 0x1f1;
/// The byte of the header's jump instruction that tells the header's end, counted from
/// [`HEADER_END_BASE`].
const HEADER_END: usize = 0x201;
const HEADER_END_BASE: usize = 0x202;
/// The 64-bit entry point, from the start of the protected-mode kernel.
const ENTRY_64: u64 = 0x200;
/// The first boot protocol with `xloadflags`.
const OLDEST: u16 = 0x020c;
/// `xloadflags`: the 64-bit entry is there.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `loadflags`: the kernel is loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1 << 0;
/// `loadflags`: `heap_end_ptr` is valid, which the 64-bit entry has no use for.
const CAN_USE_HEAP: u8 = 1 << 7;
/// `type_of_loader` of a loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// Initramfs archives follow one another at multiples of this.
const ARCHIVE_ALIGNMENT: u64 = 4;

/// Loads the kernel at the address that it prefers, so that it need not move itself, and the
/// modules, one after another, as high as it can reach them.
pub fn load(
    request: &Request<'_>,
    image: &mut impl Image,
    modules: &mut Modules<'_>,
) -> Result<Entry, Trouble> {
    let memory = request.memory;
    let header = read_header(image)?;
    let ram_end = boot::low_ram_end(memory).0;
    let file_size = image.seek(SeekFrom::End(0)).map_err(ImageError::Read)?;
    let start = load_address(&header, file_size, ram_end)?;
    let loaded = BzImage::load(
        memory,
        Some(GuestAddress(start)),
        image,
        Some(EXTENDED_START),
    )
    .map_err(|source| ImageError::Loader { source })?;
    // Before it is unpacked, the kernel needs its memory to be free up to here.
    let kernel_end = loaded.kernel_end.max(start + u64::from(header.init_size));

    let mut params = boot_params {
        acpi_rsdp_addr: request.rsdp.0,
        hdr: loaded.setup_header.unwrap_or(header),
        ..boot_params::default()
    };
    forget_beyond_header(&mut params);
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags &= !CAN_USE_HEAP;

    let room = (CMDLINE_END.0 - CMDLINE.0 - 1).min(u64::from(header.cmdline_size));
    let cmdline = c_string(request.cmdline, room as usize)?;
    write(memory, "the command line", CMDLINE, &cmdline)?;
    params.hdr.cmd_line_ptr = CMDLINE.0 as u32;

    let ceiling = ram_end.min(u64::from(header.initrd_addr_max).saturating_add(1));
    if let Some((address, size)) = copy_initramfs(request, modules, kernel_end, ceiling)? {
        // Below `initrd_addr_max`, so below 4 GiB.
        params.hdr.ramdisk_image = address as u32;
        params.hdr.ramdisk_size = size as u32;
    }

    let map = boot::memory_map(memory);
    params.e820_entries = map.len() as u8;
    for (slot, entry) in params.e820_table.iter_mut().zip(&map) {
        let &MapEntry { start, size, kind } = entry;
        slot.addr = start.0;
        slot.size = size;
        slot.r#type = kind as u32;
    }
    write(
        memory,
        "the boot parameters",
        BOOT_PARAMS,
        params.as_slice(),
    )?;
    Ok(Entry {
        protocol: Protocol::Linux64,
        start: GuestAddress(start + ENTRY_64),
        info: BOOT_PARAMS,
    })
}

/// Reads the setup header and checks that this loader can follow it.
fn read_header(image: &mut impl Image) -> Result<setup_header, ImageError> {
    let truncated = |_| ImageError::Truncated {
        what: "the setup header",
    };
    let mut header = setup_header::default();
    image
        .seek(SeekFrom::Start(HEADER as u64))
        .map_err(ImageError::Read)?;
    image.read_exact(header.as_mut_slice()).map_err(truncated)?;
    let version = header.version;
    if version < OLDEST {
        return Err(ImageError::BootProtocol { version });
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(ImageError::Not64Bit);
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(ImageError::Field {
            field: "loadflags",
            value: header.loadflags.into(),
        });
    }
    Ok(header)
}

/// Where the kernel goes: to the address that it prefers, or, if memory ends before that and it
/// can be moved, to the lowest that its alignment allows.
fn load_address(header: &setup_header, file_size: u64, ram_end: u64) -> Result<u64, ImageError> {
    let sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let setup = (sectors + 1) * 512;
    let kernel = file_size
        .checked_sub(setup)
        .filter(|&kernel| kernel > ENTRY_64)
        .ok_or(ImageError::Truncated { what: "the kernel" })?;
    let needed = kernel.max(header.init_size.into());
    let least = EXTENDED_START.0;
    let fits = |start: u64| {
        start
            .checked_add(needed)
            .is_some_and(|end| check_range(start, end, least, ram_end).is_ok())
    };
    let preferred = header.pref_address;
    if fits(preferred) {
        return Ok(preferred);
    }
    let alignment = u64::from(header.kernel_alignment);
    if header.relocatable_kernel != 0 && alignment.is_power_of_two() {
        let lowest = least.next_multiple_of(alignment);
        if fits(lowest) {
            return Ok(lowest);
        }
    }
    Err(ImageError::OutsideRam {
        start: preferred,
        end: preferred.saturating_add(needed),
        least,
        most: ram_end,
    })
}

/// Clears what follows the header in `params`: in the file that is code, and kernels that know a
/// longer header would take it for fields.
fn forget_beyond_header(params: &mut boot_params) {
    let bytes = params.as_mut_slice();
    let end = HEADER_END_BASE + usize::from(bytes[HEADER_END]);
    let header_end = HEADER + size_of::<setup_header>();
    if end < header_end {
        bytes[end..header_end].fill(0);
    }
}

/// Copies the modules one after another, and says where they are and how long they are together.
fn copy_initramfs(
    request: &Request<'_>,
    modules: &mut Modules<'_>,
    floor: u64,
    ceiling: u64,
) -> Result<Option<(u64, u64)>, Trouble> {
    let mut total: u64 = 0;
    let mut offsets = Vec::with_capacity(modules.len());
    for module in modules.iter() {
        let end = total
            .checked_next_multiple_of(ARCHIVE_ALIGNMENT)
            .and_then(|offset| {
                offsets.push(offset);
                offset.checked_add(module.size)
            })
            .ok_or_else(|| module.no_room(ceiling))?;
        total = end;
    }
    let Some(last) = modules.last() else {
        return Ok(None);
    };
    let start = place_high(total, floor, ceiling).ok_or_else(|| last.no_room(ceiling))?;
    for (module, offset) in modules.iter_mut().zip(offsets) {
        module.copy(request.memory, GuestAddress(start + offset))?;
    }
    Ok(Some((start, total)))
}
