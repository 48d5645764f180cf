//! The sleep and reset registers of hardware-reduced ACPI (ACPI 6.5, 4.8.3.7 and 4.8.3.6).

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use crate::machine::{Ending, StopSwitch};
use crate::throttle::Throttle;
use crate::{acpi, layout};

/// Sleep control, sleep status and reset, three ports from
/// [`layout::ACPI_SLEEP_CONTROL`](crate::layout::ACPI_SLEEP_CONTROL).
pub struct PowerControl {
    stop: StopSwitch,
    log: Throttle,
}

impl PowerControl {
    /// Registers that throw `stop`.
    pub fn new(stop: StopSwitch) -> Self {
        Self {
            stop,
            log: Throttle::default(),
        }
    }

    fn sleep(&self, value: u8) {
        if acpi::is_power_off(value) {
            self.stop.stop(Ending::PowerOff);
        } else if value & acpi::SLEEP_ENABLE != 0 && self.log.passes() {
            log::debug!("the guest asked for a sleep state that there is not: {value:#x}");
        }
    }
}

impl DevicePio for PowerControl {
    fn pio_read(&self, _base: PioAddress, _offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(0);
    }

    fn pio_write(&self, base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        let &[value] = data else {
            return;
        };
        match base.0.checked_add(offset) {
            Some(layout::ACPI_SLEEP_CONTROL) => self.sleep(value),
            Some(layout::ACPI_RESET) if value == layout::ACPI_RESET_VALUE => {
                self.stop.stop(Ending::Reset);
            }
            // The status register's bits are cleared by writing them; none is ever set.
            _ => {}
        }
    }
}
