//! The firmware configuration device, as far as bare-metal test programs ask it: the number of
//! processors and the size of memory (QEMU's `docs/specs/fw_cfg.rst`, traditional interface).

use std::sync::{Mutex, PoisonError};

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use crate::config::MachineConfig;

/// Offsets of the ports: a 16-bit selector, and the bytes of the selected item one by one.
const SELECTOR: u16 = 0;
const DATA: u16 = 1;

/// Items.
const SIGNATURE: u16 = 0x00;
const INTERFACES: u16 = 0x01;
const RAM_SIZE: u16 = 0x03;
const CPU_COUNT: u16 = 0x05;
const MOST_CPUS: u16 = 0x0f;

/// The device.
pub struct FwCfg {
    items: [(u16, Vec<u8>); 5],
    state: Mutex<Position>,
}

/// The item selected, and how far it was read.
#[derive(Default)]
struct Position {
    item: u16,
    offset: usize,
}

impl FwCfg {
    /// A device that describes the machine of `config`.
    pub fn new(config: &MachineConfig) -> Self {
        let cpus = config.cpus.to_le_bytes().to_vec();
        Self {
            items: [
                (SIGNATURE, b"QEMU".to_vec()),
                // Bit 0: the traditional interface, and no other.
                (INTERFACES, 1_u32.to_le_bytes().to_vec()),
                (RAM_SIZE, config.memory.bytes().to_le_bytes().to_vec()),
                (CPU_COUNT, cpus.clone()),
                (MOST_CPUS, cpus),
            ],
            state: Mutex::default(),
        }
    }

    fn next(&self, position: &mut Position) -> u8 {
        let content = self.items.iter().find(|(item, _)| *item == position.item);
        let byte = content.and_then(|(_, bytes)| bytes.get(position.offset));
        position.offset = position.offset.saturating_add(1);
        // Past its end, and without content, an item reads as zeros.
        byte.copied().unwrap_or(0)
    }
}

impl DevicePio for FwCfg {
    fn pio_read(&self, _base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        if offset == DATA {
            let mut position = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            data.fill_with(|| self.next(&mut position));
        }
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if let (SELECTOR, &[low, high]) = (offset, data) {
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Position {
                item: u16::from_le_bytes([low, high]),
                offset: 0,
            };
        }
    }
}
