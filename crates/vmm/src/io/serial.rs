//! The serial port: a 16550 whose output is the console.

use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::interrupt::Line;
use crate::kvm::KvmError;
use crate::throttle::Throttle;

/// The interrupt line as the UART uses it: every event is an edge.
struct Edge(Line);

impl Trigger for Edge {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.pulse();
        Ok(())
    }
}

/// Tells the input thread that the guest emptied the receive buffer.
struct Room(EventFd);

impl SerialEvents for Room {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        if let Err(error) = self.0.write(1) {
            log::debug!("the console's input goes on later: {error}");
        }
    }
}

/// Notes when the first byte came out.
struct Output {
    writer: Box<dyn Write + Send>,
    first: Arc<OnceLock<Instant>>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.first.get_or_init(Instant::now);
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

/// The serial port.
pub struct SerialPort {
    uart: Mutex<Serial<Edge, Room, Output>>,
    room: EventFd,
    first: Arc<OnceLock<Instant>>,
    log: Throttle,
}

impl SerialPort {
    /// A port that interrupts through `line` and writes to `writer`.
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn new(line: Line, writer: Box<dyn Write + Send>) -> Result<Self, KvmError> {
        let room =
            EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(KvmError::host("make an eventfd"))?;
        let told = room
            .try_clone()
            .map_err(KvmError::host("share an eventfd"))?;
        let first = Arc::new(OnceLock::new());
        let output = Output {
            writer,
            first: Arc::clone(&first),
        };
        Ok(Self {
            uart: Mutex::new(Serial::with_events(Edge(line), Room(told), output)),
            room,
            first,
            log: Throttle::default(),
        })
    }

    /// When the first byte came out, if one did.
    pub fn first_byte(&self) -> Option<Instant> {
        self.first.get().copied()
    }

    /// Bytes that can be received before the guest must read.
    pub fn capacity(&self) -> usize {
        self.uart().fifo_capacity()
    }

    /// Receives bytes; how many of them fitted.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        match self.uart().enqueue_raw_bytes(bytes) {
            Ok(count) => count,
            Err(error) => {
                log::debug!("the serial port takes no input: {error}");
                0
            }
        }
    }

    /// Becomes readable whenever the guest has emptied the receive buffer.
    pub(crate) fn room(&self) -> &EventFd {
        &self.room
    }

    fn uart(&self) -> MutexGuard<'_, Serial<Edge, Room, Output>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DevicePio for SerialPort {
    fn pio_read(&self, _base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        // All registers are a byte wide; a wider access meets consecutive ones.
        let mut uart = self.uart();
        for (register, byte) in (offset as u8..8).zip(data) {
            *byte = uart.read(register);
        }
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        let mut uart = self.uart();
        for (register, byte) in (offset as u8..8).zip(data) {
            if let Err(error) = uart.write(register, *byte)
                && self.log.passes()
            {
                log::debug!("a byte of console output is lost: {error}");
            }
        }
    }
}
