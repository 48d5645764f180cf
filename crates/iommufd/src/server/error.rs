//! Why there is no server.

use rustix::io::Errno;
use thiserror::Error;

/// Why a server does not start or does not go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The socket for connections cannot be made.
    #[error("the server's socket cannot be made")]
    Listen(#[source] Errno),
    /// Connections cannot be taken any more.
    #[error("no more connections can be taken")]
    Accept(#[source] Errno),
    /// The descriptors that programs hold cannot be watched.
    #[error("the descriptors that programs hold cannot be watched")]
    Watch(#[source] Errno),
}
