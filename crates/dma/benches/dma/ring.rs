//! A virtio queue in memory, laid out once for physical and once for input addresses.

use std::hint::black_box;
use std::io::Read;

use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::{Queue, QueueT, Reader};
use vm_iommu_spec::Iova;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

use crate::pages::output;

const SIZE: u16 = 256;
const DATA: u64 = 0x40_0000;

/// Aligned, since a copy's instructions depend on that.
#[repr(align(64))]
struct Buffer([u8; 512]);

/// Pops a chain, reads its 512 bytes, and adds it to the used ring.
pub fn one<M: GuestMemory<Bitmap = ()>>(queue: &mut Queue, memory: &M) {
    let chain = queue.pop_descriptor_chain(memory).expect("a chain");
    let head = chain.head_index();
    let mut buffer = Buffer([0; 512]);
    let mut reader = Reader::new(memory, chain).expect("the chain is mapped");
    reader.read_exact(&mut buffer.0).expect("512 bytes");
    black_box(&buffer);
    queue.add_used(memory, head, 0).expect("a used ring");
}

/// A queue whose available ring never runs dry: it is set back each turn.
pub struct Ring {
    queue: Queue,
}

impl Ring {
    pub fn turn(&mut self, operations: usize, mut one: impl FnMut(&mut Queue)) {
        for done in 0..operations {
            if done % usize::from(SIZE) == 0 {
                self.queue.set_next_avail(0);
                self.queue.set_next_used(0);
            }
            one(&mut self.queue);
        }
    }
}

pub struct Rings {
    /// In physical addresses.
    pub raw: Ring,
    /// In input addresses.
    pub translated: Ring,
}

/// Lays a queue out in memory once for physical and once for input addresses.
pub fn lay_out(memory: &GuestMemoryMmap) -> Rings {
    let queue = |descriptors: GuestAddress, avail: GuestAddress, used: GuestAddress| {
        let mut queue = Queue::new(SIZE).expect("a power of two");
        queue
            .try_set_desc_table_address(descriptors)
            .expect("aligned");
        queue.try_set_avail_ring_address(avail).expect("aligned");
        queue.try_set_used_ring_address(used).expect("aligned");
        queue.set_ready(true);
        Ring { queue }
    };
    // One page for each part, so that a page that moves takes the part along.
    let parts = [0x10_0000_u64, 0x10_1000, 0x10_2000];
    let write = |part: u64, data: u64| {
        let at = |offset: u64| GuestAddress(part + offset);
        for index in 0..u64::from(SIZE) {
            let descriptor = Descriptor::new(data + index * 512, 512, 0, 0);
            let descriptor = RawDescriptor::from(descriptor);
            memory
                .write_obj(descriptor, at(index * 16))
                .expect("memory");
        }
    };
    let avail = |part: GuestAddress| {
        memory
            .write_obj(SIZE, GuestAddress(part.0 + 2))
            .expect("memory");
        for index in 0..SIZE {
            let entry = GuestAddress(part.0 + 4 + u64::from(index) * 2);
            memory.write_obj(index, entry).expect("memory");
        }
    };
    let raw_parts = parts.map(|part| GuestAddress(part + (1 << 27)));
    write(raw_parts[0].0, DATA);
    avail(raw_parts[1]);
    let our_parts = parts.map(|part| output(Iova(part)));
    write(our_parts[0].0, DATA);
    avail(our_parts[1]);
    let [descriptors, ring, used] = parts.map(GuestAddress);
    Rings {
        raw: queue(raw_parts[0], raw_parts[1], raw_parts[2]),
        translated: queue(descriptors, ring, used),
    }
}
