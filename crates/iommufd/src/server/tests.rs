mod connection;
mod image;
mod maps;
mod program;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use vm_iommufd_wire::{Inline, Name, Reply, Request, VERSION, ask};

use super::{Server, ServerConfig};
use crate::{System, SystemConfig};

/// A server with a thread for each connection.
fn server() -> Arc<Server> {
    let system = System::new(SystemConfig::default());
    let server = Arc::new(Server::new(system, ServerConfig::default()).unwrap());
    let accepting = Arc::clone(&server);
    std::thread::spawn(move || {
        while let Ok(connection) = accepting.accept() {
            std::thread::spawn(move || connection.serve());
        }
    });
    server
}

/// A client in this process.
struct Client {
    socket: OwnedFd,
    image: u64,
}

impl Client {
    fn connect(server: &Server, image: u64) -> Client {
        let socket = socket(server);
        let memory = File::options()
            .read(true)
            .write(true)
            .open("/proc/self/mem")
            .unwrap();
        let maps = File::open("/proc/self/maps").unwrap();
        let hello = Request::Hello {
            version: VERSION,
            image,
            parent: 0,
        };
        let files = [memory.as_fd(), maps.as_fd()];
        let (reply, _) = ask(&socket, &hello, &files, |_| None).unwrap();
        let Reply::Welcome { image, .. } = reply else {
            panic!("{reply:?}");
        };
        Client { socket, image }
    }

    fn ask(&self, request: &Request) -> (Reply, Option<OwnedFd>) {
        let (reply, [file, _]) = ask(&self.socket, request, &[], |_| None).unwrap();
        (reply, file)
    }

    /// Opens `/dev/iommu`; the answer is the descriptor with its handle.
    fn open(&self) -> (OwnedFd, u64) {
        let (_, file) = self.ask(&Request::Open);
        let file = file.unwrap();
        let handle = Name::of_peer(file.as_fd()).unwrap().handle;
        (file, handle)
    }

    fn ioctl(&self, handle: u64, request: u32, argument: u64, content: &[u8]) -> Reply {
        let mut inline = Inline::default();
        assert!(inline.set(0, content));
        let request = Request::Ioctl {
            handle,
            request,
            argument,
            content: inline,
            privileges: None,
        };
        self.ask(&request).0
    }
}

/// A socket that is connected to the server and has said nothing.
fn socket(server: &Server) -> OwnedFd {
    let socket = net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let name = Name {
        server: server.shared().number,
        handle: 0,
    };
    net::connect(&socket, &name.address().unwrap()).unwrap();
    socket
}
