//! ELF headers of both classes, as far as a loader needs them.

use std::io::SeekFrom;

use super::{Image, ImageError};

/// Segment to be loaded (`PT_LOAD`).
const LOAD: u32 = 1;

/// Whether addresses have 32 or 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Elf32,
    Elf64,
}

/// A segment that is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where its content begins in the file.
    pub offset: u64,
    /// Where the code believes to be.
    pub virt: u64,
    /// Where it is to be loaded.
    pub phys: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes in memory, at least as many.
    pub memory_size: u64,
}

impl Segment {
    /// First physical address past the segment; [`read`] has checked that there is one.
    pub fn end(&self) -> u64 {
        self.phys.saturating_add(self.memory_size)
    }
}

/// What an ELF says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    /// The entry point, a virtual address.
    pub entry: u64,
    /// The segments to be loaded.
    pub segments: Vec<Segment>,
}

impl Elf {
    /// The physical address of the entry point: through the segment that holds it, if one does.
    pub fn physical_entry(&self) -> u64 {
        self.segments
            .iter()
            .find(|s| s.virt <= self.entry && self.entry - s.virt < s.memory_size)
            .map_or(self.entry, |s| s.phys.saturating_add(self.entry - s.virt))
    }
}

/// Reads the headers and checks them against the file: every program header, loaded or not, lies
/// in the file with its content, and no address range wraps around.
pub(super) fn read(image: &mut impl Image, class: Class) -> Result<Elf, ImageError> {
    let file_size = image.seek(SeekFrom::End(0)).map_err(ImageError::Read)?;
    let (header_size, entry_size) = match class {
        Class::Elf32 => (52, 32),
        Class::Elf64 => (64, 56),
    };
    let header = bytes(image, 0, header_size, "the ELF header")?;
    let (entry, table, sizes) = match class {
        Class::Elf32 => (word(&header, 24), word(&header, 28), 42),
        Class::Elf64 => (long(&header, 24), long(&header, 32), 54),
    };
    let given_size = half(&header, sizes);
    if usize::from(given_size) != entry_size {
        return Err(ImageError::Field {
            field: "e_phentsize",
            value: given_size.into(),
        });
    }
    let count = usize::from(half(&header, sizes + 2));
    let table = bytes(image, table, count * entry_size, "the ELF program headers")?;

    let mut segments = Vec::new();
    for raw in table.chunks_exact(entry_size) {
        let segment = match class {
            Class::Elf32 => Segment {
                offset: word(raw, 4),
                virt: word(raw, 8),
                phys: word(raw, 12),
                file_size: word(raw, 16),
                memory_size: word(raw, 20),
            },
            Class::Elf64 => Segment {
                offset: long(raw, 8),
                virt: long(raw, 16),
                phys: long(raw, 24),
                file_size: long(raw, 32),
                memory_size: long(raw, 40),
            },
        };
        let in_file = segment
            .offset
            .checked_add(segment.file_size)
            .is_some_and(|end| end <= file_size);
        if !in_file {
            return Err(ImageError::Truncated {
                what: "an ELF segment",
            });
        }
        if word(raw, 0) != u64::from(LOAD) {
            continue;
        }
        if segment.memory_size < segment.file_size
            || segment.phys.checked_add(segment.memory_size).is_none()
        {
            return Err(ImageError::Field {
                field: "p_memsz",
                value: segment.memory_size,
            });
        }
        if segment.memory_size > 0 {
            segments.push(segment);
        }
    }
    if segments.is_empty() {
        return Err(ImageError::Truncated {
            what: "every loadable ELF segment",
        });
    }
    Ok(Elf { entry, segments })
}

fn bytes(
    image: &mut impl Image,
    offset: u64,
    size: usize,
    what: &'static str,
) -> Result<Vec<u8>, ImageError> {
    let mut bytes = vec![0; size];
    image
        .seek(SeekFrom::Start(offset))
        .map_err(|_| ImageError::Truncated { what })?;
    image
        .read_exact(&mut bytes)
        .map_err(|_| ImageError::Truncated { what })?;
    Ok(bytes)
}

/// Little-endian value of `N` bytes; bytes beyond the end count as 0.
fn little<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    (0..N).fold(0, |value, i| {
        value | u64::from(bytes.get(at + i).copied().unwrap_or(0)) << (8 * i)
    })
}

fn half(bytes: &[u8], at: usize) -> u16 {
    little::<2>(bytes, at) as u16
}

fn word(bytes: &[u8], at: usize) -> u64 {
    little::<4>(bytes, at)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    little::<8>(bytes, at)
}
