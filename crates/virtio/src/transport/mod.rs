//! A virtio device as a PCI function.

mod common;
mod layout;
mod slot;
mod window;

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET};
use vm_iommu_dma::DmaPort;
use vm_iommu_pci::{BuildError, ConfigSpace, Doorbell, PciFunction};
use vmm_sys_util::eventfd::EventFd;

use crate::{Features, LogBudget, Progress, QueueError, VirtioDevice};
use common::Common;
use layout::{NOTIFY_MULTIPLIER, Region, STRUCTURES_BAR};
use slot::QueueSlot;

/// The most queues a device can have: each has a notification address in one page.
pub const MAX_QUEUES: u16 = 1024;

/// No MSI-X vector.
const NO_VECTOR: u16 = 0xffff;

const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;

/// Bits of the ISR status (section 4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Why there is no function.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NewError {
    /// The device has no queue, too many, or one of a size that no queue can have.
    #[error("a device cannot have queues of these sizes: {sizes:?}")]
    Queues {
        /// The largest size of each.
        sizes: Vec<u16>,
    },
    /// Its configuration space is longer than 4096 bytes.
    #[error("a configuration space of {len} bytes")]
    ConfigLen {
        /// Its length in bytes.
        len: u16,
    },
    /// The config space could not be laid out.
    #[error(transparent)]
    Config(#[from] BuildError),
    /// The host gave no event.
    #[error("cannot create an event")]
    Event(#[from] io::Error),
}

/// A PCI function around a [`VirtioDevice`]: modern only, 1af4:1040 and up, interrupts by
/// MSI-X, or by INTA while that is disabled.
///
/// BAR 0 holds the structures, BAR 2 the MSI-X table. The register side (vCPUs) and the queue
/// side ([`process_queue`](Self::process_queue)) may run on different threads.
pub struct VirtioPci {
    device: Arc<dyn VirtioDevice>,
    port: Arc<DmaPort>,
    config: ConfigSpace,
    /// The offset of the capability that accesses the BAR through config space.
    window: u16,
    offered: Features,
    // Whoever processes a queue holds its slot's lock, and never takes the common lock. The
    // register side takes the common lock first and slots' locks within it.
    common: Mutex<Common>,
    status: AtomicU8,
    /// Locked while the wired pin follows it, else the two could end apart.
    isr: Mutex<u8>,
    generation: AtomicU8,
    config_vector: AtomicU16,
    slots: Vec<QueueSlot>,
    log: LogBudget,
}

impl VirtioPci {
    /// A function around `device`, with `port` to memory. `offer` says which of two features the
    /// transport offers beside those it always does. With [`Features::ACCESS_PLATFORM`], what the
    /// device puts on the bus is translated, and the driver must use the platform's addresses.
    /// With [`Features::INDIRECT_DESC`], the driver may put descriptors into tables of their own,
    /// which saves it room in the queue; where addresses are translated, each such table is one more
    /// mapping that it makes and one more invalidation that it waits for.
    ///
    /// # Errors
    /// See [`NewError`].
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        port: Arc<DmaPort>,
        offer: Features,
    ) -> Result<Arc<Self>, NewError> {
        let sizes = device.queue_sizes();
        let possible = |size: &u16| size.is_power_of_two();
        if sizes.is_empty() || sizes.len() > MAX_QUEUES.into() || !sizes.iter().all(possible) {
            return Err(NewError::Queues {
                sizes: sizes.to_vec(),
            });
        }
        let len = device.config_len();
        if len > 4096 {
            return Err(NewError::ConfigLen { len });
        }
        let (config, window) = layout::config_space(device.as_ref(), &port)?;
        let offered = device.features()
            | offer & (Features::ACCESS_PLATFORM | Features::INDIRECT_DESC)
            | Features::EVENT_IDX
            | Features::VERSION_1
            | Features::RING_RESET;
        Ok(Arc::new(Self {
            common: Mutex::new(Common::new(sizes)),
            slots: sizes
                .iter()
                .map(|&size| QueueSlot::new(size))
                .collect::<io::Result<_>>()?,
            port,
            config,
            window,
            offered,
            status: AtomicU8::new(0),
            isr: Mutex::default(),
            generation: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            log: LogBudget::default(),
            device,
        }))
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn VirtioDevice> {
        &self.device
    }

    /// How many queues it has.
    #[must_use]
    pub fn queues(&self) -> u16 {
        // Bounded by MAX_QUEUES.
        self.slots.len() as u16
    }

    /// The event that a kick of queue `index` sets: its counter is to be read, then the queue
    /// processed.
    #[must_use]
    pub fn event(&self, index: u16) -> Option<&Arc<EventFd>> {
        Some(&self.slots.get(usize::from(index))?.event)
    }

    /// Serves a bounded number of requests of queue `index`, and interrupts the driver if it
    /// wants that. May block on the device's backend.
    pub fn process_queue(&self, index: u16) -> Progress {
        let Some(slot) = self.slots.get(usize::from(index)) else {
            return Progress::Idle;
        };
        // Held until the interrupt is raised: after a reset, none comes.
        let mut queue = slot.lock();
        let Some(queue) = queue.as_mut() else {
            return Progress::Idle;
        };
        if self.status() & (DRIVER_OK | NEEDS_RESET) != DRIVER_OK {
            return Progress::Idle;
        }
        match self.device.process(index, queue) {
            Ok(served) => {
                if served.interrupt {
                    self.interrupt_queue(slot);
                }
                served.progress
            }
            Err(error) => {
                self.fail(index, &error);
                Progress::Idle
            }
        }
    }

    /// Tells the driver that the device's configuration space changed.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if self.status() & DRIVER_OK != 0 {
            self.interrupt_config();
        }
    }

    /// Whether the device stopped because of what it found in a queue (DEVICE_NEEDS_RESET).
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.status() & NEEDS_RESET != 0
    }

    fn status(&self) -> u8 {
        self.status.load(Ordering::SeqCst)
    }

    fn add_status(&self, bits: u8) {
        self.status.fetch_or(bits, Ordering::SeqCst);
    }

    fn common(&self) -> MutexGuard<'_, Common> {
        self.common.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A queue cannot be used: the device stops until it is reset (section 2.1.2).
    fn fail(&self, index: u16, error: &QueueError) {
        self.log.warn(format_args!(
            "{} queue {index}: {error}; the device needs a reset",
            self.device.name()
        ));
        self.add_status(NEEDS_RESET);
        if self.status() & DRIVER_OK != 0 {
            self.interrupt_config();
        }
    }

    fn interrupt_queue(&self, slot: &QueueSlot) {
        let interrupts = self.config.interrupts();
        if !interrupts.is_msix_enabled() {
            self.set_isr(|isr| *isr |= ISR_QUEUE);
        }
        interrupts.signal(slot.vector.load(Ordering::Acquire));
    }

    fn interrupt_config(&self) {
        self.set_isr(|isr| *isr |= ISR_CONFIG);
        let vector = self.config_vector.load(Ordering::Acquire);
        self.config.interrupts().signal(vector);
    }

    /// Changes the ISR status; the wired pin follows.
    fn set_isr<R>(&self, change: impl FnOnce(&mut u8) -> R) -> R {
        let mut isr = self.isr.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut isr);
        self.config.interrupts().set_level(*isr != 0);
        result
    }

    /// The part of an access that lies in the device's configuration space, as its offset and
    /// length.
    fn device_range(&self, offset: u64, len: usize) -> Option<(u16, usize)> {
        let offset = u16::try_from(offset).ok()?;
        let rest = self.device.config_len().checked_sub(offset)?;
        Some((offset, len.min(rest.into())))
    }
}

