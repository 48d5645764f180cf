//! The common configuration structure (virtio 1.2, section 4.1.4.3), and the life of a device
//! that its status register drives (section 2.1).

use std::sync::atomic::Ordering;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK,
};
use vm_iommu_spec::Iova;

use super::{NO_VECTOR, VirtioPci};
use crate::{Features, QueueLayout};

/// Its length in bytes: up to queue_reset.
pub(super) const LEN: usize = 60;

const ACKNOWLEDGE: u8 = VIRTIO_CONFIG_S_ACKNOWLEDGE as u8;
const DRIVER: u8 = VIRTIO_CONFIG_S_DRIVER as u8;
const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;
const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;

/// What the driver programs, apart from what queues read while they are processed.
pub(super) struct Common {
    device_feature_select: u32,
    driver_feature_select: u32,
    /// By select value. Nothing is offered beyond 64 bits; the rest is kept to be refused.
    driver_features: [u32; 4],
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

#[derive(Clone, Copy)]
struct QueueRegisters {
    layout: QueueLayout,
    enabled: bool,
}

impl Common {
    pub(super) fn new(sizes: &[u16]) -> Self {
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: [0; 4],
            queue_select: 0,
            queues: sizes.iter().copied().map(QueueRegisters::new).collect(),
        }
    }

    fn accepted(&self) -> Features {
        let [low, high, ..] = self.driver_features;
        Features::from_bits_retain(u64::from(high) << 32 | u64::from(low))
    }

    fn selected(&mut self) -> Option<(u16, &mut QueueRegisters)> {
        let index = self.queue_select;
        Some((index, self.queues.get_mut(usize::from(index))?))
    }
}

impl QueueRegisters {
    fn new(size: u16) -> Self {
        Self {
            layout: QueueLayout {
                size,
                ..QueueLayout::default()
            },
            enabled: false,
        }
    }
}

/// The four bytes of `features` that a select register chooses.
fn selected_word(features: Features, select: u32) -> u32 {
    match select {
        0 => features.bits() as u32,
        1 => (features.bits() >> 32) as u32,
        _ => 0,
    }
}

