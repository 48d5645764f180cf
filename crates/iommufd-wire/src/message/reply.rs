//! What the server says.

use super::{Inline, Malformed, Message, flag, message, narrow, parts};

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
