//! Config space: what the guest reads, and what its writes may change.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitflags::bitflags;
use vm_iommu_spec::MsiMessage;

use crate::interrupts::{Control, MsiControl};
use crate::layout::{Bytes, Image, Layout};
use crate::registers::*;
use crate::{AcsFlags, BarState, Decode, Interrupts, PortKind};

bitflags! {
    /// What a config write asks of the fabric.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Effects: u8 {
        /// Decoding, bus numbers or bus mastering changed.
        const ROUTING = 1;
        /// A function-level reset was initiated.
        const FUNCTION_RESET = 1 << 1;
        /// The bridge's secondary bus was put into reset.
        const BUS_RESET = 1 << 2;
    }
}

/// What a bridge forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeState {
    /// Bus number behind the bridge.
    pub secondary: u8,
    /// The highest bus number behind the bridge.
    pub subordinate: u8,
    /// Memory window, if it is open; not yet qualified by Memory Space Enable.
    pub memory: Option<RangeInclusive<u64>>,
    /// Prefetchable memory window, if it is open.
    pub prefetchable: Option<RangeInclusive<u64>>,
    /// I/O window, if it is open.
    pub io: Option<RangeInclusive<u64>>,
    /// Whether the secondary bus is held in reset.
    pub in_reset: bool,
}

/// One function's config space: a header, capabilities, and extended capabilities.
///
/// Shared by the function and the fabric. Accesses of any offset and length are safe: bytes past
/// the end read as ones and drop writes.
pub struct ConfigSpace {
    state: Mutex<State>,
    writable: Box<Bytes>,
    layout: Layout,
    interrupts: Arc<Interrupts>,
}

struct State {
    values: Box<Bytes>,
    /// What a reset restores.
    power_on: Box<Bytes>,
    effects: Effects,
}

impl State {
    fn u8(&self, offset: u16) -> u8 {
        self.values
            .get(usize::from(offset))
            .copied()
            .unwrap_or(0xff)
    }

    fn u16(&self, offset: u16) -> u16 {
        u16::from_le_bytes([self.u8(offset), self.u8(offset + 1)])
    }

    fn u32(&self, offset: u16) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset + 2)) << 16
    }

    fn command(&self) -> Command {
        Command::from_bits_truncate(self.u16(COMMAND))
    }
}

impl ConfigSpace {
    pub(crate) fn new(image: Image, layout: Layout, interrupts: Arc<Interrupts>) -> Self {
        Self {
            state: Mutex::new(State {
                values: image.values.clone(),
                power_on: image.values,
                effects: Effects::empty(),
            }),
            writable: image.writable,
            layout,
            interrupts,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads bytes from `offset`.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let state = self.state();
        for (index, byte) in data.iter_mut().enumerate() {
            let at = usize::from(offset).saturating_add(index);
            *byte = state.values.get(at).copied().unwrap_or(0xff);
        }
        drop(state);
        let status = usize::from(STATUS).checked_sub(usize::from(offset));
        if let Some(byte) = status.and_then(|index| data.get_mut(index))
            && self.interrupts.pin.is_asserted()
        {
            *byte |= STATUS_INTERRUPT;
        }
        if let Some(msi) = self.layout.msi {
            self.overlay_pending(msi + 0x14, offset, data);
        }
    }

    /// The MSI pending bits live with the vectors.
    fn overlay_pending(&self, register: u16, offset: u16, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            let at = usize::from(offset).saturating_add(index);
            if let Some(byte_of_register) = at.checked_sub(usize::from(register))
                && byte_of_register < 4
            {
                *byte = (0..8).fold(0, |bits, bit| {
                    let vector = (byte_of_register * 8 + bit) as u16;
                    bits | u8::from(self.interrupts.is_pending(vector)) << bit
                });
            }
        }
    }

    /// Reads the byte at `offset`.
    pub fn read_u8(&self, offset: u16) -> u8 {
        let mut data = [0];
        self.read(offset, &mut data);
        data[0]
    }

