//! What an access costs without any IOMMU, in a program that holds nothing else: what else a
//! program does decides how the compiler treats the library's generic code.
//!
//! `cargo xtask bench dma` runs it beside the bench `dma`; `--json` prints one object a row.

#[path = "../dma/buffer.rs"]
mod buffer;
#[path = "../dma/measure.rs"]
mod measure;
#[path = "../dma/pages.rs"]
mod pages;
#[allow(dead_code)]
#[path = "../dma/ring.rs"]
mod ring;

use std::hint::black_box;

use buffer::Buffer;
use measure::{Effort, Row, measure, print};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

#[inline(never)]
fn read(memory: &GuestMemoryMmap, addresses: &[GuestAddress], buffer: &mut [u8]) {
    for &address in addresses {
        memory.read_slice(buffer, address).expect("memory");
        black_box(&*buffer);
    }
}

#[inline(never)]
fn write(memory: &GuestMemoryMmap, addresses: &[GuestAddress], buffer: &[u8]) {
    for &address in addresses {
        memory
            .write_slice(black_box(buffer), address)
            .expect("memory");
    }
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let effort = Effort {
        rounds: 101,
        operations: 10_000,
    };
    let memory = pages::memory();
    for page in 0..pages::TARGETS {
        let address = GuestAddress(pages::target(page).0);
        memory.write_obj(page, address).expect("memory");
    }
    for (pages, size) in pages::CASES {
        let inputs = pages::addresses(effort.operations, pages, size);
        let outputs: Vec<_> = inputs.into_iter().map(pages::output).collect();
        let (mut buffer, data) = (Buffer::new(0, size), Buffer::new(1, size));
        let reads = measure(
            effort,
            &mut [("raw", &mut || read(&memory, &outputs, &mut buffer))],
        );
        let writes = measure(
            effort,
            &mut [("raw", &mut || write(&memory, &outputs, &data))],
        );
        for (verb, columns) in [("read", reads), ("write", writes)] {
            let work = format!("{verb} {size} B, {pages} pages");
            print(&Row { work, columns }, json);
        }
    }
    let mut queue = ring::lay_out(&memory).raw;
    let columns = measure(
        effort,
        &mut [("raw", &mut || {
            queue.turn(effort.operations, |queue| ring::one(queue, &memory));
        })],
    );
    let work = "virtio-queue pop, 512 B, add_used".into();
    print(&Row { work, columns }, json);
}
