//! Accesses that hit, beside the same without any IOMMU, and misses.

use std::hint::black_box;

use vm_iommu_spec::Iova;
use vm_memory::{Bytes, GuestAddress};

use crate::Work;
use crate::machine::{Layout, Machine};
use crate::pages::output;
use crate::ring::{lay_out, one};

pub const WORK: &[Work] = &[
    Work {
        name: "dma-read-64-raw",
        run: |times| {
            let machine = Machine::new(FAR, 1 << 12);
            let memory = machine.ram.memory();
            let mut buffer = Buffer([0; 64]);
            for page in pages(times, NEAR) {
                memory.read_slice(&mut buffer.0, output(page)).unwrap();
                black_box(&buffer);
            }
        },
    },
    Work {
        name: "dma-read-64-remembered",
        run: |times| read(times, NEAR),
    },
    Work {
        name: "dma-read-64-iotlb",
        run: |times| read(times, FAR),
    },
    Work {
        name: "dma-write-64-remembered",
        run: |times| {
            let machine = Machine::new(FAR, 1 << 12);
            let handle = machine.warm(NEAR);
            let data = Buffer([1; 64]);
            for page in pages(times, NEAR) {
                handle.write(page, black_box(&data.0)).unwrap();
            }
        },
    },
    Work {
        name: "dma-session-read-64",
        run: |times| {
            let machine = Machine::new(FAR, 1 << 12);
            let mut handle = machine.warm(NEAR);
            let mut buffer = Buffer([0; 64]);
            for page in pages(times, NEAR) {
                let session = handle.session();
                session
                    .read_slice(&mut buffer.0, GuestAddress(page.0))
                    .unwrap();
                black_box(&buffer);
            }
        },
    },
    Work {
        name: "dma-miss-8",
        run: |times| miss(times, false),
    },
    Work {
        name: "dma-miss-8-tables-cached",
        run: |times| miss(times, true),
    },
    Work {
        name: "dma-invalidate-page",
        run: |times| {
            let machine = Machine::new(FAR, 1 << 12);
            machine.warm(FAR);
            for page in pages(times, FAR) {
                machine.remapper.drop_range(page, Iova(page.0 | 0xfff));
            }
        },
    },
    Work {
        name: "virtio-queue-raw",
        run: |times| {
            let machine = Machine::new(2048, 1 << 12);
            let memory = machine.ram.memory();
            let mut ring = lay_out(&memory).raw;
            ring.turn(times as usize, |queue| one(queue, &*memory));
        },
    },
    Work {
        name: "virtio-queue-session",
        run: |times| {
            let machine = Machine::new(2048, 1 << 12);
            let mut ring = lay_out(&machine.ram.memory()).translated;
            let mut handle = machine.warm(2048);
            ring.turn(times as usize, |queue| one(queue, &handle.session()));
        },
    },
];

/// Aligned, since a copy's instructions depend on that.
#[repr(align(64))]
struct Buffer([u8; 64]);

/// Pages that a handle remembers all of.
const NEAR: u64 = 32;
/// Pages of which it remembers none when they are used in turn, but that the IOTLB holds.
const FAR: u64 = 1024;
/// Sets of an IOTLB that holds all of these, while a handle remembers half as many.
const SETS: usize = FAR as usize / 2;

fn pages(times: u64, count: u64) -> impl Iterator<Item = Iova> {
    (0..times).map(move |turn| Iova((turn % count) << 12))
}

fn read(times: u64, count: u64) {
    let machine = Machine::new(FAR, SETS);
    let handle = machine.warm(count);
    let mut buffer = Buffer([0; 64]);
    for page in pages(times, count) {
        handle.read(page, &mut buffer.0).unwrap();
        black_box(&buffer);
    }
}

fn miss(times: u64, walk_cache: bool) {
    let machine = Machine::with(Layout {
        pages: FAR,
        targets: 64,
        sets: 1,
        walk_cache,
    });
    let handle = machine.warm(FAR);
    let mut buffer = [0; 8];
    for page in pages(times, FAR) {
        handle.read(page, &mut buffer).unwrap();
        black_box(&buffer);
    }
}
