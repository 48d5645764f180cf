//! What each request comes to.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_iommufd_wire::{self as wire, Capabilities, Inline, Request};

use super::Connection;
use crate::server::caller::{Argument, Call};
use crate::server::handles::Object;
use crate::server::image::Image;
use crate::{Context, Errno, PAGE_SIZE, Place, ProcessId, Reply};

/// What is sent back.
pub(super) struct Answer {
    pub(super) reply: wire::Reply,
    pub(super) files: [Option<OwnedFd>; wire::FILES],
}

impl Answer {
    pub(super) fn plain(reply: wire::Reply) -> Self {
        Answer {
            reply,
            files: [None, None],
        }
    }
}

impl From<Result<u64, Errno>> for Answer {
    fn from(outcome: Result<u64, Errno>) -> Self {
        Answer::plain(wire::Reply::done(outcome.map_err(number)))
    }
}

fn number(errno: Errno) -> u16 {
    u16::try_from(errno.raw()).unwrap_or(u16::MAX)
}

fn os(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

impl Connection {
    pub(super) fn answer(
        &self,
        image: &Arc<Image>,
        request: Request,
        files: [Option<OwnedFd>; wire::FILES],
    ) -> Answer {
        let outcome = match request {
            Request::Open => self.open(),
            Request::Ioctl {
                handle,
                request,
                argument,
                content,
                privileges,
            } => {
                if let Some(privileges) = privileges {
                    let limited = self.shared.config.limit_locked;
                    image.set_lockable(if limited {
                        privileges.lockable
                    } else {
                        u64::MAX
                    });
                }
                let call = Call {
                    connection: self,
                    image,
                    argument: Argument::new(argument, content),
                    capabilities: privileges.unwrap_or_default().capabilities,
                };
                let outcome = self.ioctl(&call, handle, request, argument);
                // What was written goes back with an error, too.
                let mut answer = outcome.unwrap_or_else(|error| Err(error).into());
                if let wire::Reply::Done { written, .. } = &mut answer.reply {
                    *written = call.argument.into_written();
                }
                return answer;
            }
            Request::Read {
                handle,
                address,
                length,
            } => self.read(&self.call(image), handle, address, length),
            Request::Write {
                handle,
                address,
                length,
            } => self
                .write(&self.call(image), handle, address, length)
                .map(|written| Ok(written).into()),
            Request::Map {
                handle,
                offset,
                length,
                shared,
                execute,
                ..
            } => self.map(image, handle, (offset, length), shared, execute),
            Request::Unmap { mapping } => {
                image.unmapped(mapping);
                Ok(Ok(0).into())
            }
            Request::Share { length } => self.share(files, length).map(|()| Ok(0).into()),
            Request::Status { process } => Ok(self.status(process)),
            Request::Sync => Ok(Ok(0).into()),
            Request::Hello { .. } | Request::File { .. } => Err(Errno::EINVAL),
        };
        outcome.unwrap_or_else(|error| Err(error).into())
    }

    /// A caller that says nothing of itself.
    fn call<'a>(&'a self, image: &'a Arc<Image>) -> Call<'a> {
        Call {
            connection: self,
            image,
            argument: Argument::default(),
            capabilities: Capabilities::default(),
        }
    }

    fn object(&self, handle: u64) -> Result<Object, Errno> {
        self.shared.handles.get(handle).ok_or(Errno::EBADF)
    }

    /// The context behind a handle; files fail with `other`.
    fn context(&self, handle: u64, other: Errno) -> Result<Arc<Context>, Errno> {
        match self.object(handle)? {
            Object::Context(context) => Ok(context),
            Object::File(..) => Err(other),
        }
    }

    fn open(&self) -> Result<Answer, Errno> {
        let context = self.shared.system.open();
        let fd = self.shared.handles.add_context(context).map_err(os)?;
        let file = wire::File {
            place: wire::Place::Value,
            close_on_exec: true,
        };
        Ok(Answer {
            reply: wire::Reply::Done {
                outcome: Ok(0),
                files: [Some(file), None],
                take: false,
                written: Inline::default(),
            },
            files: [Some(fd), None],
        })
    }

    fn ioctl(
        &self,
        call: &Call<'_>,
        handle: u64,
        request: u32,
        argument: u64,
    ) -> Result<Answer, Errno> {
        let context = self.context(handle, Errno::ENOTTY)?;
        let Reply { value, files: made } = context.ioctl(call, request, argument)?;
        if made.len() > wire::FILES {
            return Err(Errno::EIO);
        }
        let mut places = [None; wire::FILES];
        let mut files = [const { None }; wire::FILES];
        for ((made, place), file) in made.into_iter().zip(&mut places).zip(&mut files) {
            *file = Some(self.shared.handles.add_file(made.file).map_err(os)?);
            *place = Some(wire::File {
                place: match made.place {
                    Place::Value => wire::Place::Value,
                    Place::At(address) => wire::Place::At(address),
                },
                close_on_exec: made.close_on_exec,
            });
        }
        Ok(Answer {
            reply: wire::Reply::Done {
                outcome: Ok(value.unsigned_abs().into()),
                files: places,
                take: false,
                written: Inline::default(),
            },
            files,
        })
    }

    fn read(
        &self,
        call: &Call<'_>,
        handle: u64,
        address: u64,
        length: u64,
    ) -> Result<Answer, Errno> {
        let Object::File(file, bell) = self.object(handle)? else {
            return Err(Errno::EINVAL);
        };
        let outcome = file.read(call, address, length);
        Ok(Answer::plain(wire::Reply::Done {
            outcome: outcome.map_err(number),
            files: [None; wire::FILES],
            take: bell.is_to_be_taken(|| file.readiness().readable),
            written: Inline::default(),
        }))
    }

    fn write(&self, call: &Call<'_>, handle: u64, address: u64, length: u64) -> Result<u64, Errno> {
        match self.object(handle)? {
            Object::File(file, _) => file.write(call, address, length),
            Object::Context(_) => Err(Errno::EINVAL),
        }
    }

    fn map(
        &self,
        image: &Image,
        handle: u64,
        (offset, length): (u64, u64),
        shared: bool,
        execute: bool,
    ) -> Result<Answer, Errno> {
        let context = self.context(handle, Errno::ENODEV)?;
        if !shared {
            return Err(Errno::EINVAL);
        }
        let mapping = context.mmap(offset, length, execute)?;
        let file = mapping.file().try_clone().map_err(|_| Errno::ENOMEM)?;
        let number = self.shared.mappings.fetch_add(1, Ordering::Relaxed);
        image.keep(number, mapping);
        Ok(Answer {
            reply: wire::Reply::done(Ok(number)),
            files: [Some(file.into()), None],
        })
    }

    fn share(&self, [file, _]: [Option<OwnedFd>; wire::FILES], length: u64) -> Result<(), Errno> {
        let images = &self.shared.images;
        if images.files.add(file.ok_or(Errno::EINVAL)?, length)? {
            images.forget_files();
        }
        Ok(())
    }

    fn status(&self, process: u32) -> Answer {
        let pins = self.shared.images.of_process(process).map(|image| {
            let pins = self.shared.system.pins(ProcessId(image.number()));
            let bytes = |pages: u64| pages.saturating_mul(PAGE_SIZE);
            (bytes(pins.pinned_pages), bytes(pins.locked_pages))
        });
        let (pinned, locked) = pins.unwrap_or_default();
        Answer::plain(wire::Reply::Pins { pinned, locked })
    }
}
