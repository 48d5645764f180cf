//! Feature bits.

use bitflags::bitflags;

/// Feature bits of a device: what it offers, or what was negotiated. 64 bits; the named ones
/// belong to the transport and the queues (virtio 1.2, chapter 6), the others to the device type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(u64);

bitflags! {
    impl Features: u64 {
        /// VIRTIO_F_INDIRECT_DESC: a descriptor may refer to a table of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// VIRTIO_F_EVENT_IDX: each side says at which index it wants to be notified.
        const EVENT_IDX = 1 << 29;
        /// VIRTIO_F_VERSION_1: not a legacy device.
        const VERSION_1 = 1 << 32;
        /// VIRTIO_F_ACCESS_PLATFORM: the device's addresses pass the platform's IOMMU.
        const ACCESS_PLATFORM = 1 << 33;
        /// VIRTIO_F_RING_RESET: a queue can be reset alone.
        const RING_RESET = 1 << 40;
        const _ = !0;
    }
}

impl Features {
    /// The feature of bit `bit`, below 64.
    #[must_use]
    pub const fn bit(bit: u32) -> Self {
        Self(1 << bit)
    }
}
