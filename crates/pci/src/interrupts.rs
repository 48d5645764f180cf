//! A function's interrupts: MSI and MSI-X (PCIe Base 5.0, sections 6.1.4, 7.7.1 and 7.7.2), and
//! its wired pin.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_iommu_dma::DmaPort;
use vm_iommu_spec::MsiMessage;

use crate::MsixLayout;
use crate::intx::IntxPin;
use crate::vector::{Setting, Vector};

/// A function's interrupt vectors, whichever of MSI and MSI-X the guest enables.
///
/// Each message is raised by the function's live requester id and only while it may issue
/// requests. A vector that fires while masked is pending and raised when unmasked; one that fires
/// while neither MSI nor MSI-X is enabled is lost. A device that has a wired pin keeps its level
/// up to date besides ([`set_level`](Self::set_level)): it counts while the others are disabled.
pub struct Interrupts {
    port: Arc<DmaPort>,
    vectors: Vec<Vector>,
    msix: Option<MsixLayout>,
    control: Mutex<Control>,
    pub(crate) pin: IntxPin,
}

/// What the control registers of both capabilities say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) msi: Option<MsiControl>,
    /// Whether MSI-X is enabled; with Function Mask.
    pub(crate) msix: Option<bool>,
    /// The command register's Interrupt Disable.
    pub(crate) intx_disabled: bool,
}

/// MSI, enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MsiControl {
    pub(crate) message: MsiMessage,
    /// Vectors that software enabled, a power of two.
    pub(crate) vectors: u8,
    /// Mask bits by vector.
    pub(crate) masked: u32,
}

impl Control {
    fn setting(&self, vector: usize) -> Setting {
        match (self.msix, self.msi) {
            (Some(function_masked), _) => Setting::MsiX { function_masked },
            (None, Some(msi)) if vector < usize::from(msi.vectors) => Setting::Msi {
                message: MsiMessage {
                    address: msi.message.address,
                    // The function replaces the low bits with the vector's number.
                    data: msi.message.data & !(u32::from(msi.vectors) - 1) | vector as u32,
                },
                masked: msi.masked >> vector & 1 != 0,
            },
            _ => Setting::Off,
        }
    }
}

impl Interrupts {
    pub(crate) fn new(port: &Arc<DmaPort>, msi: u8, msix: Option<MsixLayout>) -> Arc<Self> {
        let count = u16::from(msi).max(msix.map_or(0, |layout| layout.vectors));
        let vectors = (0..count)
            .map(|_| Vector::new(port.upstream().msi.vector()))
            .collect();
        let pin = IntxPin::default();
        pin.enable(true);
        Arc::new(Self {
            port: Arc::clone(port),
            vectors,
            msix,
            control: Mutex::default(),
            pin,
        })
    }

    /// How many vectors the function declares.
    pub fn vectors(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// Whether the guest has enabled MSI-X.
    pub fn is_msix_enabled(&self) -> bool {
        self.control().msix.is_some()
    }

    /// Whether the guest has enabled MSI or MSI-X.
    pub fn is_enabled(&self) -> bool {
        let control = self.control();
        control.msix.is_some() || control.msi.is_some()
    }

    /// Raises `vector`. With MSI, where the guest may enable fewer vectors than the function
    /// declares, the higher ones fold onto those. A number that was never declared does nothing.
    /// May be called from inside a DMA epoch.
    pub fn signal(&self, vector: u16) {
        let control = *self.control();
        let index = match (control.msix, control.msi) {
            (None, Some(msi)) => usize::from(vector) & (usize::from(msi.vectors).max(1) - 1),
            _ => usize::from(vector),
        };
        if let Some(vector) = self.vectors.get(index) {
            vector.signal(&self.port);
        }
    }

    /// Sets the level of the wired pin: whether the device asks for service. Nothing comes of it
    /// while MSI or MSI-X is enabled, or Interrupt Disable is set.
    pub fn set_level(&self, asserted: bool) {
        self.pin.assert(asserted);
    }

    /// Whether `vector` fired while masked, and has not been raised since.
    pub fn is_pending(&self, vector: u16) -> bool {
        self.vectors
            .get(usize::from(vector))
            .is_some_and(Vector::is_pending)
    }

    /// Reads the MSI-X structures, if the access begins in one; unaligned ones read as stored.
    pub fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) -> bool {
        match self.place(bar, offset) {
            Some(Place::Table(start)) => {
                self.fill(data, start, |index| {
                    let entry = self.vectors.get(index / 16).map_or([0; 4], Vector::entry);
                    entry[index / 4 % 4].to_le_bytes()[index % 4]
                });
                true
            }
            Some(Place::Pending(start)) => {
                self.fill(data, start, |index| {
                    (0..8).fold(0, |byte, bit| {
                        let vector = self.vectors.get(index * 8 + bit);
                        byte | u8::from(vector.is_some_and(Vector::is_pending)) << bit
                    })
                });
                true
            }
            None => false,
        }
    }

    /// Writes the MSI-X structures, if the access begins in one. Only aligned doublewords and
    /// quadwords write (section 7.7.2.2: anything else is undefined); pending bits are read-only.
    pub fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> bool {
        let place = self.place(bar, offset);
        if let Some(Place::Table(start)) = place
            && matches!(data.len(), 4 | 8)
            && start.is_multiple_of(data.len())
            && let Some(vector) = self.vectors.get(start / 16)
        {
            let (words, _) = data.as_chunks::<4>();
            let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
            vector.write_entry(start / 4 % 4, &words, &self.port);
        }
        place.is_some()
    }

    /// Applies the capabilities' registers.
    pub(crate) fn set_control(&self, control: Control) {
        let mut current = self.control();
        if *current != control {
            *current = control;
            self.apply(&current);
        }
    }

    /// Applies a change of the port: of its requester id, or of whether it may issue requests.
    pub(crate) fn refresh(&self) {
        self.apply(&self.control());
    }

    pub(crate) fn reset(&self) {
        let mut control = self.control();
        *control = Control::default();
        for vector in &self.vectors {
            vector.reset(&self.port);
        }
        self.pin.assert(false);
        self.pin.enable(true);
    }

    fn apply(&self, control: &Control) {
        for (index, vector) in self.vectors.iter().enumerate() {
            vector.set(control.setting(index), &self.port);
        }
        let message_signalled = control.msi.is_some() || control.msix.is_some();
        self.pin
            .enable(!message_signalled && !control.intx_disabled);
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, bar: u8, offset: u64) -> Option<Place> {
        let layout = self.msix?;
        let within = |start: u32, len: u64| {
            let index = offset.checked_sub(u64::from(start))?;
            (index < len).then_some(index as usize)
        };
        if bar == layout.table_bar
            && let Some(index) = within(layout.table_offset, layout.table_len())
        {
            return Some(Place::Table(index));
        }
        if bar == layout.pba_bar {
            return within(layout.pba_offset, layout.pba_len()).map(Place::Pending);
        }
        None
    }

    fn fill(&self, data: &mut [u8], start: usize, byte: impl Fn(usize) -> u8) {
        for (index, slot) in data.iter_mut().enumerate() {
            *slot = byte(start + index);
        }
    }
}

/// A byte of one of the MSI-X structures.
enum Place {
    Table(usize),
    Pending(usize),
}
