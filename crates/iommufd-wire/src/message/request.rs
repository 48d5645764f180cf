//! What the preload library says.

use super::{Inline, Malformed, Message, message, narrow, pack, parts, unpack};

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