impl PciFunction for VirtioPci {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn port(&self) -> &Arc<DmaPort> {
        &self.port
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if bar != STRUCTURES_BAR {
            return;
        }
        match Region::at(offset) {
            Some((Region::Common, offset)) => self.read_common(offset, data),
            Some((Region::Isr, 0)) => {
                if let Some(first) = data.first_mut() {
                    *first = self.set_isr(std::mem::take);
                }
            }
            Some((Region::Device, offset)) => {
                if let Some((offset, len)) = self.device_range(offset, data.len()) {
                    self.device.read_config(offset, &mut data[..len]);
                }
            }
            _ => {}
        }
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        if bar != STRUCTURES_BAR {
            return;
        }
        match Region::at(offset) {
            Some((Region::Common, offset)) => self.write_common(offset, data),
            Some((Region::Device, offset)) => {
                if let Some((offset, len)) = self.device_range(offset, data.len()) {
                    self.device.write_config(offset, &data[..len]);
                }
            }
            Some((Region::Notify, offset)) => {
                let multiplier = u64::from(NOTIFY_MULTIPLIER);
                let slot = self.slots.get((offset / multiplier) as usize);
                if let (Some(slot), 0) = (slot, offset % multiplier) {
                    slot.kick();
                }
            }
            _ => {}
        }
    }

    fn reset(&self) {
        self.reset_with(&mut self.common());
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) {
        match self.window_data(offset) {
            Some(at) => self.read_window(at, data),
            None => self.config.read(offset, data),
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        match self.window_data(offset) {
            Some(at) => self.write_window(at, data),
            None => self.config.write(offset, data),
        }
    }

    fn doorbells(&self) -> Vec<Doorbell> {
        (0_u64..)
            .zip(&self.slots)
            .map(|(index, slot)| Doorbell {
                bar: STRUCTURES_BAR,
                offset: Region::Notify.start() + index * u64::from(NOTIFY_MULTIPLIER),
                len: 2,
                datamatch: None,
                event: Arc::clone(&slot.event),
            })
            .collect()
    }

    fn name(&self) -> &str {
        self.device.name()
    }
}
