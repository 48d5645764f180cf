//! The messages. Eight words are the message itself; what an `ioctl`'s argument points to follows,
//! there and back, as far as there is any.

use std::ops::Deref;
use thiserror::Error;

/// Both sides must say the same; raised with every change of a message.
pub const VERSION: u32 = 1;

const WORDS: usize = 8;
/// How much of an `ioctl`'s argument travels with it, in bytes. None of iommufd's is longer.
pub const INLINE: usize = 128;
const INLINE_AT: usize = WORDS * 8 + size_of::<u128>();
/// The size of the longest message, in bytes.
pub const MESSAGE_BYTES: usize = INLINE_AT + INLINE;

/// A message that no side of this version sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a malformed message")]
pub struct Malformed;

/// The effective capabilities that matter to iommufd, as the caller states them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `CAP_IPC_LOCK`.
    pub ipc_lock: bool,
    /// `CAP_SYS_RESOURCE`.
    pub sys_resource: bool,
    /// `CAP_SYS_RAWIO`.
    pub sys_rawio: bool,
}

/// What a caller may do, as it states it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Privileges {
    /// The calling thread's capabilities.
    pub capabilities: Capabilities,
    /// How many bytes the process may lock (`RLIMIT_MEMLOCK`).
    pub lockable: u64,
}

/// Bytes at an `ioctl`'s argument: those whose bit in the mask is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inline {
    /// Bit N is for byte N.
    pub mask: u128,
    /// The bytes; 0 where the mask is.
    pub bytes: [u8; INLINE],
}

impl Default for Inline {
    fn default() -> Self {
        Inline {
            mask: 0,
            bytes: [0; INLINE],
        }
    }
}

impl Inline {
    /// How many bytes there are from the first on.
    pub fn length(&self) -> usize {
        self.mask.trailing_ones() as usize
    }

    /// The place after the last byte.
    fn end(&self) -> usize {
        INLINE - self.mask.leading_zeros() as usize
    }

    /// The bytes by their places, in runs.
    pub fn runs(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let mut rest = self.mask;
        std::iter::from_fn(move || {
            let start = rest.trailing_zeros() as usize;
            let length = rest.checked_shr(start as u32)?.trailing_ones() as usize;
            let end = start + length;
            let above = u128::MAX.checked_shl(end as u32).unwrap_or(0);
            rest &= above;
            Some((start, self.bytes.get(start..end)?))
        })
    }

    /// Sets bytes from `at` on; `false` if they are not all in it.
    pub fn set(&mut self, at: usize, bytes: &[u8]) -> bool {
        let end = at.saturating_add(bytes.len());
        let Some(place) = self.bytes.get_mut(at..end) else {
            return false;
        };
        place.copy_from_slice(bytes);
        let ones = match bytes.len() {
            0 => 0,
            length => u128::MAX >> (INLINE - length) as u32,
        };
        self.mask |= ones.checked_shl(at as u32).unwrap_or(0);
        true
    }
}

