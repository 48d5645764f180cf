//! Which format a kernel has, from its content.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};

use super::{ImageError, multiboot};

/// A kernel's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Linux's compressed image, entered in 64-bit mode.
    BzImage,
    /// A 64-bit ELF with a PVH entry.
    PvhElf,
    /// A multiboot 1 image: a 32-bit ELF, or a flat file that gives its addresses itself.
    Multiboot,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BzImage => "a bzImage",
            Self::PvhElf => "a PVH ELF",
            Self::Multiboot => "a multiboot image",
        })
    }
}

/// "HdrS", at offset 0x202 of a bzImage (Linux boot protocol, "The real-mode kernel header").
const BZIMAGE_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");

/// How files that are compressed as a whole begin.
const COMPRESSED: &[(&[u8], &str)] = &[
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x02\x21\x4c\x18", "lz4"),
];

const ELF_CLASS_32: u8 = 1;
const ELF_CLASS_64: u8 = 2;
const ELF_MACHINE_386: u16 = 3;
const ELF_MACHINE_X86_64: u16 = 62;

impl Format {
    /// Reads the beginning of `image` and says what it is.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no kernel that can be booted; which, as exactly as can be
    /// said.
    pub fn detect(image: &mut (impl Read + Seek)) -> Result<Self, ImageError> {
        let mut head = Vec::new();
        image.seek(SeekFrom::Start(0)).map_err(ImageError::Read)?;
        image
            .by_ref()
            .take(multiboot::SEARCH as u64)
            .read_to_end(&mut head)
            .map_err(ImageError::Read)?;
        Self::of(&head)
    }

    fn of(head: &[u8]) -> Result<Self, ImageError> {
        let at =
            |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|b| b.starts_with(magic));
        if at(BZIMAGE_MAGIC.0, BZIMAGE_MAGIC.1) {
            return Ok(Self::BzImage);
        }
        let header = multiboot::Header::find(head);
        if at(0, b"\x7fELF") {
            let machine = match head.get(18..20) {
                Some(&[low, high]) => u16::from_le_bytes([low, high]),
                _ => {
                    return Err(ImageError::Truncated {
                        what: "the ELF header",
                    });
                }
            };
            return match (head.get(4).copied(), machine) {
                (Some(ELF_CLASS_64), ELF_MACHINE_X86_64) => Ok(Self::PvhElf),
                (Some(ELF_CLASS_32), ELF_MACHINE_386 | ELF_MACHINE_X86_64) => match header {
                    Some(_) => Ok(Self::Multiboot),
                    None => Err(ImageError::NoMultibootHeader),
                },
                _ => Err(ImageError::ForeignElf { machine }),
            };
        }
        if header.is_some_and(|header| header.addresses.is_some()) {
            return Ok(Self::Multiboot);
        }
        match COMPRESSED.iter().find(|(magic, _)| at(0, magic)) {
            Some(&(_, with)) => Err(ImageError::Compressed { with }),
            None => Err(ImageError::UnknownFormat),
        }
    }
}
