//! What a device type brings; the transport does the rest.

use crate::{Features, QueueError, VirtQueue};

/// A device type's number (virtio 1.2, chapter 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceType(pub u16);

impl DeviceType {
    /// A network card.
    pub const NETWORK: Self = Self(1);
    /// A block device.
    pub const BLOCK: Self = Self(2);
    /// A console.
    pub const CONSOLE: Self = Self(3);
    /// A source of entropy.
    pub const ENTROPY: Self = Self(4);
    /// An IOMMU.
    pub const IOMMU: Self = Self(23);
}

/// Whether a queue was served to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "requests may be left that no later kick announces"]
pub enum Progress {
    /// Nothing is left; the next kick announces more.
    #[default]
    Idle,
    /// The budget was spent and requests may be left. The driver was not asked to kick for them:
    /// process the queue again.
    More,
}

/// What one call to [`VirtQueue::serve`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Served {
    /// Whether requests may be left.
    pub progress: Progress,
    /// Whether the driver wants an interrupt for what was completed.
    pub interrupt: bool,
}

/// A virtio device without its transport: features, configuration space and what its requests do.
///
/// The transport owns the queues, and calls the device with one of them at a time. Several queues
/// may be processed at once, by different threads; one queue never is. Between
/// [`reset`](Self::reset) and [`activate`](Self::activate) nothing is processed.
pub trait VirtioDevice: Send + Sync {
    /// What it is.
    fn device_type(&self) -> DeviceType;

    /// A short name for reports.
    fn name(&self) -> &str;

    /// The PCI class code: class, subclass, programming interface; 24 bits.
    fn class_code(&self) -> u32;

    /// The features it offers, beside those that the transport adds: version 1, indirect
    /// descriptors, event index, ring reset and platform access.
    fn features(&self) -> Features;

    /// The largest size of each queue in entries, powers of two up to 32768. One entry a queue,
    /// 1 to [`MAX_QUEUES`](crate::MAX_QUEUES).
    fn queue_sizes(&self) -> &[u16];

    /// The length of the configuration space in bytes, at most 4096.
    fn config_len(&self) -> u16;

    /// Reads from the configuration space. The transport keeps the range inside
    /// [`config_len`](Self::config_len).
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Writes to the configuration space; by default nothing is writable. The range is as for
    /// [`read_config`](Self::read_config).
    fn write_config(&self, offset: u16, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready (DRIVER_OK) and these features were negotiated.
    fn activate(&self, features: Features);

    /// Serves a bounded number of requests of queue `index`, by [`VirtQueue::serve`].
    ///
    /// # Errors
    /// The ring itself could not be used; the device then needs a reset.
    fn process(&self, index: u16, queue: &mut VirtQueue) -> Result<Served, QueueError>;

    /// Back to the state before [`activate`](Self::activate). Nothing is being processed.
    fn reset(&self);
}
