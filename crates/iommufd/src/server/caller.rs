//! The thread that waits for a call's end, as the framework sees it.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::Arc;

use vm_iommufd_wire::{Capabilities, Inline, Name};

use super::connection::Connection;
use super::handles::Object;
use super::image::Image;
use crate::{Caller, CallerFile, Capability, Errno, Process};

/// A caller for the time of one call.
pub(super) struct Call<'a> {
    pub(super) connection: &'a Connection,
    pub(super) image: &'a Arc<Image>,
    pub(super) argument: Argument,
    pub(super) capabilities: Capabilities,
}

/// What is at a call's argument, as it came with the call, and what was written there since,
/// which goes back with the answer.
#[derive(Default)]
pub(super) struct Argument {
    address: u64,
    content: RefCell<Inline>,
    length: usize,
    written: RefCell<Inline>,
}

impl Argument {
    pub(super) fn new(address: u64, content: Inline) -> Self {
        Argument {
            address,
            length: content.length(),
            content: RefCell::new(content),
            written: RefCell::default(),
        }
    }

    /// What was written.
    pub(super) fn into_written(self) -> Inline {
        self.written.into_inner()
    }

    /// The place of `length` bytes at `address` in the content, if all are there.
    fn place(&self, address: u64, length: usize) -> Option<usize> {
        let at = usize::try_from(address.checked_sub(self.address)?).ok()?;
        (at.checked_add(length)? <= self.length).then_some(at)
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let Some(at) = self.place(address, buffer.len()) else {
            return false;
        };
        let content = self.content.borrow();
        let bytes = content.bytes.get(at..at + buffer.len());
        bytes.is_some_and(|bytes| {
            buffer.copy_from_slice(bytes);
            true
        })
    }

    fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let Some(at) = self.place(address, bytes.len()) else {
            return false;
        };
        self.content.borrow_mut().set(at, bytes) && self.written.borrow_mut().set(at, bytes)
    }
}

impl Caller for Call<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        if self.argument.read(address, buffer) {
            return Ok(());
        }
        self.image.read_memory(address, buffer)
    }

    fn write(&self, address: u64, buffer: &[u8]) -> Result<(), Errno> {
        if self.argument.write(address, buffer) {
            return Ok(());
        }
        self.image.write_memory(address, buffer)
    }

    fn process(&self) -> Arc<dyn Process> {
        Arc::clone(self.image) as Arc<dyn Process>
    }

    fn file(&self, descriptor: i32) -> Result<CallerFile, Errno> {
        let file = self.connection.ask_file(descriptor)?;
        let server = self.connection.server();
        let name = Name::of_peer(file.as_fd()).filter(|name| name.server == server.number);
        match name.and_then(|name| server.handles.get(name.handle)) {
            Some(Object::File(file, _)) => Ok(CallerFile::Ours(file)),
            // A context is no file that a call takes.
            _ => Ok(CallerFile::Os(file)),
        }
    }

    fn capable(&self, capability: Capability) -> bool {
        match capability {
            Capability::IpcLock => self.capabilities.ipc_lock,
            Capability::SysResource => {
                let config = &self.connection.server().config;
                config.grant_sys_resource || self.capabilities.sys_resource
            }
            Capability::SysRawio => self.capabilities.sys_rawio,
        }
    }
}
