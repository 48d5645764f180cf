//! A driver at the registers of one function.

use std::sync::Arc;

use vm_iommu_dma::{DmaPort, DmaRemapper, Epochs, GuestRam, Upstream};
use vm_iommu_pci::PciFunction;
use vm_iommu_spec::{MsiMessage, RequesterId};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::remapper::input;
use super::{PageMap, RecordMsi};
use crate::{Features, Progress, VirtioDevice, VirtioPci};

/// Bytes of memory, from 0.
const MEMORY: u64 = 4 << 20;
/// Where queue 0 lies; each takes as much.
const RINGS: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x8000;
/// Where buffers are taken from.
const BUFFERS: u64 = 0x20_0000;

/// A descriptor as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// The address on the bus.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// NEXT 1, WRITE 2, INDIRECT 4.
    pub flags: u16,
    /// The index of the next one.
    pub next: u16,
}

impl Descriptor {
    /// NEXT: the chain goes on.
    pub const NEXT: u16 = 1;
    /// WRITE: the device writes the buffer.
    pub const WRITE: u16 = 2;
    /// INDIRECT: the buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;

    /// As it lies in memory.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A driver's view of one queue.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Where it begins, in memory.
    pub base: u64,
    /// Entries.
    pub size: u16,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

/// A function with memory, and a driver for it.
pub struct Machine {
    /// The function.
    pub function: Arc<VirtioPci>,
    /// Memory, from 0.
    pub ram: GuestRam,
    /// The remapper, if addresses are translated.
    pub pages: Option<Arc<PageMap>>,
    /// The interrupts.
    pub msi: RecordMsi,
    rings: Vec<Ring>,
    next_buffer: u64,
}

impl Machine {
    /// The requester that the function is.
    pub const REQUESTER: RequesterId = RequesterId::from_source_id(0, 0x0118);

    /// A function around `device`, its DMA translated if `access_platform`.
    pub fn new(device: Arc<dyn VirtioDevice>, access_platform: bool) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let ram = GuestRam::new(memory);
        let pages = access_platform.then(|| PageMap::new(MEMORY));
        let msi = RecordMsi::default();
        let port = DmaPort::new(Upstream {
            output: Arc::new(ram.clone()),
            remapper: pages.clone().map(|pages| pages as Arc<dyn DmaRemapper>),
            epochs: Arc::new(Epochs::default()),
            msi: Arc::new(msi.clone()),
        });
        port.set_requester(Self::REQUESTER);
        port.set_bus_master(true);
        let mut offer = Features::INDIRECT_DESC;
        offer.set(Features::ACCESS_PLATFORM, access_platform);
        let function = VirtioPci::new(device, port, offer).unwrap();
        let rings = (0..u64::from(function.queues()))
            .map(|index| Ring {
                base: RINGS * (index + 1),
                size: 0,
                next_descriptor: 0,
                available: 0,
                used: 0,
            })
            .collect();
        Self {
            function,
            ram,
            pages,
            msi,
            rings,
            next_buffer: BUFFERS,
        }
    }