/// What the preload library says.
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the frequent one"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The first on a connection, with the caller's `/proc/self/mem` and `/proc/self/maps`.
    /// Answered by [`Reply::Welcome`].
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The process image as an earlier connection's welcome named it; 0 if this is its first.
        image: u64,
        /// The image that this one was forked from; 0 if none is known.
        parent: u64,
    },
    /// Open `/dev/iommu`.
    Open,
    /// `ioctl` on a descriptor of ours.
    Ioctl {
        /// The descriptor's handle.
        handle: u64,
        /// The request number.
        request: u32,
        /// The argument, an address mostly.
        argument: u64,
        /// What is there, from the argument on, as far as the caller knows it to be writable.
        content: Inline,
        /// What the caller may do, for a call that depends on it.
        privileges: Option<Privileges>,
    },
    /// `read` on a descriptor of ours.
    Read {
        /// The descriptor's handle.
        handle: u64,
        /// Where to read to.
        address: u64,
        /// At most so many bytes.
        length: u64,
    },
    /// `write` on a descriptor of ours.
    Write {
        /// The descriptor's handle.
        handle: u64,
        /// Where to write from.
        address: u64,
        /// At most so many bytes.
        length: u64,
    },
    /// `mmap` of a descriptor of ours. The result is the mapping's number, which comes with the
    /// file to map in its place.
    Map {
        /// The descriptor's handle.
        handle: u64,
        /// The offset, in bytes.
        offset: u64,
        /// The length, in bytes.
        length: u64,
        /// Whether it is shared.
        shared: bool,
        /// Whether it is to be written to.
        write: bool,
        /// Whether it is to be executed.
        execute: bool,
    },
    /// A mapping is gone whole.
    Unmap {
        /// Its number.
        mapping: u64,
    },
    /// The caller mapped the file that comes with this, shared.
    Share {
        /// How much of it, in bytes.
        length: u64,
    },
    /// What does iommufd add to the pinned and locked memory of a process? Answered by
    /// [`Reply::Pins`].
    Status {
        /// Its process id.
        process: u32,
    },
    /// A descriptor was closed: answer when what it stood for is gone.
    Sync,
    /// The answer to [`Reply::AskFile`], with the file unless there is an error.
    File {
        /// The error number, 0 for none.
        errno: u16,
    },
}

/// Where the number of a new descriptor goes in the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is the call's result.
    Value,
    /// To this address, 32 bits.
    At(u64),
}

/// A file that comes with [`Reply::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Where its number goes.
    pub place: Place,
    /// Whether it is closed by `exec`.
    pub close_on_exec: bool,
}

/// What the server says.
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the frequent one"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The call's end.
    Done {
        /// Its result, or the error number.
        outcome: Result<u64, u16>,
        /// What the files with this message are, in their order.
        files: [Option<File>; 2],
        /// The caller should take a byte from the descriptor's socket: what the byte told `poll`
        /// of is read.
        take: bool,
        /// What an `ioctl` wrote at its argument.
        written: Inline,
    },
    /// The connection is accepted.
    Welcome {
        /// The number of the process image.
        image: u64,
        /// Whether this machine has no huge pages, so that the caller should do without.
        no_huge_pages: bool,
    },
    /// What iommufd adds, in bytes.
    Pins {
        /// To `VmPin`.
        pinned: u64,
        /// To `VmLck`.
        locked: u64,
    },
    /// The caller's file with this number is needed.
    AskFile {
        /// The number.
        fd: i32,
    },
}

impl Reply {
    /// A result and no more.
    pub fn done(outcome: Result<u64, u16>) -> Self {
        Reply::Done {
            outcome,
            files: [None; 2],
            take: false,
            written: Inline::default(),
        }
    }
}

/// A message as it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    bytes: [u8; MESSAGE_BYTES],
    length: usize,
}

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

fn message(words: [u64; WORDS], inline: &Inline) -> Message {
    let mut bytes = [0; MESSAGE_BYTES];
    let (head, rest) = bytes.split_at_mut(WORDS * 8);
    for (chunk, word) in head.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let mut length = WORDS * 8;
    if inline.mask != 0 {
        let (mask, content) = rest.split_at_mut(size_of::<u128>());
        mask.copy_from_slice(&inline.mask.to_ne_bytes());
        for (at, run) in inline.runs() {
            if let Some(place) = content.get_mut(at..at + run.len()) {
                place.copy_from_slice(run);
            }
        }
        length = INLINE_AT + inline.end();
    }
    Message { bytes, length }
}

