//! The `edu` device: PCI 1234:11e8, as QEMU's `docs/specs/edu` describes it.
//!
//! It computes factorials, raises interrupts, and copies between memory and a 4 KiB buffer of its
//! own. All work is done when the register is written: a factorial takes at most 33
//! multiplications, a transfer at most 4 KiB.

mod registers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_iommu_dma::{DmaHandle, DmaPort, Upstream};
use vm_iommu_pci::{Bar, BuildError, ConfigBuilder, ConfigSpace, Identity, PciFunction, PortKind};
use vm_iommu_spec::{Fault, Iova};

use registers::{Command, Register, Status};

/// Size of BAR 0 in bytes.
const BAR_SIZE: u32 = 1 << 20;
/// Where the buffer lies among the device's own addresses.
const BUFFER_START: u64 = 0x4_0000;
/// The buffer's size in bytes.
const BUFFER_SIZE: usize = 4096;
/// Identification: version 1.0 in the upper half.
const IDENTIFICATION: u32 = 0x0100_00ed;
/// The interrupt status bit of a finished factorial.
const INTERRUPT_FACTORIAL: u32 = 1;
/// The interrupt status bit of a finished transfer.
const INTERRUPT_DMA: u32 = 0x100;

/// What can be chosen about an `edu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EduConfig {
    /// The bus address bits that the device drives; the others are dropped from what software
    /// programs.
    pub dma_mask: u64,
}

impl Default for EduConfig {
    /// 28 bits.
    fn default() -> Self {
        Self {
            dma_mask: (1 << 28) - 1,
        }
    }
}

/// The device.
pub struct Edu {
    config: ConfigSpace,
    port: Arc<DmaPort>,
    dma_mask: u64,
    state: Mutex<State>,
}

struct State {
    handle: DmaHandle,
    buffer: Box<[u8; BUFFER_SIZE]>,
    registers: Registers,
    last_fault: Option<Fault>,
}

/// What reset clears.
#[derive(Clone, Copy, Default)]
struct Registers {
    /// As written; it reads inverted.
    liveness: u32,
    factorial: u32,
    status: Status,
    interrupts: u32,
    source: u64,
    destination: u64,
    count: u64,
    command: Command,
}

/// Which way a transfer goes, with where it meets memory and where the buffer.
struct Transfer {
    memory: Iova,
    buffer: std::ops::Range<usize>,
    to_memory: bool,
}