    /// Reads `len` bytes at `offset` of BAR 0.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> u64 {
        let mut data = [0; 8];
        self.function.read_bar(0, offset, &mut data[..len]);
        u64::from_le_bytes(data)
    }

    /// Writes the low `len` bytes of `value` at `offset` of BAR 0.
    pub fn write(&self, offset: u64, len: usize, value: u64) {
        self.function
            .write_bar(0, offset, &value.to_le_bytes()[..len]);
    }

    /// The device status.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.read(20, 1) as u8
    }

    /// What the device offers.
    #[must_use]
    pub fn offered(&self) -> Features {
        let words = [0, 1].map(|select| {
            self.write(0, 4, select);
            self.read(4, 4)
        });
        Features::from_bits_retain(words[1] << 32 | words[0])
    }

    /// Acknowledges the device and accepts `features`; whether the device agreed.
    pub fn negotiate(&self, features: Features) -> bool {
        self.write(20, 1, 0);
        self.write(20, 1, 1);
        self.write(20, 1, 3);
        for select in [0, 1] {
            self.write(8, 4, select);
            self.write(12, 4, features.bits() >> (32 * select) & 0xffff_ffff);
        }
        self.write(20, 1, 0xb);
        self.status() & 8 != 0
    }

    /// Programs MSI-X vector `vector` to send `0xfee0_0000`, data `0x40 + vector`, and enables
    /// MSI-X.
    pub fn enable_vector(&self, vector: u16) {
        let interrupts = self.function.config().interrupts();
        let entry = u64::from(vector) * 16;
        for (word, value) in [
            (0, 0xfee0_0000),
            (4, 0),
            (8, 0x40 + u32::from(vector)),
            (12, 0),
        ] {
            assert!(interrupts.write_bar(2, entry + word, &value.to_le_bytes()));
        }
        let capability = self.function.config().msix_capability().unwrap();
        self.function
            .write_config(capability + 2, &0x8000_u16.to_le_bytes());
    }

    /// What [`enable_vector`](Self::enable_vector) makes a vector send.
    #[must_use]
    pub fn message(vector: u16) -> (RequesterId, MsiMessage) {
        let message = MsiMessage {
            address: 0xfee0_0000,
            data: 0x40 + u32::from(vector),
        };
        (Self::REQUESTER, message)
    }

    /// Programs and enables queue `index` with `size` entries, and gives it `vector`.
    pub fn enable_queue(&mut self, index: u16, size: u16, vector: u16) {
        let base = self.rings[usize::from(index)].base;
        self.write(22, 2, index.into());
        self.write(24, 2, size.into());
        self.write(26, 2, vector.into());
        for (register, offset) in [(32, 0), (40, AVAILABLE), (48, USED)] {
            let address = self.bus(base + offset);
            self.write(register, 4, address & 0xffff_ffff);
            self.write(register + 4, 4, address >> 32);
        }
        self.write(28, 2, 1);
        self.rings[usize::from(index)] = Ring {
            base,
            size,
            next_descriptor: 0,
            available: 0,
            used: 0,
        };
        self.fill(base, 0, 0x1_0000);
    }

    /// All of what a driver does up to DRIVER_OK: queues of 16 entries, queue `n` on vector
    /// `n + 1`, configuration changes on vector 0.
    pub fn start(&mut self, features: Features) {
        assert!(self.negotiate(features | self.required()));
        self.write(16, 2, 0);
        self.enable_vector(0);
        for index in 0..self.function.queues() {
            self.enable_vector(index + 1);
            self.enable_queue(index, 16, index + 1);
        }
        self.write(20, 1, 0xf);
        assert_eq!(self.status(), 0xf);
    }

    /// The features without which the device does not work.
    #[must_use]
    pub fn required(&self) -> Features {
        let required = Features::VERSION_1 | Features::ACCESS_PLATFORM;
        self.offered() & required
    }

    /// The bus address of `address` in memory.
    #[must_use]
    pub fn bus(&self, address: u64) -> u64 {
        input(address, self.pages.is_some()).0
    }

    /// Takes `len` bytes of memory, on pages of their own.
    pub fn buffer(&mut self, len: u64) -> u64 {
        let address = self.next_buffer;
        self.next_buffer += len.next_multiple_of(0x1000).max(0x1000);
        assert!(self.next_buffer <= MEMORY);
        address
    }

    /// Puts bytes into memory.
    pub fn put(&self, address: u64, bytes: &[u8]) {
        let memory = self.ram.memory();
        memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    /// Reads memory.
    #[must_use]
    pub fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let memory = self.ram.memory();
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    /// Fills memory.
    pub fn fill(&self, address: u64, byte: u8, len: usize) {
        self.put(address, &vec![byte; len]);
    }

    /// The ring of queue `index`.
    #[must_use]
    pub fn ring(&self, index: u16) -> &Ring {
        &self.rings[usize::from(index)]
    }

    /// Puts descriptors, just as they are, at the next free place of the table, and makes the
    /// first available; its index.
    pub fn push(&mut self, index: u16, descriptors: &[Descriptor]) -> u16 {
        let ring = self.rings[usize::from(index)];
        let head = ring.next_descriptor;
        for (place, descriptor) in (head..).zip(descriptors) {
            let place = u64::from(place % ring.size);
            self.put(ring.base + 16 * place, &descriptor.bytes());
        }
        self.rings[usize::from(index)].next_descriptor =
            (head + descriptors.len() as u16) % ring.size;
        self.offer(index, head);
        head
    }

    /// Makes `head` available.
    pub fn offer(&mut self, index: u16, head: u16) {
        let ring = &mut self.rings[usize::from(index)];
        let place = u64::from(ring.available % ring.size);
        ring.available = ring.available.wrapping_add(1);
        let (base, available) = (ring.base + AVAILABLE, ring.available);
        self.put(base + 4 + 2 * place, &head.to_le_bytes());
        self.put(base + 2, &available.to_le_bytes());
    }

    /// Sets the flags of the available ring: 1 for no interrupts.
    pub fn set_flags(&self, index: u16, flags: u16) {
        let base = self.ring(index).base + AVAILABLE;
        self.put(base, &flags.to_le_bytes());
    }

    /// Sets used_event: the index whose use is to interrupt.
    pub fn set_used_event(&self, index: u16, event: u16) {
        let ring = self.ring(index);
        let place = ring.base + AVAILABLE + 4 + 2 * u64::from(ring.size);
        self.put(place, &event.to_le_bytes());
    }

    /// Makes a chain available: the device reads `readable` and writes buffers of `writable`
    /// lengths. Returns the addresses of all in memory.
    pub fn send(&mut self, index: u16, readable: &[&[u8]], writable: &[u32]) -> Vec<u64> {
        let mut descriptors = Vec::new();
        let mut addresses = Vec::new();
        let lens = readable.iter().map(|bytes| (bytes.len() as u32, 0));
        let lens = lens.chain(writable.iter().map(|&len| (len, Descriptor::WRITE)));
        let count = readable.len() + writable.len();
        let first = self.ring(index).next_descriptor;
        let size = self.ring(index).size;
        for (place, (len, flags)) in (1_u16..).zip(lens) {
            let address = self.buffer(len.into());
            addresses.push(address);
            let last = usize::from(place) == count;
            descriptors.push(Descriptor {
                address: self.bus(address),
                len,
                flags: flags | if last { 0 } else { Descriptor::NEXT },
                next: (first + place) % size,
            });
        }
        for (bytes, &address) in readable.iter().zip(&addresses) {
            self.put(address, bytes);
        }
        self.push(index, &descriptors);
        addresses
    }

    /// Kicks queue `index`, and processes it to its end.
    pub fn kick(&self, index: u16) {
        self.write(0x3000 + 4 * u64::from(index), 2, index.into());
        let event = self.function.event(index).unwrap();
        assert!(event.read().is_ok(), "the kick set no event");
        for _ in 0..1000 {
            if self.function.process_queue(index) == Progress::Idle {
                return;
            }
        }
        panic!("the queue does not come to an end");
    }

    /// What was used since the last call: heads and lengths.
    pub fn used(&mut self, index: u16) -> Vec<(u32, u32)> {
        let ring = self.rings[usize::from(index)];
        let base = ring.base + USED;
        let end = self.get(base + 2, 2);
        let end = u16::from_le_bytes([end[0], end[1]]);
        let mut used = Vec::new();
        let mut next = ring.used;
        while next != end {
            let entry = self.get(base + 4 + 8 * u64::from(next % ring.size), 8);
            let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
            used.push((word(0), word(4)));
            next = next.wrapping_add(1);
        }
        self.rings[usize::from(index)].used = next;
        used
    }
}
