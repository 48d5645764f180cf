//! A disk in memory behind a driver, and a backend that fails.

use std::io;
use std::sync::{Arc, Mutex};

use vm_iommu_virtio::Features;
use vm_iommu_virtio::testing::Machine;

use super::super::{BlockBackend, VirtioBlk};

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
pub(super) const GET_ID: u32 = 8;
pub(super) const DISCARD: u32 = 11;
pub(super) const WRITE_ZEROES: u32 = 13;

pub(super) const OK: u8 = 0;
pub(super) const IOERR: u8 = 1;
pub(super) const UNSUPP: u8 = 2;
/// What the status byte holds before the device writes it.
pub(super) const UNTOUCHED: u8 = 0xee;

/// The sectors of the disks.
pub(super) const SECTORS: u64 = 2048;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Flush,
    Discard(u64, u64),
    Zero(u64, u64, bool),
}

/// Bytes in memory; remembers what was asked beside reads and writes.
#[derive(Clone, Default)]
pub(super) struct MemoryDisk {
    pub(super) bytes: Arc<Mutex<Vec<u8>>>,
    pub(super) calls: Arc<Mutex<Vec<Call>>>,
    pub(super) broken: bool,
}

impl MemoryDisk {
    pub(super) fn new() -> Self {
        let byte = |at: u64| (at / 512) as u8 ^ at as u8;
        let bytes: Vec<u8> = (0..SECTORS * 512).map(byte).collect();
        Self {
            bytes: Arc::new(Mutex::new(bytes)),
            ..Self::default()
        }
    }

    pub(super) fn sectors(&self, sector: u64, count: u64) -> Vec<u8> {
        let range = (sector * 512) as usize..((sector + count) * 512) as usize;
        self.bytes.lock().unwrap()[range].to_vec()
    }

    pub(super) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn call(&self, call: Call) -> io::Result<()> {
        self.check()?;
        self.calls.lock().unwrap().push(call);
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("broken"));
        }
        Ok(())
    }
}

impl BlockBackend for MemoryDisk {
    fn len(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.check()?;
        let from = offset as usize;
        data.copy_from_slice(&self.bytes.lock().unwrap()[from..from + data.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let from = offset as usize;
        self.bytes.lock().unwrap()[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.call(Call::Flush)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.call(Call::Discard(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.call(Call::Zero(offset, len, unmap))
    }
}

/// A header: type, reserved, sector.
pub(super) fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

/// A range: sector, number, flags.
pub(super) fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) status: u8,
    pub(super) used: u32,
    /// The writable buffers but for the status.
    pub(super) data: Vec<u8>,
}

/// A driver for a disk.
pub(super) struct Driver {
    pub(super) machine: Machine,
    pub(super) disk: MemoryDisk,
}

impl Driver {
    pub(super) fn new(disk: MemoryDisk, read_only: bool) -> Self {
        let device = VirtioBlk::new(Box::new(disk.clone()), read_only, 2, "a serial").unwrap();
        let mut machine = Machine::new(device, true);
        machine.start(if read_only {
            Features::empty()
        } else {
            Features::bit(9)
        });
        Self { machine, disk }
    }

    /// Sends a request with these buffers, and checks that exactly it was used.
    pub(super) fn request(&mut self, readable: &[&[u8]], writable: &[u32]) -> Outcome {
        let at = self.machine.send(1, readable, writable);
        let written = &at[readable.len()..];
        for (&address, &len) in written.iter().zip(writable) {
            self.machine.fill(address, UNTOUCHED, len as usize);
        }
        self.machine.kick(1);
        let used = self.machine.used(1);
        assert_eq!(used.len(), 1);
        assert_eq!(self.machine.status(), 0xf);
        let mut data: Vec<u8> = written
            .iter()
            .zip(writable)
            .flat_map(|(&address, &len)| self.machine.get(address, len as usize))
            .collect();
        Outcome {
            status: data.pop().unwrap_or(UNTOUCHED),
            used: used[0].1,
            data,
        }
    }
}
