//! The exit device: a write ends the machine.

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use crate::machine::{Ending, StopSwitch};

/// Ends the machine with what is written to it, up to four bytes wide.
pub struct ExitDevice {
    stop: StopSwitch,
}

impl ExitDevice {
    /// A device that throws `stop`.
    pub fn new(stop: StopSwitch) -> Self {
        Self { stop }
    }
}

impl DevicePio for ExitDevice {
    fn pio_read(&self, _base: PioAddress, _offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(0);
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if offset != 0 {
            return;
        }
        let mut bytes = [0; 4];
        for (byte, value) in bytes.iter_mut().zip(data) {
            *byte = *value;
        }
        let value = u32::from_le_bytes(bytes);
        self.stop.stop(Ending::ExitDevice { value });
    }
}
