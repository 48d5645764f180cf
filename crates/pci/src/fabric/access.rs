//! Config, memory and port accesses from the processors.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_iommu_spec::PhysAddr;

use super::Fabric;
use crate::{Decode, FunctionId, PciFunction};

/// The ports of the configuration mechanism, from CF8h.
const CONFIG_DATA: u16 = 4;
/// The Enable bit of the configuration address.
const CONFIG_ENABLE: u32 = 1 << 31;

/// The part of an access that lies within one doubleword of one function.
struct Doubleword {
    bus: u8,
    devfn: u8,
    register: u16,
    /// Where the part is in the access.
    index: usize,
    len: usize,
}

/// Splits an ECAM access (PCIe Base 5.0, section 7.2.2) at doublewords.
fn doublewords(offset: u64, len: usize) -> impl Iterator<Item = Doubleword> {
    let mut index = 0;
    std::iter::from_fn(move || {
        let at = offset.checked_add(index as u64)?;
        let part = (len - index).min(4 - (at & 3) as usize);
        let dword = (part > 0).then_some(Doubleword {
            bus: (at >> 20) as u8,
            devfn: (at >> 12) as u8,
            register: at as u16 & 0xfff,
            index,
            len: part,
        });
        index += part;
        dword
    })
}

impl Fabric {
    /// Reads config space at `offset` of the ECAM window, which begins with bus 0. Any size; what
    /// no function answers reads as ones.
    pub fn ecam_read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        for part in doublewords(offset, data.len()) {
            let data = &mut data[part.index..part.index + part.len];
            if let Some((_, function)) = self.at(part.bus, part.devfn) {
                function.read_config(part.register, data);
            }
        }
    }

    /// Writes config space at `offset` of the ECAM window. All that the write changes has taken
    /// effect when this returns: routing, requester ids, bus mastering, resets.
    pub fn ecam_write(&self, offset: u64, data: &[u8]) {
        for part in doublewords(offset, data.len()) {
            let data = &data[part.index..part.index + part.len];
            if let Some((id, function)) = self.at(part.bus, part.devfn) {
                function.write_config(part.register, data);
                self.note_effects(id, &*function);
            }
        }
    }

    /// Reads the configuration ports; `offset` from CF8h, 0 to 7.
    pub fn config_port_read(&self, offset: u16, data: &mut [u8]) {
        if offset < CONFIG_DATA {
            let address = self.config_address.load(Ordering::Acquire).to_le_bytes();
            for (index, byte) in data.iter_mut().enumerate() {
                let at = usize::from(offset) + index;
                *byte = address.get(at).copied().unwrap_or(0xff);
            }
            return;
        }
        data.fill(0xff);
        if let Some((at, len)) = self.config_data(offset, data.len()) {
            self.ecam_read(at, &mut data[..len]);
        }
    }

    /// Writes the configuration ports; `offset` from CF8h, 0 to 7. The address is written only as
    /// one doubleword; smaller writes there belong to other devices.
    pub fn config_port_write(&self, offset: u16, data: &[u8]) {
        if offset < CONFIG_DATA {
            if let (0, Ok(address)) = (offset, <[u8; 4]>::try_from(data)) {
                // Bits 30:24 are reserved. So are bits 1:0, which hardware drops; bare-metal
                // programs written for other virtual machines rely on their naming a byte.
                let address = u32::from_le_bytes(address) & 0x80ff_ffff;
                self.config_address.store(address, Ordering::Release);
            }
            return;
        }
        if let Some((at, len)) = self.config_data(offset, data.len()) {
            self.ecam_write(at, &data[..len]);
        }
    }

    /// Where in the ECAM window an access to the data ports leads, and how much of it does.
    fn config_data(&self, offset: u16, len: usize) -> Option<(u64, usize)> {
        let address = self.config_address.load(Ordering::Acquire);
        let port = offset.checked_sub(CONFIG_DATA).filter(|port| *port < 4)?;
        let byte = port | (address & 3) as u16;
        if address & CONFIG_ENABLE == 0 {
            return None;
        }
        let place = u64::from(address >> 8 & 0xffff) << 12;
        let register = u64::from(address & 0xfc) + u64::from(byte);
        Some((place | register, len.min(usize::from(4 - byte))))
    }

    /// Reads memory that a BAR decodes; `false`, and ones, if none decodes all of it.
    pub fn mmio_read(&self, address: PhysAddr, data: &mut [u8]) -> bool {
        self.bar_read(Decode::Memory, address.0, data)
    }

    /// Writes memory that a BAR decodes; `false` if none decodes all of it.
    pub fn mmio_write(&self, address: PhysAddr, data: &[u8]) -> bool {
        self.bar_write(Decode::Memory, address.0, data)
    }

    /// Reads ports that a BAR decodes; `false`, and ones, if none decodes all of them.
    pub fn pio_read(&self, port: u16, data: &mut [u8]) -> bool {
        self.bar_read(Decode::Io, port.into(), data)
    }

    /// Writes ports that a BAR decodes; `false` if none decodes all of them.
    pub fn pio_write(&self, port: u16, data: &[u8]) -> bool {
        self.bar_write(Decode::Io, port.into(), data)
    }

    fn bar_read(&self, decode: Decode, address: u64, data: &mut [u8]) -> bool {
        let Some((function, bar, offset)) = self.target(decode, address, data.len()) else {
            data.fill(0xff);
            return false;
        };
        if !function.config().interrupts().read_bar(bar, offset, data) {
            function.read_bar(bar, offset, data);
        }
        true
    }

    fn bar_write(&self, decode: Decode, address: u64, data: &[u8]) -> bool {
        let Some((function, bar, offset)) = self.target(decode, address, data.len()) else {
            return false;
        };
        if !function.config().interrupts().write_bar(bar, offset, data) {
            function.write_bar(bar, offset, data);
        }
        true
    }

    fn target(
        &self,
        decode: Decode,
        address: u64,
        len: usize,
    ) -> Option<(Arc<dyn PciFunction>, u8, u64)> {
        let view = self.view();
        let piece = view.routes.pieces(decode).find(address, len)?;
        let node = view.topology.nodes.get(piece.node)?;
        let offset = piece.offset + (address - piece.start);
        Some((Arc::clone(&node.function), piece.bar, offset))
    }

    fn at(&self, bus: u8, devfn: u8) -> Option<(FunctionId, Arc<dyn PciFunction>)> {
        let view = self.view();
        let index = view.routes.node_at(&view.topology, bus, devfn)?;
        let node = view.topology.nodes.get(index)?;
        Some((FunctionId(index), Arc::clone(&node.function)))
    }
}
