//! The server: what all connections share, and how they come in.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::io;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use rustix::process;
use vm_iommufd_wire::{ENVIRONMENT, Name};

use super::connection::Connection;
use super::error::ServerError;
use super::handles::Handles;
use super::images::Images;
use crate::System;

/// More threads than this do not call at once; the next are refused.
const CONNECTIONS: usize = 4096;
/// So many lines about clients that are refused, and no more: a client chooses how often.
const COMPLAINTS: usize = 16;

/// How a [`Server`] is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Whether every program has `CAP_SYS_RESOURCE` here, whatever it has elsewhere. What that
    /// guards are this server's accounts of pinned memory, all of one user's programs.
    pub grant_sys_resource: bool,
    /// Whether `RLIMIT_MEMLOCK` of programs holds for what they pin here.
    pub limit_locked: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            grant_sys_resource: true,
            limit_locked: true,
        }
    }
}

/// What connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) number: u64,
    pub(super) config: ServerConfig,
    pub(super) user: u32,
    pub(super) system: Arc<System>,
    pub(super) handles: Handles,
    pub(super) images: Images,
    pub(super) no_huge_pages: bool,
    pub(super) mappings: AtomicU64,
    connections: AtomicUsize,
    complaints: AtomicUsize,
}

impl Shared {
    /// Says in one line why a client is refused.
    pub(super) fn complain(&self, line: fmt::Arguments<'_>) {
        let told = self.complaints.fetch_add(1, Ordering::Relaxed);
        if told < COMPLAINTS {
            log::warn!("{line}");
        }
    }

    /// Counts a connection that is gone.
    pub(super) fn disconnected(&self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A server of one [`System`] for the programs of this process's user.
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    shared: Arc<Shared>,
}

impl Server {
    /// Begins to listen.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn new(system: Arc<System>, config: ServerConfig) -> Result<Self, ServerError> {
        let number = RandomState::new().build_hasher().finish().max(1);
        let shared = Shared {
            number,
            config,
            user: process::getuid().as_raw(),
            system,
            handles: Handles::new(number).map_err(ServerError::Watch)?,
            images: Images::default(),
            no_huge_pages: !has_huge_pages(),
            mappings: AtomicU64::new(1),
            connections: AtomicUsize::new(0),
            complaints: AtomicUsize::new(0),
        };
        Ok(Server {
            listener: listen(number).map_err(ServerError::Listen)?,
            shared: Arc::new(shared),
        })
    }

    /// The variable of the environment by which programs find this server.
    pub fn environment(&self) -> (&'static str, String) {
        (ENVIRONMENT, format!("{:x}", self.shared.number))
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// [`ServerError::Accept`] if there will be none.
    pub fn accept(&self) -> Result<Connection, ServerError> {
        loop {
            let socket = match net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(io::Errno::INTR | io::Errno::CONNABORTED) => continue,
                Err(error) => return Err(ServerError::Accept(error)),
            };
            let connections = &self.shared.connections;
            if connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
                self.shared.disconnected();
                self.shared
                    .complain(format_args!("more than {CONNECTIONS} connections: refused"));
                continue;
            }
            return Ok(Connection::new(socket, Arc::clone(&self.shared)));
        }
    }

    /// Waits until the last holder of a descriptor is gone, and lets go what it stood for.
    /// Requests do the same before all else; this is for when none comes.
    ///
    /// # Errors
    /// [`ServerError::Watch`].
    pub fn reap(&self) -> Result<(), ServerError> {
        self.shared.handles.wait().map_err(ServerError::Watch)?;
        self.shared.handles.reap().map_err(ServerError::Watch)
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

fn listen(server: u64) -> io::Result<OwnedFd> {
    let listener = net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let name = Name { server, handle: 0 };
    net::bind(&listener, &name.address()?)?;
    // Connections inherit it, so that not even the first message comes without its sender.
    net::sockopt::set_socket_passcred(&listener, true)?;
    net::listen(&listener, 128)?;
    Ok(listener)
}

/// Whether the machine sets huge pages of the usual size aside, or may.
fn has_huge_pages() -> bool {
    let folder = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    ["nr_hugepages", "nr_overcommit_hugepages"]
        .iter()
        .filter_map(|name| std::fs::read_to_string(format!("{folder}/{name}")).ok())
        .any(|count| count.trim() != "0")
}
