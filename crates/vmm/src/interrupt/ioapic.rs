//! The I/O APIC, in user space so that its messages pass interrupt remapping.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset};
use vm_iommu_spec::{Interrupt, MsiMessage, RequesterId, TriggerMode};

use super::{MsiRouter, Redirection};
use crate::kvm::IOAPIC_PINS;
use crate::layout;
use crate::throttle::Throttle;

/// Registers in memory: index, data, end of interrupt.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

/// Registers behind the index.
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const REDIRECTION: u8 = 0x10;

/// A version that has the end-of-interrupt register, and the number of the last pin.
const VERSION_VALUE: u32 = 0x20 | (IOAPIC_PINS as u32 - 1) << 16;

/// Where the pins' messages go.
pub trait PinSink: Send + Sync {
    /// Raises one interrupt; what it became, if it was not refused.
    fn raise(&self, requester: RequesterId, message: MsiMessage) -> Option<Interrupt>;

    /// Tells what a level-triggered pin sends from now on, so that the end of its interrupt is
    /// told; `None` if it is not level-triggered.
    fn follow(&self, pin: usize, source: Option<(RequesterId, MsiMessage)>);
}

impl PinSink for MsiRouter {
    fn raise(&self, requester: RequesterId, message: MsiMessage) -> Option<Interrupt> {
        self.raise(0, requester, message)
    }

    fn follow(&self, pin: usize, source: Option<(RequesterId, MsiMessage)>) {
        self.set_pin(pin, source);
    }
}

#[derive(Clone, Copy, Default)]
struct Pin {
    entry: Redirection,
    asserted: bool,
    /// The vector that the processor got, which is the one that it ends.
    delivered: Option<u8>,
}

struct State {
    select: u8,
    id: u32,
    pins: [Pin; IOAPIC_PINS],
}

/// The I/O APIC.
///
/// Its lock is held while a message is remapped and delivered; nothing that it calls comes back.
pub struct IoApic {
    sink: Arc<dyn PinSink>,
    requester: RequesterId,
    state: Mutex<State>,
    log: Throttle,
}

impl IoApic {
    /// An I/O APIC after reset: all pins masked. Its messages come from `requester`.
    pub fn new(requester: RequesterId, sink: Arc<dyn PinSink>) -> Arc<Self> {
        Arc::new(Self {
            sink,
            requester,
            state: Mutex::new(State {
                select: 0,
                id: u32::from(layout::IOAPIC_ID) << 24,
                pins: [Pin::default(); IOAPIC_PINS],
            }),
            log: Throttle::default(),
        })
    }

    /// The line to a pin; `None` if there is no such pin.
    pub fn line(self: &Arc<Self>, pin: u32) -> Option<Line> {
        let pin = pin as usize;
        (pin < IOAPIC_PINS).then(|| Line {
            apic: Arc::clone(self),
            pin,
        })
    }

    /// A processor ended the interrupt with this vector, and told so by itself because the
    /// interrupt was delivered as level-triggered.
    pub fn end_of_interrupt(&self, vector: u8) {
        self.end(|pin| pin.delivered == Some(vector));
    }

    /// The redirection entry of a pin, for reports and tests.
    pub fn entry(&self, pin: usize) -> Option<Redirection> {
        self.state().pins.get(pin).map(|pin| pin.entry)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, which: impl Fn(&Pin) -> bool) {
        for pin in &mut self.state().pins {
            if pin.entry.remote_irr() && which(pin) {
                pin.entry.set_remote_irr(false);
                pin.delivered = None;
                self.service(pin);
            }
        }
    }

    /// Sends what a level-triggered pin has to send.
    fn service(&self, pin: &mut Pin) {
        if pin.asserted
            && pin.entry.trigger() == TriggerMode::Level
            && !pin.entry.is_masked()
            && !pin.entry.remote_irr()
            && let Some(interrupt) = self.sink.raise(self.requester, pin.entry.message())
        {
            pin.entry.set_remote_irr(true);
            pin.delivered = Some(interrupt.vector);
        }
    }

    fn set_line(&self, index: usize, asserted: bool) {
        let mut state = self.state();
        let Some(pin) = state.pins.get_mut(index) else {
            return;
        };
        let rises = asserted && !pin.asserted;
        pin.asserted = asserted;
        match pin.entry.trigger() {
            TriggerMode::Level => self.service(pin),
            // An edge on a masked pin is lost, as the datasheet says.
            TriggerMode::Edge if rises && !pin.entry.is_masked() => {
                self.sink.raise(self.requester, pin.entry.message());
            }
            TriggerMode::Edge => {}
        }
    }

    fn read_register(&self) -> u32 {
        let state = self.state();
        match state.select {
            ID | ARBITRATION => state.id,
            VERSION => VERSION_VALUE,
            select => match state.pins.get(pin_of(select)) {
                Some(pin) if select & 1 != 0 => (pin.entry.raw() >> 32) as u32,
                Some(pin) => pin.entry.raw() as u32,
                None => u32::MAX,
            },
        }
    }

    fn write_register(&self, value: u32) {
        let mut state = self.state();
        let select = state.select;
        if select == ID {
            state.id = value & 0x0f00_0000;
            return;
        }
        let index = pin_of(select);
        let Some(pin) = state.pins.get_mut(index) else {
            return;
        };
        pin.entry.write_half(select & 1 != 0, value);
        if pin.entry.is_masked() {
            // What it sent before may still have to end.
            return;
        }
        let source = match pin.entry.trigger() {
            TriggerMode::Level => Some((self.requester, pin.entry.message())),
            TriggerMode::Edge => None,
        };
        self.sink.follow(index, source);
        self.service(pin);
    }
}

/// The pin whose entry a register index belongs to; past the last pin for other registers.
fn pin_of(select: u8) -> usize {
    match select.checked_sub(REDIRECTION) {
        Some(offset) => usize::from(offset / 2),
        None => usize::MAX,
    }
}

impl DeviceMmio for IoApic {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        let value = match offset {
            SELECT => u32::from(self.state().select),
            WINDOW => self.read_register(),
            _ => 0,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        let mut bytes = [0; 4];
        for (byte, value) in bytes.iter_mut().zip(data) {
            *byte = *value;
        }
        match offset {
            SELECT => self.state().select = bytes[0],
            // Registers are written whole.
            WINDOW if data.len() >= 4 => self.write_register(u32::from_le_bytes(bytes)),
            EOI => {
                let vector = bytes[0];
                self.end(|pin| pin.entry.vector() == vector);
            }
            _ if self.log.passes() => log::debug!("ignored I/O APIC write at {offset:#x}"),
            _ => {}
        }
    }
}

/// The line from a device to a pin.
#[derive(Clone)]
pub struct Line {
    apic: Arc<IoApic>,
    pin: usize,
}

impl Line {
    /// Asserts or releases the line.
    pub fn set(&self, asserted: bool) {
        self.apic.set_line(self.pin, asserted);
    }

    /// Asserts and releases the line at once, for edge-triggered use.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}
