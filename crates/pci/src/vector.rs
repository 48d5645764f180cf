//! One interrupt vector: what its table entry says, and where it leads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_iommu_dma::{DmaPort, MsiVector};
use vm_iommu_spec::{MsiMessage, RequesterId};

/// The Mask bit of an MSI-X entry's Vector Control (PCIe Base 5.0, section 7.7.2.9).
const ENTRY_MASKED: u32 = 1;

/// How a vector stands under the function's MSI or MSI-X control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// Neither MSI nor MSI-X is enabled for it.
    Off,
    /// MSI: this message, unless masked.
    Msi { message: MsiMessage, masked: bool },
    /// MSI-X: the table entry's message, unless the entry or the function is masked.
    MsiX { function_masked: bool },
}

pub(crate) struct Vector {
    route: Box<dyn MsiVector>,
    state: Mutex<State>,
}

struct State {
    setting: Setting,
    /// The MSI-X table entry: address, upper address, data, vector control.
    entry: [u32; 4],
    pending: bool,
    /// What the route was last told.
    configured: Option<(RequesterId, MsiMessage)>,
}

impl Vector {
    pub(crate) fn new(route: Box<dyn MsiVector>) -> Self {
        Self {
            route,
            state: Mutex::new(State {
                setting: Setting::Off,
                entry: [0, 0, 0, ENTRY_MASKED],
                pending: false,
                configured: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises the interrupt, or notes it while it is masked. It is lost while interrupts are
    /// disabled, or the function may not write to memory.
    pub(crate) fn signal(&self, port: &DmaPort) {
        let mut state = self.state();
        if state.configured.is_some() {
            if port.refusal().is_none() {
                self.route.signal();
            }
        } else if state.setting != Setting::Off {
            state.pending = true;
        }
    }

    /// Applies a change of the function's control, or of who the function is.
    pub(crate) fn set(&self, setting: Setting, port: &DmaPort) {
        let mut state = self.state();
        if std::mem::discriminant(&state.setting) != std::mem::discriminant(&setting) {
            state.pending = false;
        }
        state.setting = setting;
        self.apply(&mut state, port);
    }

    /// Tells the route who raises what now, if that changed, and delivers what is pending.
    fn apply(&self, state: &mut State, port: &DmaPort) {
        let message = match state.setting {
            Setting::Off | Setting::Msi { masked: true, .. } => None,
            Setting::Msi { message, .. } => Some(message),
            Setting::MsiX { function_masked } => {
                (!function_masked && state.entry[3] & ENTRY_MASKED == 0).then(|| MsiMessage {
                    address: u64::from(state.entry[1]) << 32 | u64::from(state.entry[0]),
                    data: state.entry[2],
                })
            }
        };
        let target = message.map(|message| (port.requester(), message));
        if state.configured != target {
            self.route.configure(target);
            state.configured = target;
        }
        if target.is_some() && std::mem::take(&mut state.pending) && port.refusal().is_none() {
            self.route.signal();
        }
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.state().pending
    }

    pub(crate) fn entry(&self) -> [u32; 4] {
        self.state().entry
    }

    /// Writes doublewords of the MSI-X entry, from the one numbered `first`.
    pub(crate) fn write_entry(&self, first: usize, words: &[u32], port: &DmaPort) {
        let mut state = self.state();
        for (index, &word) in words.iter().enumerate() {
            let value = match first + index {
                // The two low address bits are zero always: section 7.7.2.5.
                0 => word & !3,
                3 => word & ENTRY_MASKED,
                _ => word,
            };
            if let Some(slot) = state.entry.get_mut(first + index) {
                *slot = value;
            }
        }
        self.apply(&mut state, port);
    }

    /// Back to power-on: disabled, the entry masked, nothing pending.
    pub(crate) fn reset(&self, port: &DmaPort) {
        let mut state = self.state();
        state.setting = Setting::Off;
        state.entry = [0, 0, 0, ENTRY_MASKED];
        state.pending = false;
        self.apply(&mut state, port);
    }
}