fn parts(message: &[u8]) -> Result<([u64; WORDS], Inline), Malformed> {
    let (head, rest) = message.split_at_checked(WORDS * 8).ok_or(Malformed)?;
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(head.chunks_exact(8)) {
        *word = u64::from_ne_bytes(chunk.try_into().map_err(|_| Malformed)?);
    }
    let mut inline = Inline::default();
    if rest.is_empty() {
        return Ok((words, inline));
    }
    let (mask, content) = rest.split_at_checked(size_of::<u128>()).ok_or(Malformed)?;
    inline.mask = u128::from_ne_bytes(mask.try_into().map_err(|_| Malformed)?);
    let is_masked = |(at, byte): (usize, &u8)| *byte == 0 || inline.mask >> at & 1 == 1;
    if inline.mask == 0
        || content.len() != inline.end()
        || !content.iter().enumerate().all(is_masked)
    {
        return Err(Malformed);
    }
    let place = inline.bytes.get_mut(..content.len()).ok_or(Malformed)?;
    place.copy_from_slice(content);
    Ok((words, inline))
}

fn narrow<T: TryFrom<u64>>(word: u64) -> Result<T, Malformed> {
    word.try_into().map_err(|_| Malformed)
}

fn flag(word: u64) -> Result<bool, Malformed> {
    match word {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

/// Flags as the bits of a word, the first in bit 0.
fn pack<const N: usize>(flags: [bool; N]) -> u64 {
    let bits = flags.iter().enumerate();
    bits.fold(0, |word, (bit, flag)| word | u64::from(*flag) << bit)
}

fn unpack<const N: usize>(word: u64) -> Result<[bool; N], Malformed> {
    if word >> N != 0 {
        return Err(Malformed);
    }
    Ok(std::array::from_fn(|bit| word >> bit & 1 == 1))
}

impl Request {
    /// The message.
    pub fn encode(&self) -> Message {
        let mut inline = &Inline::default();
        let words = match *self {
            Request::Hello {
                version,
                image,
                parent,
            } => [0, version.into(), image, parent, 0, 0, 0, 0],
            Request::Open => [1, 0, 0, 0, 0, 0, 0, 0],
            Request::Ioctl {
                handle,
                request,
                argument,
                ref content,
                privileges,
            } => {
                inline = content;
                let stated = privileges.is_some();
                let Privileges {
                    capabilities: c,
                    lockable,
                } = privileges.unwrap_or_default();
                let flags = pack([stated, c.ipc_lock, c.sys_resource, c.sys_rawio]);
                let request = request.into();
                [2, handle, request, argument, flags, lockable, 0, 0]
            }
            Request::Read {
                handle,
                address,
                length,
            } => [3, handle, address, length, 0, 0, 0, 0],
            Request::Write {
                handle,
                address,
                length,
            } => [4, handle, address, length, 0, 0, 0, 0],
            Request::Map {
                handle,
                offset,
                length,
                shared,
                write,
                execute,
            } => {
                let flags = pack([shared, write, execute]);
                [5, handle, offset, length, flags, 0, 0, 0]
            }
            Request::Unmap { mapping } => [6, mapping, 0, 0, 0, 0, 0, 0],
            Request::Share { length } => [7, length, 0, 0, 0, 0, 0, 0],
            Request::Status { process } => [8, process.into(), 0, 0, 0, 0, 0, 0],
            Request::Sync => [9, 0, 0, 0, 0, 0, 0, 0],
            Request::File { errno } => [10, errno.into(), 0, 0, 0, 0, 0, 0],
        };
        message(words, inline)
    }

    /// The request in a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (words, content) = parts(bytes)?;
        if content.mask != 0 && words.first() != Some(&2) {
            return Err(Malformed);
        }
        Ok(match words {
            [0, version, image, parent, 0, 0, 0, 0] => Request::Hello {
                version: narrow(version)?,
                image,
                parent,
            },
            [1, 0, 0, 0, 0, 0, 0, 0] => Request::Open,
            [2, handle, request, argument, flags, lockable, 0, 0] => {
                let [stated, ipc_lock, sys_resource, sys_rawio] = unpack(flags)?;
                let privileges = Privileges {
                    capabilities: Capabilities {
                        ipc_lock,
                        sys_resource,
                        sys_rawio,
                    },
                    lockable,
                };
                if !stated && privileges != Privileges::default() {
                    return Err(Malformed);
                }
                Request::Ioctl {
                    handle,
                    request: narrow(request)?,
                    argument,
                    content,
                    privileges: stated.then_some(privileges),
                }
            }
            [3, handle, address, length, 0, 0, 0, 0] => Request::Read {
                handle,
                address,
                length,
            },
            [4, handle, address, length, 0, 0, 0, 0] => Request::Write {
                handle,
                address,
                length,
            },
            [5, handle, offset, length, flags, 0, 0, 0] => {
                let [shared, write, execute] = unpack(flags)?;
                Request::Map {
                    handle,
                    offset,
                    length,
                    shared,
                    write,
                    execute,
                }
            }
            [6, mapping, 0, 0, 0, 0, 0, 0] => Request::Unmap { mapping },
            [7, length, 0, 0, 0, 0, 0, 0] => Request::Share { length },
            [8, process, 0, 0, 0, 0, 0, 0] => Request::Status {
                process: narrow(process)?,
            },
            [9, 0, 0, 0, 0, 0, 0, 0] => Request::Sync,
            [10, errno, 0, 0, 0, 0, 0, 0] => Request::File {
                errno: narrow(errno)?,
            },
            _ => return Err(Malformed),
        })
    }
}

impl File {
    fn encode(file: Option<File>) -> [u64; 2] {
        let Some(file) = file else {
            return [0, 0];
        };
        let closes = u64::from(file.close_on_exec) << 2;
        match file.place {
            Place::Value => [1 | closes, 0],
            Place::At(address) => [2 | closes, address],
        }
    }

    fn decode([tag, address]: [u64; 2]) -> Result<Option<File>, Malformed> {
        let place = match (tag & 3, address) {
            (0, 0) if tag == 0 => return Ok(None),
            (1, 0) => Place::Value,
            (2, address) => Place::At(address),
            _ => return Err(Malformed),
        };
        Ok(Some(File {
            place,
            close_on_exec: flag(tag >> 2)?,
        }))
    }
}

impl Reply {
    /// The message.
    pub fn encode(&self) -> Message {
        let mut inline = &Inline::default();
        let words = match *self {
            Reply::Done {
                outcome,
                files,
                take,
                ref written,
            } => {
                inline = written;
                let (errno, value) = match outcome {
                    Ok(value) => (0, value),
                    // 0 would read as a success.
                    Err(errno) => (errno.max(1).into(), 0),
                };
                let [[first, first_at], [second, second_at]] = files.map(File::encode);
                let take = take.into();
                [0, errno, value, take, first, first_at, second, second_at]
            }
            Reply::Welcome {
                image,
                no_huge_pages,
            } => [1, image, no_huge_pages.into(), 0, 0, 0, 0, 0],
            Reply::Pins { pinned, locked } => [2, pinned, locked, 0, 0, 0, 0, 0],
            Reply::AskFile { fd } => [3, u64::from(fd.cast_unsigned()), 0, 0, 0, 0, 0, 0],
        };
        message(words, inline)
    }

    /// The reply in a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (words, written) = parts(bytes)?;
        if written.mask != 0 && words.first() != Some(&0) {
            return Err(Malformed);
        }
        Ok(match words {
            [0, errno, value, take, first, first_at, second, second_at] => Reply::Done {
                outcome: match (errno, value) {
                    (0, value) => Ok(value),
                    (errno, 0) => Err(narrow(errno)?),
                    _ => return Err(Malformed),
                },
                files: [
                    File::decode([first, first_at])?,
                    File::decode([second, second_at])?,
                ],
                take: flag(take)?,
                written,
            },
            [1, image, no_huge_pages, 0, 0, 0, 0, 0] => Reply::Welcome {
                image,
                no_huge_pages: flag(no_huge_pages)?,
            },
            [2, pinned, locked, 0, 0, 0, 0, 0] => Reply::Pins { pinned, locked },
            [3, fd, 0, 0, 0, 0, 0, 0] => Reply::AskFile {
                fd: narrow::<u32>(fd)?.cast_signed(),
            },
            _ => return Err(Malformed),
        })
    }
}