impl VirtioPci {
    /// Reads of any width: none has an effect.
    pub(super) fn read_common(&self, offset: u64, data: &mut [u8]) {
        let image = self.common_image();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, byte) in data.iter_mut().zip(image.iter().skip(from)) {
            *to = *byte;
        }
    }

    fn common_image(&self) -> [u8; LEN] {
        let common = self.common();
        let mut image = [0; LEN];
        let mut put = |offset: usize, value: &[u8]| {
            image[offset..offset + value.len()].copy_from_slice(value);
        };
        let select = common.device_feature_select;
        put(0, &select.to_le_bytes());
        put(4, &selected_word(self.offered, select).to_le_bytes());
        let select = common.driver_feature_select;
        put(8, &select.to_le_bytes());
        let word = common.driver_features.get(select as usize).copied();
        put(12, &word.unwrap_or(0).to_le_bytes());
        let vector = self.config_vector.load(Ordering::Acquire);
        put(16, &vector.to_le_bytes());
        put(18, &(common.queues.len() as u16).to_le_bytes());
        put(20, &[self.status()]);
        put(21, &[self.generation.load(Ordering::Acquire)]);
        let index = common.queue_select;
        put(22, &index.to_le_bytes());
        let slot = self.slots.get(usize::from(index));
        let vector = slot.map_or(NO_VECTOR, |slot| slot.vector.load(Ordering::Acquire));
        put(26, &vector.to_le_bytes());
        // A queue that does not exist has size 0: that is how drivers find out.
        if let Some(queue) = common.queues.get(usize::from(index)) {
            put(24, &queue.layout.size.to_le_bytes());
            put(28, &u16::from(queue.enabled).to_le_bytes());
            put(30, &index.to_le_bytes());
            put(32, &queue.layout.descriptors.0.to_le_bytes());
            put(40, &queue.layout.available.0.to_le_bytes());
            put(48, &queue.layout.used.0.to_le_bytes());
        }
        image
    }

    /// Writes of a field's own width; 64-bit fields also by halves. Others are ignored.
    pub(super) fn write_common(&self, offset: u64, data: &[u8]) {
        let mut common = self.common();
        match (offset, data) {
            (0, &[a, b, c, d]) => {
                common.device_feature_select = u32::from_le_bytes([a, b, c, d]);
            }
            (8, &[a, b, c, d]) => {
                common.driver_feature_select = u32::from_le_bytes([a, b, c, d]);
            }
            (12, &[a, b, c, d]) if self.status() & FEATURES_OK == 0 => {
                let select = common.driver_feature_select as usize;
                if let Some(word) = common.driver_features.get_mut(select) {
                    *word = u32::from_le_bytes([a, b, c, d]);
                }
            }
            (16, &[a, b]) => {
                let vector = self.checked_vector(u16::from_le_bytes([a, b]));
                self.config_vector.store(vector, Ordering::Release);
            }
            (20, &[value]) => self.write_status(&mut common, value),
            (22, &[a, b]) => common.queue_select = u16::from_le_bytes([a, b]),
            (24..LEN_OFFSET, _) => self.write_queue(&mut common, offset, data),
            _ => self.log.warn(format_args!(
                "{}: write of {} bytes at {offset:#x} of the common structure ignored",
                self.device.name(),
                data.len()
            )),
        }
    }

    fn write_queue(&self, common: &mut Common, offset: u64, data: &[u8]) {
        let Some((index, queue)) = common.selected() else {
            return;
        };
        let Some(slot) = self.slots.get(usize::from(index)) else {
            return;
        };
        let layout = &mut queue.layout;
        match (offset, data) {
            (26, &[a, b]) => {
                let vector = self.checked_vector(u16::from_le_bytes([a, b]));
                slot.vector.store(vector, Ordering::Release);
            }
            (28, &[1, 0]) if !queue.enabled && self.status() & FEATURES_OK != 0 => {
                self.enable(common, index);
            }
            (58, &[1, 0]) if self.offered.contains(Features::RING_RESET) => {
                slot.stop();
                *queue = QueueRegisters::new(slot.max_size);
            }
            // What was enabled stays as it was until a reset.
            _ if queue.enabled => {}
            (24, &[a, b]) => {
                let size = u16::from_le_bytes([a, b]);
                if size.is_power_of_two() && size <= slot.max_size {
                    layout.size = size;
                }
            }
            (32..40, _) => write_address(&mut layout.descriptors, offset - 32, data),
            (40..48, _) => write_address(&mut layout.available, offset - 40, data),
            (48..56, _) => write_address(&mut layout.used, offset - 48, data),
            _ => {}
        }
    }

    fn enable(&self, common: &mut Common, index: u16) {
        let event_idx = common.accepted().contains(Features::EVENT_IDX);
        let place = usize::from(index);
        let (Some(queue), Some(slot)) = (common.queues.get_mut(place), self.slots.get(place))
        else {
            return;
        };
        match slot.start(&queue.layout, event_idx, self.port.handle()) {
            Ok(()) => {
                queue.enabled = true;
                if self.status() & DRIVER_OK != 0 {
                    slot.kick();
                }
            }
            Err(error) => self.fail(index, &error),
        }
    }

    fn write_status(&self, common: &mut Common, value: u8) {
        if value == 0 {
            self.reset_with(common);
            return;
        }
        self.add_status(value & (ACKNOWLEDGE | DRIVER | FAILED));
        if value & FEATURES_OK != 0 && self.are_acceptable(common) {
            self.add_status(FEATURES_OK);
        }
        let status = self.status();
        if value & DRIVER_OK != 0 && status & FEATURES_OK != 0 && status & DRIVER_OK == 0 {
            self.device.activate(common.accepted());
            self.add_status(DRIVER_OK);
            // A kick that came too early was lost.
            for (queue, slot) in common.queues.iter().zip(&self.slots) {
                if queue.enabled {
                    slot.kick();
                }
            }
        }
    }

    /// Whether the device works with what the driver accepted (sections 2.2.2 and 6.1).
    fn are_acceptable(&self, common: &Common) -> bool {
        let accepted = common.accepted();
        let required = self.offered & (Features::VERSION_1 | Features::ACCESS_PLATFORM);
        let acceptable = self.offered.contains(accepted)
            && common.driver_features[2..] == [0, 0]
            && accepted.contains(required);
        if !acceptable {
            self.log.warn(format_args!(
                "{}: the driver accepts features {:#x} of {:#x}, which cannot work",
                self.device.name(),
                accepted.bits(),
                self.offered.bits()
            ));
        }
        acceptable
    }

    /// Back to power-on. When it returns, nothing is in flight and nothing will complete.
    pub(super) fn reset_with(&self, common: &mut Common) {
        // Nothing more is begun; then what is in flight ends, and with it any late failure.
        self.status.store(0, Ordering::SeqCst);
        for slot in &self.slots {
            slot.stop();
            slot.vector.store(NO_VECTOR, Ordering::Release);
        }
        self.device.reset();
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        self.status.store(0, Ordering::SeqCst);
        self.set_isr(|isr| *isr = 0);
        *common = Common::new(self.device.queue_sizes());
    }

    /// A vector that the function has, or [`NO_VECTOR`]: what the driver reads back.
    fn checked_vector(&self, vector: u16) -> u16 {
        if vector < self.config.interrupts().vectors() {
            vector
        } else {
            NO_VECTOR
        }
    }
}

/// [`LEN`] as an offset.
const LEN_OFFSET: u64 = LEN as u64;

/// Writes a half or the whole of a 64-bit field.
fn write_address(field: &mut Iova, offset: u64, data: &[u8]) {
    let low = field.0 & 0xffff_ffff;
    match (offset, data) {
        (0, &[a, b, c, d]) => {
            field.0 = field.0 & !0xffff_ffff | u64::from(u32::from_le_bytes([a, b, c, d]));
        }
        (4, &[a, b, c, d]) => field.0 = u64::from(u32::from_le_bytes([a, b, c, d])) << 32 | low,
        (0, data) => {
            if let Ok(bytes) = <[u8; 8]>::try_from(data) {
                field.0 = u64::from_le_bytes(bytes);
            }
        }
        _ => {}
    }
}
