//! The thread that waits for a call's end, as the framework sees it.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use vm_iommufd_wire::{Capabilities, Name};

use super::connection::Connection;
use super::handles::Object;
use super::image::Image;
use crate::{Caller, CallerFile, Capability, Errno, Process};

/// A caller for the time of one call.
pub(super) struct Call<'a> {
    pub(super) connection: &'a Connection,
    pub(super) image: &'a Arc<Image>,
    /// Addresses that the caller knows to be writable.
    pub(super) writable: Range<u64>,
    pub(super) capabilities: Capabilities,
}

impl Caller for Call<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.image.read_memory(address, buffer)
    }

    fn write(&self, address: u64, buffer: &[u8]) -> Result<(), Errno> {
        let end = address
            .checked_add(buffer.len() as u64)
            .ok_or(Errno::EFAULT)?;
        if self.writable.start <= address && end <= self.writable.end {
            self.image.write_writable(address, buffer)
        } else {
            self.image.write_memory(address, buffer)
        }
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