impl Edu {
    /// An `edu` whose DMA and interrupts go to `upstream`.
    ///
    /// # Errors
    /// None in practice; those of [`ConfigBuilder::build`].
    pub fn new(config: EduConfig, upstream: Upstream) -> Result<Self, BuildError> {
        let port = DmaPort::new(upstream);
        let identity = Identity {
            vendor: 0x1234,
            device: 0x11e8,
            revision: 0x10,
            class: 0x00_ff_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        let bar = Bar::Memory32 {
            size: BAR_SIZE,
            prefetchable: false,
        };
        let config_space = ConfigBuilder::endpoint(identity)
            .bar(0, bar)
            .interrupt_pin(1)
            .msi(1)
            .pcie(PortKind::Endpoint)
            .build(&port)?;
        Ok(Self {
            config: config_space,
            dma_mask: config.dma_mask,
            state: Mutex::new(State {
                handle: port.handle(),
                buffer: Box::new([0; BUFFER_SIZE]),
                registers: Registers::default(),
                last_fault: None,
            }),
            port,
        })
    }

    /// The fault that stopped the last transfer, if one did. A transfer that succeeds, or a
    /// reset, forgets it.
    pub fn last_fault(&self) -> Option<Fault> {
        self.state().last_fault
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, register: Register) -> u64 {
        let registers = self.state().registers;
        match register {
            Register::Identification => IDENTIFICATION.into(),
            Register::Liveness => (!registers.liveness).into(),
            Register::Factorial => registers.factorial.into(),
            Register::Status => registers.status.bits().into(),
            Register::InterruptStatus => registers.interrupts.into(),
            Register::InterruptRaise | Register::InterruptAcknowledge => u64::MAX,
            Register::DmaSource => registers.source,
            Register::DmaDestination => registers.destination,
            Register::DmaCount => registers.count,
            Register::DmaCommand => registers.command.bits(),
        }
    }

    fn write(&self, register: Register, value: u64) {
        let mut state = self.state();
        let registers = &mut state.registers;
        match register {
            Register::Identification | Register::InterruptStatus => {}
            Register::Liveness => registers.liveness = value as u32,
            Register::Factorial => {
                registers.factorial = factorial(value as u32);
                if registers.status.contains(Status::INTERRUPT) {
                    self.raise(&mut state, INTERRUPT_FACTORIAL);
                }
            }
            Register::Status => {
                registers.status = Status::from_bits_truncate(value as u32) & Status::INTERRUPT;
            }
            Register::InterruptRaise => self.raise(&mut state, value as u32),
            Register::InterruptAcknowledge => {
                registers.interrupts &= !(value as u32);
                if registers.interrupts == 0 {
                    self.config.interrupts().set_level(false);
                }
            }
            Register::DmaSource => registers.source = value,
            Register::DmaDestination => registers.destination = value,
            Register::DmaCount => registers.count = value,
            Register::DmaCommand => {
                registers.command = Command::from_bits_truncate(value);
                if registers.command.contains(Command::START) {
                    self.run(&mut state);
                }
            }
        }
    }

    fn raise(&self, state: &mut State, bits: u32) {
        state.registers.interrupts |= bits;
        if state.registers.interrupts != 0 {
            self.config.interrupts().set_level(true);
            self.config.interrupts().signal(0);
        }
    }

    /// Runs the transfer that the registers describe. It ends, and raises its interrupt if asked,
    /// whether or not it succeeds.
    fn run(&self, state: &mut State) {
        // Beyond the buffer nothing moves, as on a bus where nothing answers.
        if let Some(transfer) = self.transfer(&state.registers) {
            let bytes = &mut state.buffer[transfer.buffer];
            let outcome = if transfer.to_memory {
                state.handle.write(transfer.memory, bytes)
            } else {
                state.handle.read(transfer.memory, bytes)
            };
            state.last_fault = outcome.err().map(|partial| partial.fault);
            state.handle.park();
        }
        let command = &mut state.registers.command;
        command.remove(Command::START);
        if command.contains(Command::INTERRUPT) {
            self.raise(state, INTERRUPT_DMA);
        }
    }

    /// The transfer that the registers describe; `None` if it leaves the buffer.
    fn transfer(&self, registers: &Registers) -> Option<Transfer> {
        let to_memory = registers.command.contains(Command::TO_MEMORY);
        let (memory, buffer) = if to_memory {
            (registers.destination, registers.source)
        } else {
            (registers.source, registers.destination)
        };
        let start = buffer.checked_sub(BUFFER_START)?;
        let end = start.checked_add(registers.count)?;
        (end <= BUFFER_SIZE as u64).then_some(Transfer {
            memory: Iova(memory & self.dma_mask),
            buffer: start as usize..end as usize,
            to_memory,
        })
    }
}

/// `n!` modulo 2^32: zero from 34 on, which has 32 factors of two.
fn factorial(n: u32) -> u32 {
    if n >= 34 {
        return 0;
    }
    (1..=n).fold(1, u32::wrapping_mul)
}

impl PciFunction for Edu {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn port(&self) -> &Arc<DmaPort> {
        &self.port
    }

    fn read_bar(&self, _bar: u8, offset: u64, data: &mut [u8]) {
        let value = match Register::at(offset, data.len()) {
            Some(register) => self.read(register),
            None => u64::MAX,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn write_bar(&self, _bar: u8, offset: u64, data: &[u8]) {
        if let Some(register) = Register::at(offset, data.len()) {
            // A doubleword written to a 64-bit register clears its upper half.
            let mut value = [0; 8];
            value[..data.len()].copy_from_slice(data);
            self.write(register, u64::from_le_bytes(value));
        }
    }

    fn reset(&self) {
        let mut state = self.state();
        state.registers = Registers::default();
        state.buffer.fill(0);
        state.last_fault = None;
    }

    fn name(&self) -> &str {
        "edu"
    }
}

#[cfg(test)]
mod tests;
