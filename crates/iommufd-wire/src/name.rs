//! Names of sockets: which server a socket leads to, and what it stands for there.

use rustix::fd::BorrowedFd;
use rustix::io;
use rustix::net::{self, SocketAddrUnix};

/// The environment variable that names the server to the programs under it: its number in
/// hexadecimal.
pub const ENVIRONMENT: &str = "VM_IOMMU_IOMMUFD";

const PREFIX: &[u8; 16] = b"vm-iommu-iommufd";

/// The name of a server's end of a socket, in the abstract namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// The server's number, chosen at random when it starts.
    pub server: u64,
    /// What the socket stands for in the server; 0 is a connection for requests.
    pub handle: u64,
}

impl Name {
    /// The address to bind or to connect to.
    pub fn address(self) -> io::Result<SocketAddrUnix> {
        let mut name = [0; 32];
        let (prefix, rest) = name.split_at_mut(16);
        prefix.copy_from_slice(PREFIX);
        let (server, handle) = rest.split_at_mut(8);
        server.copy_from_slice(&self.server.to_ne_bytes());
        handle.copy_from_slice(&self.handle.to_ne_bytes());
        SocketAddrUnix::new_abstract_name(&name)
    }

    /// The name of the other end of `socket`; `None` for all that is no socket of a server.
    pub fn of_peer(socket: BorrowedFd<'_>) -> Option<Name> {
        let address = net::getpeername(socket).ok()??;
        let address = SocketAddrUnix::try_from(address).ok()?;
        Name::parse(address.abstract_name()?)
    }

    fn parse(name: &[u8]) -> Option<Name> {
        let (server, handle) = name.strip_prefix(PREFIX)?.split_at_checked(8)?;
        Some(Name {
            server: u64::from_ne_bytes(server.try_into().ok()?),
            handle: u64::from_ne_bytes(handle.try_into().ok()?),
        })
    }
}
