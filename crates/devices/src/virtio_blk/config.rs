//! The configuration space (virtio 1.2, section 5.2.4).

use std::sync::atomic::Ordering;

use super::{
    MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, MAX_WRITE_ZEROES_SECTORS, SECTOR, SEG_MAX, SIZE_MAX,
    VirtioBlk,
};

/// Its length in bytes: up to the fields of VIRTIO_BLK_F_WRITE_ZEROES.
pub(super) const LEN: usize = 60;
/// The offset of the cache mode, one byte.
pub(super) const WRITEBACK: usize = 32;

/// A physical block, in sectors, as a power of two: 4 KiB, the page size of hosts' file systems.
const PHYSICAL_BLOCK_EXP: u8 = 3;

impl VirtioBlk {
    pub(super) fn config_bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(0, &self.sectors.to_le_bytes());
        put(8, &SIZE_MAX.to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(24, &[PHYSICAL_BLOCK_EXP]);
        // The suggested least transfer, in blocks.
        put(26, &(1_u16 << PHYSICAL_BLOCK_EXP).to_le_bytes());
        put(WRITEBACK, &[self.writeback.load(Ordering::Acquire).into()]);
        put(34, &(self.queue_sizes.len() as u16).to_le_bytes());
        if !self.read_only {
            put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
            put(40, &MAX_DISCARD_SEGMENTS.to_le_bytes());
            put(44, &(1_u32 << PHYSICAL_BLOCK_EXP).to_le_bytes());
            put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
            put(52, &1_u32.to_le_bytes());
            // A write of zeroes may free the range.
            put(56, &[1]);
        }
        bytes
    }
}
