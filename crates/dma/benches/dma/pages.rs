//! Guest memory, and which of its pages are accessed: the same with and without an IOMMU.

use vm_iommu_spec::{Iova, PhysAddr};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// Bytes in each of the two regions.
const REGION: usize = 1 << 28;
/// Pages that mappings lead to, spread over both regions.
pub const TARGETS: u64 = 1 << 16;
/// How many pages are accessed, and how many bytes at a time.
pub const CASES: [(u64, u64); 5] = [(64, 64), (4096, 64), (65536, 64), (64, 4096), (4096, 4096)];

/// Two regions of guest memory.
pub fn memory() -> GuestMemoryMmap {
    let ranges = [0, 1 << 32].map(|start| (GuestAddress(start), REGION));
    GuestMemoryMmap::from_ranges(&ranges).expect("512 MiB")
}

/// The page that page `index` of the input addresses is mapped to; every page has its own.
pub fn target(index: u64) -> PhysAddr {
    let page = index.wrapping_mul(7919) % TARGETS;
    let region = if page.is_multiple_of(2) { 0 } else { 1 << 32 };
    PhysAddr(region + ((page / 2) << 12))
}

/// Random pages below `pages` and offsets that leave room for `size` bytes; the same each time.
pub fn addresses(count: usize, pages: u64, size: u64) -> Vec<Iova> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 8
    };
    (0..count)
        .map(|_| Iova(((next() % pages) << 12) + next() % (4096 - size + 1)))
        .collect()
}

/// Where an input address leads.
pub fn output(address: Iova) -> GuestAddress {
    GuestAddress(target(address.0 >> 12).0 + address.offset_in(1 << 12))
}