    /// Reads two bytes from `offset`.
    pub fn read_u16(&self, offset: u16) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// Reads four bytes from `offset`.
    pub fn read_u32(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes bytes from `offset`, as software does: only writable bits change. Interrupts follow
    /// at once; what concerns the fabric waits in [`take_effects`](Self::take_effects).
    pub fn write(&self, offset: u16, data: &[u8]) {
        let mut state = self.state();
        let before = self.decoding(&state);
        let reset_before = self.is_bus_in_reset(&state);
        for (index, byte) in data.iter().enumerate() {
            let at = usize::from(offset).saturating_add(index);
            if let (Some(slot), Some(mask)) = (state.values.get_mut(at), self.writable.get(at)) {
                *slot = *slot & !mask | byte & mask;
            }
        }
        if self.decoding(&state) != before {
            state.effects |= Effects::ROUTING;
        }
        if self.is_bus_in_reset(&state) && !reset_before {
            state.effects |= Effects::BUS_RESET;
        }
        if self.initiates_reset(offset, data) {
            state.effects |= Effects::FUNCTION_RESET;
        }
        // Under the lock, so that concurrent writes reach the vectors in the order of the bits.
        self.interrupts.set_control(self.control(&state));
    }

    /// Whether the write sets Initiate Function Level Reset: bit 15 of Device Control.
    fn initiates_reset(&self, offset: u16, data: &[u8]) -> bool {
        self.layout.function_reset
            && self.layout.pcie.is_some_and(|pcie| {
                usize::from(pcie + 9)
                    .checked_sub(usize::from(offset))
                    .and_then(|index| data.get(index))
                    .is_some_and(|byte| byte & 0x80 != 0)
            })
    }

    fn is_bus_in_reset(&self, state: &State) -> bool {
        self.layout.bridge && state.u16(BRIDGE_CONTROL) & BRIDGE_CONTROL_SECONDARY_RESET != 0
    }

    /// The registers on which the fabric's routing depends: what is disabled does not count.
    fn decoding(&self, state: &State) -> ([u32; 12], Command) {
        let mut registers = [0; 12];
        let command = state.command() & (Command::IO | Command::MEMORY | Command::BUS_MASTER);
        let header = if self.layout.bridge { 12 } else { 6 };
        let decodes = command.intersects(Command::IO | Command::MEMORY);
        if decodes || self.layout.bridge {
            for (index, slot) in registers.iter_mut().enumerate().take(header) {
                *slot = state.u32(BAR0 + index as u16 * 4);
            }
        }
        if self.layout.bridge {
            registers[11] = u32::from(self.is_bus_in_reset(state));
        }
        (registers, command)
    }

    fn control(&self, state: &State) -> Control {
        let msi = self.layout.msi.and_then(|msi| {
            let control = state.u16(msi + 2);
            (control & 1 != 0).then(|| {
                let capable = control >> 1 & 7;
                MsiControl {
                    message: MsiMessage {
                        address: u64::from(state.u32(msi + 8)) << 32
                            | u64::from(state.u32(msi + 4)),
                        data: u32::from(state.u16(msi + 0xc)),
                    },
                    // Software may write more than the function is capable of.
                    vectors: 1 << (control >> 4 & 7).min(capable),
                    masked: state.u32(msi + 0x10),
                }
            })
        });
        let msix = self.layout.msix.and_then(|msix| {
            let control = state.u16(msix + 2);
            (control & 1 << 15 != 0).then_some(control & 1 << 14 != 0)
        });
        Control {
            msi,
            msix,
            intx_disabled: state.command().contains(Command::INTX_DISABLE),
        }
    }

    /// What writes since the last call ask of the fabric.
    pub fn take_effects(&self) -> Effects {
        std::mem::take(&mut self.state().effects)
    }

    /// Back to power-on: command, BARs, bus numbers, interrupts.
    pub(crate) fn reset(&self) {
        let mut state = self.state();
        let State {
            values, power_on, ..
        } = &mut *state;
        values.copy_from_slice(&power_on[..]);
        self.interrupts.reset();
    }

    /// Changes bits that only the function's place decides, for good.
    pub(crate) fn place(&self, offset: u16, clear: u8, set: u8) {
        let mut state = self.state();
        let State {
            values, power_on, ..
        } = &mut *state;
        for image in [values, power_on] {
            if let Some(byte) = image.get_mut(usize::from(offset)) {
                *byte = *byte & !clear | set;
            }
        }
    }

    /// The interrupt vectors.
    pub fn interrupts(&self) -> &Arc<Interrupts> {
        &self.interrupts
    }

    /// The command register.
    pub fn command(&self) -> Command {
        self.state().command()
    }

    /// The declared base address registers, as they stand.
    pub fn bars(&self) -> Vec<BarState> {
        let state = self.state();
        let command = state.command();
        let declared = self.layout.bars.iter().enumerate();
        declared
            .filter_map(|(index, bar)| {
                let bar = (*bar)?;
                let register = BAR0 + index as u16 * 4;
                let high = if bar.is_64_bit() {
                    u64::from(state.u32(register + 4)) << 32
                } else {
                    0
                };
                Some(BarState {
                    index: index as u8,
                    bar,
                    address: (high | u64::from(state.u32(register))) & !(bar.size() - 1),
                    enabled: command.contains(match bar.decode() {
                        Decode::Memory => Command::MEMORY,
                        Decode::Io => Command::IO,
                    }),
                })
            })
            .collect()
    }

    /// What the bridge forwards; `None` for functions with a type 0 header.
    pub fn bridge(&self) -> Option<BridgeState> {
        if !self.layout.bridge {
            return None;
        }
        let state = self.state();
        let open = |base: u64, limit: u64| (base <= limit).then_some(base..=limit);
        let megabytes = |register| u64::from(state.u16(register) & 0xfff0) << 16;
        let upper = |register| u64::from(state.u32(register)) << 32;
        let ports = |register| u64::from(state.u8(register) & 0xf0) << 8;
        Some(BridgeState {
            secondary: state.u8(SECONDARY_BUS),
            subordinate: state.u8(SUBORDINATE_BUS),
            memory: open(megabytes(MEMORY_BASE), megabytes(MEMORY_LIMIT) | 0xf_ffff),
            prefetchable: open(
                upper(PREFETCHABLE_BASE_UPPER) | megabytes(PREFETCHABLE_BASE),
                upper(PREFETCHABLE_LIMIT_UPPER) | megabytes(PREFETCHABLE_LIMIT) | 0xf_ffff,
            ),
            io: open(ports(IO_BASE), ports(IO_LIMIT) | 0xfff),
            in_reset: self.is_bus_in_reset(&state),
        })
    }

    /// Device/Port Type; `None` for conventional PCI functions.
    pub fn port_kind(&self) -> Option<PortKind> {
        let (kind, pcie) = (self.layout.kind?, self.layout.pcie?);
        let integrated = self.state().u8(pcie + 2) >> 4 == PortKind::IntegratedEndpoint as u8;
        Some(if integrated {
            PortKind::IntegratedEndpoint
        } else {
            kind
        })
    }

    /// The ACS capability and control registers, if the function has them.
    pub fn acs(&self) -> Option<(AcsFlags, AcsFlags)> {
        let acs = self.layout.acs?;
        let state = self.state();
        let flags = |register| AcsFlags::from_bits_truncate(state.u16(register));
        Some((flags(acs + 4), flags(acs + 6)))
    }

    /// The offset of the PCI Express capability, if there is one.
    pub fn pcie_capability(&self) -> Option<u16> {
        self.layout.pcie
    }

    /// The offset of the MSI-X capability, if there is one.
    pub fn msix_capability(&self) -> Option<u16> {
        self.layout.msix
    }

    /// The offset of the MSI capability, if there is one.
    pub fn msi_capability(&self) -> Option<u16> {
        self.layout.msi
    }
}
