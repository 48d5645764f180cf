//! The messages: fixed in size, eight words each.

use thiserror::Error;

/// Both sides must say the same; raised with every change of a message.
pub const VERSION: u32 = 1;

const WORDS: usize = 8;
/// The size of every message.
pub const MESSAGE_BYTES: usize = WORDS * 8;

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

/// What the preload library says.
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
        /// From the argument on, the bytes that the caller knows to be writable.
        writable: u32,
        /// The calling thread's capabilities.
        capabilities: Capabilities,
        /// How many bytes the process may lock (`RLIMIT_MEMLOCK`).
        lockable: u64,
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
        }
    }
}

fn bytes(words: [u64; WORDS]) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn words(bytes: &[u8]) -> Result<[u64; WORDS], Malformed> {
    if bytes.len() != MESSAGE_BYTES {
        return Err(Malformed);
    }
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_ne_bytes(chunk.try_into().map_err(|_| Malformed)?);
    }
    Ok(words)
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
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        bytes(match *self {
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
                writable,
                capabilities: c,
                lockable,
            } => {
                let capabilities = pack([c.ipc_lock, c.sys_resource, c.sys_rawio]);
                let (request, writable) = (request.into(), writable.into());
                [
                    2,
                    handle,
                    request,
                    argument,
                    writable,
                    capabilities,
                    lockable,
                    0,
                ]
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
        })
    }

    /// The request in a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(match words(bytes)? {
            [0, version, image, parent, 0, 0, 0, 0] => Request::Hello {
                version: narrow(version)?,
                image,
                parent,
            },
            [1, 0, 0, 0, 0, 0, 0, 0] => Request::Open,
            [
                2,
                handle,
                request,
                argument,
                writable,
                capabilities,
                lockable,
                0,
            ] => {
                let [ipc_lock, sys_resource, sys_rawio] = unpack(capabilities)?;
                Request::Ioctl {
                    handle,
                    request: narrow(request)?,
                    argument,
                    writable: narrow(writable)?,
                    capabilities: Capabilities {
                        ipc_lock,
                        sys_resource,
                        sys_rawio,
                    },
                    lockable,
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
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        bytes(match *self {
            Reply::Done {
                outcome,
                files,
                take,
            } => {
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
        })
    }

    /// The reply in a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(match words(bytes)? {
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
