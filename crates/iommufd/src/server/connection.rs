//! One connection: a thread of a program at a time, request by request.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Result as OsResult;
use rustix::net::UCred;
use rustix::net::sockopt::{self, Timeout};
use vm_iommufd_wire::{self as wire, Incoming, Request, VERSION, receive, send};

use super::image::Image;
use super::listener::Shared;
use crate::Errno;

mod answer;

use answer::Answer;

/// A client that does not give a file that it was asked for has it no longer.
const FILE_LIMIT: Duration = Duration::from_secs(10);

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    shared: Arc<Shared>,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd, shared: Arc<Shared>) -> Self {
        Connection { socket, shared }
    }

    pub(super) fn server(&self) -> &Shared {
        &self.shared
    }

    /// Serves the client until it goes, or is refused.
    pub fn serve(self) {
        let Some(image) = self.greet() else {
            return;
        };
        while let Ok(Some(incoming)) = receive(&self.socket) {
            if !self.is_same(&incoming, image.who()) {
                self.refuse();
                break;
            }
            let Ok(request) = Request::decode(incoming.message()) else {
                let process = image.who().0;
                self.shared.complain(format_args!(
                    "process {process} sent what is no request: refused"
                ));
                break;
            };
            // Whatever was closed before this request was sent is gone before it is served.
            if let Err(error) = self.shared.handles.reap() {
                log::error!("descriptors cannot be watched any more: {error}");
                break;
            }
            let answer = self.answer(&image, request, incoming.files);
            let sent = self.reply(&answer);
            // Its descriptors are the client's alone now.
            drop(answer);
            if sent.is_err() {
                break;
            }
        }
        image.disconnected();
    }

    /// Takes the first message: who is it?
    fn greet(&self) -> Option<Arc<Image>> {
        let incoming = receive(&self.socket).ok()??;
        let who = process_and_user(incoming.sender?);
        if who.1 != self.shared.user {
            self.complain_of_user(who);
            self.refuse();
            return None;
        }
        let Ok(Request::Hello {
            version,
            image,
            parent,
        }) = Request::decode(incoming.message())
        else {
            return None;
        };
        let [Some(memory), Some(maps)] = incoming.files else {
            return None;
        };
        if version != VERSION {
            let process = who.0;
            self.shared.complain(format_args!(
                "process {process}: its preload library speaks version {version}, the server \
                 {VERSION}: refused"
            ));
            self.refuse();
            return None;
        }
        let memory = (File::from(memory), File::from(maps));
        let image = self.shared.images.connect((image, parent), who, memory);
        image.connected();
        let welcome = wire::Reply::Welcome {
            image: image.number(),
            no_huge_pages: self.shared.no_huge_pages,
        };
        if self.reply(&Answer::plain(welcome)).is_err() {
            image.disconnected();
            return None;
        }
        Some(image)
    }

    /// Whether a request is from the process that the connection is of, as the same user.
    fn is_same(&self, incoming: &Incoming, who: (u32, u32)) -> bool {
        let Some(sender) = incoming.sender.map(process_and_user) else {
            return false;
        };
        if sender.1 != who.1 {
            self.complain_of_user(sender);
        }
        sender == who
    }

    fn complain_of_user(&self, (process, user): (u32, u32)) {
        let own = self.shared.user;
        self.shared.complain(format_args!(
            "process {process} runs as user {user}, the server as user {own}: refused"
        ));
    }

    fn refuse(&self) {
        // The client may be gone already.
        let _ = self.reply(&Answer::from(Err(Errno::EPERM)));
    }

    fn reply(&self, answer: &Answer) -> OsResult<()> {
        let files = answer.files.each_ref();
        let [first, second] = files.map(|file| file.as_ref().map(AsFd::as_fd));
        let message = answer.reply.encode();
        match (first, second) {
            (Some(first), Some(second)) => send(&self.socket, &message, &[first, second]),
            (Some(file), None) | (None, Some(file)) => send(&self.socket, &message, &[file]),
            (None, None) => send(&self.socket, &message, &[]),
        }
    }

    /// Asks the client for one of its files.
    pub(super) fn ask_file(&self, fd: i32) -> Result<OwnedFd, Errno> {
        let ask = || -> OsResult<Option<Incoming>> {
            self.reply(&Answer::plain(wire::Reply::AskFile { fd }))?;
            sockopt::set_socket_timeout(&self.socket, Timeout::Recv, Some(FILE_LIMIT))?;
            let answer = receive(&self.socket);
            sockopt::set_socket_timeout(&self.socket, Timeout::Recv, None)?;
            answer
        };
        let incoming = ask().ok().flatten().ok_or(Errno::EBADF)?;
        let answer = Request::decode(incoming.message());
        let [file, _] = incoming.files;
        match answer {
            Ok(Request::File { errno: 0 }) => file.ok_or(Errno::EBADF),
            Ok(Request::File { errno }) => Err(Errno::from_raw(errno.into())),
            _ => Err(Errno::EBADF),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.disconnected();
    }
}

fn process_and_user(sender: UCred) -> (u32, u32) {
    let process = sender.pid.as_raw_nonzero().get().cast_unsigned();
    (process, sender.uid.as_raw())
}
