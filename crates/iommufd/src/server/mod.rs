//! A server to which the preload library takes a program's `/dev/iommu` calls.
//!
//! Each connection is one thread of a program at a time; a descriptor that a program holds is one
//! end of a socket pair, so its lifetime is the kernel's. Nothing here makes threads: an embedder
//! takes connections ([`Server::accept`]), serves each in a thread of its own
//! ([`Connection::serve`]), and has one more for descriptors whose last holder went without a
//! word ([`Server::reap`]).
//!
//! What a program says is not trusted: it is asked who it is by the kernel, its memory is reached
//! through descriptors that it opened itself, never by its process id, and what it does not have
//! the server does not do for it.

mod area;
mod bell;
mod caller;
mod connection;
mod error;
mod files;
mod handles;
mod image;
mod images;
mod listener;
mod maps;
mod program;
#[cfg(test)]
mod tests;

pub use connection::Connection;
pub use error::ServerError;
pub use listener::{Server, ServerConfig};
pub use program::{ProgramError, check_program};
