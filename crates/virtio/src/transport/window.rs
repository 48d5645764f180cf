//! Access to the structures through config space (virtio 1.2, section 4.1.4.9), for firmware that
//! cannot reach the BAR.

use vm_iommu_pci::PciFunction;

use super::VirtioPci;
use super::layout::{STRUCTURES_BAR, STRUCTURES_SIZE};

/// Offsets in the capability.
const BAR: u16 = 4;
const OFFSET: u16 = 8;
const LENGTH: u16 = 12;
const DATA: u16 = 16;
/// The length of the data register in bytes.
pub(super) const DATA_LEN: usize = 4;
/// The write mask of the capability's body, after its first two bytes: bar, offset, length.
pub(super) const WRITABLE: [u8; 14] = {
    let mut mask = [0xff; 14];
    mask[0] = 0;
    mask[1] = 0;
    mask[3] = 0;
    mask[4] = 0;
    mask[5] = 0;
    mask
};

impl VirtioPci {
    /// The offset of an access in the window's data register, if it is one.
    pub(super) fn window_data(&self, offset: u16) -> Option<usize> {
        let data = usize::from(offset).checked_sub(usize::from(self.window + DATA))?;
        (data < DATA_LEN).then_some(data)
    }

    /// Reads through the window; what does not name a register reads as zeroes.
    pub(super) fn read_window(&self, at: usize, data: &mut [u8]) {
        let mut bytes = [0; DATA_LEN];
        if let Some((offset, len)) = self.window_target() {
            self.read_bar(STRUCTURES_BAR, offset, &mut bytes[..len]);
        }
        for (to, from) in data.iter_mut().zip(bytes.iter().skip(at)) {
            *to = *from;
        }
    }

    /// Writes through the window.
    pub(super) fn write_window(&self, at: usize, data: &[u8]) {
        if let Some((offset, len)) = self.window_target()
            && at == 0
            && let Some(data) = data.get(..len)
        {
            self.write_bar(STRUCTURES_BAR, offset, data);
        }
    }

    /// The register that the window shows: its offset in the BAR, and its width.
    fn window_target(&self) -> Option<(u64, usize)> {
        let offset = self.config.read_u32(self.window + OFFSET);
        let len = self.config.read_u32(self.window + LENGTH);
        let fits = u64::from(offset) + u64::from(len) <= STRUCTURES_SIZE;
        (self.config.read_u8(self.window + BAR) == STRUCTURES_BAR
            && matches!(len, 1 | 2 | 4)
            && offset.is_multiple_of(len)
            && fits)
            .then_some((offset.into(), len as usize))
    }
}
