//! What the iommufd server and its preload library say to each other.
//!
//! A program that runs under the server has its `/dev/iommu` calls taken by the preload library,
//! which puts each to the server as one [`Request`] over a sequenced-packet Unix socket and waits
//! for the [`Reply`]. While the server works on a request it may ask for one of the caller's open
//! files ([`Reply::AskFile`], answered by [`Request::File`]).
//!
//! A descriptor that the server hands out is one end of a socket pair, so its lifetime over
//! `dup`, `fork`, `exec` and `close` is the kernel's, and the server sees the last one go. What it
//! stands for is in the name of the other end, [`Name`], which any holder can ask the kernel for.
//!
//! Both sides are of one build; [`VERSION`] says so to a side that is not.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod message;
mod name;
#[cfg(test)]
mod tests;
mod transport;

pub use message::{
    Capabilities, File, INLINE, Inline, MESSAGE_BYTES, Malformed, Message, Place, Privileges,
    Reply, Request, VERSION,
};
pub use name::{ENVIRONMENT, Name};
pub use transport::{FILES, Incoming, ask, receive, send};
