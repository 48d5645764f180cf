//! One message over a socket, with files beside it.

use crate::message::{MESSAGE_BYTES, Reply, Request};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{self, Errno, IoSlice, IoSliceMut};
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, UCred,
};
use std::mem::MaybeUninit;

/// The most files that come with one message.
pub const FILES: usize = 2;

/// A message that arrived.
#[derive(Debug)]
pub struct Incoming {
    bytes: [u8; MESSAGE_BYTES],
    length: usize,
    /// The files beside it.
    pub files: [Option<OwnedFd>; FILES],
    /// Who sent it, as the kernel says, if the socket was told to ask.
    pub sender: Option<UCred>,
}

impl Incoming {
    /// The message.
    pub fn message(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// Sends a message whole, with at most [`FILES`] files; waits while the socket is full.
pub fn send(socket: impl AsFd, message: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    if files.is_empty() {
        io::retry_on_intr(|| net::send(&socket, message, SendFlags::NOSIGNAL))?;
        return Ok(());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !beside.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(Errno::TOOBIG);
    }
    io::retry_on_intr(|| {
        let parts = [IoSlice::new(message)];
        net::sendmsg(&socket, &parts, &mut beside, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Waits for a message; `Ok(None)` if the other side is gone. Files arrive closed on `exec`.
pub fn receive(socket: impl AsFd) -> io::Result<Option<Incoming>> {
    let mut bytes = [0; MESSAGE_BYTES];
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES), ScmCredentials(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        net::recvmsg(&socket, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut incoming = Incoming {
        bytes,
        length: received.bytes,
        files: [const { None }; FILES],
        sender: None,
    };
    for message in beside.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(files) => {
                // Dropped, and so closed, are those past the last place.
                for (place, file) in incoming.files.iter_mut().zip(files) {
                    *place = Some(file);
                }
            }
            RecvAncillaryMessage::ScmCredentials(sender) => incoming.sender = Some(sender),
            _ => {}
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    // No message of ours is empty.
    Ok((received.bytes > 0).then_some(incoming))
}

/// Puts a request to the server and gives its answer. `find` finds the caller's own files when
/// the server asks for one. Any error means that the server cannot be talked to.
pub fn ask<'a>(
    socket: impl AsFd,
    request: &Request,
    files: &[BorrowedFd<'_>],
    mut find: impl FnMut(i32) -> Option<BorrowedFd<'a>>,
) -> io::Result<(Reply, [Option<OwnedFd>; FILES])> {
    send(&socket, &request.encode(), files)?;
    loop {
        let incoming = receive(&socket)?.ok_or(Errno::CONNRESET)?;
        let reply = Reply::decode(incoming.message()).map_err(|_| Errno::PROTO)?;
        let Reply::AskFile { fd } = reply else {
            return Ok((reply, incoming.files));
        };
        let found = find(fd).ok_or(Errno::BADF);
        // The kernel says so if it is not open.
        let sent =
            found.and_then(|file| send(&socket, &Request::File { errno: 0 }.encode(), &[file]));
        match sent {
            Err(Errno::BADF) => {
                let errno = Errno::BADF.raw_os_error() as u16;
                send(&socket, &Request::File { errno }.encode(), &[])?;
            }
            sent => sent?,
        }
    }
}
