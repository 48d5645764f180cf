//! Reads and writes that hit, and reads that miss.

use std::hint::black_box;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use vm_iommu_dma::DmaHandle;
use vm_iommu_spec::Iova;
use vm_memory::iommu::{self, Iommu, IommuMemory, IotlbIterator};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, Permissions};

use crate::buffer::Buffer;
use crate::machine::{Layout, Machine, read_request};
use crate::pages::{addresses, output};
use crate::{Effort, Row, measure};

#[inline(never)]
fn raw_read(memory: &GuestMemoryMmap, addresses: &[GuestAddress], buffer: &mut [u8]) {
    for &address in addresses {
        memory.read_slice(buffer, address).expect("memory");
        black_box(&*buffer);
    }
}

#[inline(never)]
fn handle_read(handle: &DmaHandle, addresses: &[Iova], buffer: &mut [u8]) {
    for &address in addresses {
        handle.read(address, buffer).expect("mapped");
        black_box(&*buffer);
    }
}

#[inline(never)]
fn raw_write(memory: &GuestMemoryMmap, addresses: &[GuestAddress], buffer: &[u8]) {
    for &address in addresses {
        memory
            .write_slice(black_box(buffer), address)
            .expect("memory");
    }
}

#[inline(never)]
fn handle_write(handle: &DmaHandle, addresses: &[Iova], buffer: &[u8]) {
    for &address in addresses {
        handle.write(address, black_box(buffer)).expect("mapped");
    }
}

#[inline(never)]
fn session_read(handle: &mut DmaHandle, addresses: &[Iova], buffer: &mut [u8]) {
    for &address in addresses {
        let session = handle.session();
        session
            .read_slice(buffer, GuestAddress(address.0))
            .expect("mapped");
        black_box(&*buffer);
    }
}

#[inline(never)]
fn peer_read<I: Iommu>(
    memory: &IommuMemory<GuestMemoryMmap, I>,
    addresses: &[Iova],
    buffer: &mut [u8],
) {
    for &address in addresses {
        memory
            .read_slice(buffer, GuestAddress(address.0))
            .expect("mapped");
        black_box(&*buffer);
    }
}

pub fn case(effort: Effort, (pages, size): (u64, u64)) -> [Row; 2] {
    let machine = Machine::new(pages, 1 << 16);
    let memory = machine.ram.memory();
    let handle = machine.warm(pages);
    let mut session_handle = machine.warm(pages);
    let peer = Peer::memory(&memory, pages);
    let inputs = addresses(effort.operations, pages, size);
    let outputs: Vec<_> = inputs.iter().copied().map(output).collect();
    let mut buffers = [(); 4].map(|()| Buffer::new(0, size));
    let [raw, ours, session, library] = &mut buffers;
    let reads = measure(
        effort,
        &mut [
            ("raw", &mut || raw_read(&memory, &outputs, raw)),
            ("handle", &mut || handle_read(&handle, &inputs, ours)),
            ("session", &mut || {
                session_read(&mut session_handle, &inputs, session);
            }),
            ("IommuMemory", &mut || peer_read(&peer, &inputs, library)),
        ],
    );
    let data = Buffer::new(1, size);
    let writes = measure(
        effort,
        &mut [
            ("raw", &mut || raw_write(&memory, &outputs, &data)),
            ("handle", &mut || handle_write(&handle, &inputs, &data)),
        ],
    );
    let row = |verb: &str, columns| Row {
        work: format!("{verb} {size} B, {pages} pages"),
        columns,
    };
    [row("read", reads), row("write", writes)]
}

/// Reads that miss: every set is asked for a page that another one just took from it. The tables
/// and the bytes that are read are near, so that what is measured is the way to them.
pub fn miss(effort: Effort) -> Row {
    let pages = 4096;
    let machine = |walk_cache| {
        Machine::with(Layout {
            pages,
            targets: 64,
            sets: 1,
            walk_cache,
        })
    };
    let (machine, cached) = (machine(false), machine(true));
    let (handle, cached_handle) = (machine.port.handle(), cached.port.handle());
    let inputs = addresses(effort.operations, pages, 8);
    let near = |address: Iova| Iova(address.align_down(0x1000).0 + address.offset_in(256));
    let inputs: Vec<Iova> = inputs.into_iter().map(near).collect();
    let requests: Vec<_> = inputs.iter().copied().map(read_request).collect();
    let columns = measure(
        effort,
        &mut [
            ("walk", &mut || {
                for request in &requests {
                    black_box(machine.remapper.walk(request)).expect("mapped");
                }
            }),
            ("miss", &mut || {
                handle_read(&handle, &inputs, &mut [0; 8]);
            }),
            ("miss, tables cached", &mut || {
                handle_read(&cached_handle, &inputs, &mut [0; 8]);
            }),
        ],
    );
    let work = "8 B, IOTLB miss".into();
    Row { work, columns }
}

/// The library's own IOTLB behind its lock.
#[derive(Debug)]
struct Peer(RwLock<iommu::Iotlb>);

impl Peer {
    fn memory(memory: &Arc<GuestMemoryMmap>, pages: u64) -> IommuMemory<GuestMemoryMmap, Self> {
        let mut iotlb = iommu::Iotlb::new();
        for page in 0..pages {
            let input = GuestAddress(page << 12);
            iotlb
                .set_mapping(
                    input,
                    output(Iova(page << 12)),
                    4096,
                    Permissions::ReadWrite,
                )
                .expect("a page");
        }
        IommuMemory::new(
            GuestMemoryMmap::clone(memory),
            Self(RwLock::new(iotlb)),
            true,
            (),
        )
    }
}

impl Iommu for Peer {
    type IotlbGuard<'a> = RwLockReadGuard<'a, iommu::Iotlb>;

    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: Permissions,
    ) -> Result<IotlbIterator<Self::IotlbGuard<'_>>, iommu::Error> {
        let iotlb = self.0.read().expect("no holder panics");
        iommu::Iotlb::lookup(iotlb, iova, length, access).map_err(|fails| {
            iommu::Error::CannotResolve {
                iova_range: fails
                    .misses
                    .first()
                    .or(fails.access_fails.first())
                    .expect("a cause")
                    .clone(),
                reason: "not mapped".into(),
            }
        })
    }
}
