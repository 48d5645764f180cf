//! Ports and memory-mapped registers: the bus that processors' exits reach, and the platform's
//! own small devices.

mod bus;
mod console;
mod exit_device;
mod fw_cfg;
mod power;
mod serial;
mod signals;
#[cfg(test)]
mod tests;

pub use bus::{Bus, BusBuilder, BusCounters, BusError};
pub use console::{Console, ConsoleInput, EscapeFilter};
pub use exit_device::ExitDevice;
pub use fw_cfg::FwCfg;
pub use power::PowerControl;
pub use serial::SerialPort;

pub(crate) use console::{InputThread, RawMode};
pub(crate) use signals::HostSignals;
