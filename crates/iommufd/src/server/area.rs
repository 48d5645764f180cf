//! Areas of a process's address space.

use rustix::fs;

/// Which file, as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// An area: one line of `/proc/PID/maps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    /// The address of its first byte.
    pub start: u64,
    /// The address after its last byte.
    pub end: u64,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written.
    pub write: bool,
    /// The file that it shows, if it is shared: the same pages for all who map them.
    pub shared: Option<FileId>,
    /// The offset in the file of its first byte.
    pub offset: u64,
}

impl Area {
    /// Reads a line: `START-END rwxs OFFSET MAJOR:MINOR INODE [PATH]`, numbers in hexadecimal but
    /// for the inode.
    pub(super) fn parse(line: &str) -> Option<Area> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?.as_bytes();
        let offset = fields.next()?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let inode: u64 = fields.next()?.parse().ok()?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let small = |text| u32::from_str_radix(text, 16).ok();
        let device = fs::makedev(small(major)?, small(minor)?);
        let is_shared = permissions.get(3) == Some(&b's') && inode != 0;
        Some(Area {
            start: number(start)?,
            end: number(end)?,
            read: permissions.first() == Some(&b'r'),
            write: permissions.get(1) == Some(&b'w'),
            shared: is_shared.then_some(FileId { device, inode }),
            offset: number(offset)?,
        })
    }
}
