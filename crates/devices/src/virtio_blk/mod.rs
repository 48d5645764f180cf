//! A virtio block device over a raw image (virtio 1.2, section 5.2).
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//! use vm_iommu_devices::{IoThread, QueueEvents, VirtioBlk};
//! use vm_iommu_virtio::{Features, VirtioPci};
//! # fn add(port: Arc<vm_iommu_dma::DmaPort>) -> Result<(), Box<dyn std::error::Error>> {
//! let disk = VirtioBlk::open(Path::new("disk.img"), false, 4)?;
//! let function = VirtioPci::new(disk, port, Features::ACCESS_PLATFORM)?;
//! let thread = IoThread::spawn("disk")?;
//! thread.add(QueueEvents::new(function))?;
//! # Ok(())
//! # }
//! ```

mod backend;
mod config;
mod raw_file;
mod request;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
    VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use vm_iommu_virtio::{
    DeviceType, Features, LogBudget, QueueError, Served, VirtQueue, VirtioDevice,
};

pub use backend::BlockBackend;
pub use raw_file::{OpenError, RawFile};
pub use request::RequestError;

/// The unit of sector numbers and lengths, in bytes, whatever the block size.
pub const SECTOR: u64 = 512;
/// The most queues a device can have.
pub const MAX_QUEUES: u16 = 256;

/// Entries of each queue: enough for four of the largest requests without indirect descriptors.
const QUEUE_SIZE: u16 = 1024;
/// The most data segments of a request: beside its header and its status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 / 4 - 2;
/// The longest data segment in bytes.
const SIZE_MAX: u32 = 64 * 1024;
/// The most data of a request, in bytes: what a driver that keeps to both can ask for.
const MAX_DATA: u64 = SEG_MAX as u64 * SIZE_MAX as u64;
/// How much data lies between the guest and the backend at a time, in bytes.
const BOUNCE: usize = 256 * 1024;
/// Requests served before other queues of the same thread get a turn.
const BUDGET: usize = 16;
/// The most ranges of a discard.
const MAX_DISCARD_SEGMENTS: u32 = 32;
/// The most sectors of one range to discard: 1 GiB.
const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// The most sectors to fill with zeroes by one request: 32 MiB, for a backend that must write them.
const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 16;
/// The length of the identification string in bytes.
const ID_BYTES: usize = 20;

/// A block device.
pub struct VirtioBlk {
    backend: Box<dyn BlockBackend>,
    read_only: bool,
    /// Whole sectors of the backend.
    sectors: u64,
    queue_sizes: Vec<u16>,
    /// One for each queue; uncontended, since a queue is processed by one thread at a time.
    bounce: Vec<Mutex<Vec<u8>>>,
    id: [u8; ID_BYTES],
    /// Whether a completed write may still be lost with the host's power: the driver then sends
    /// flushes.
    writeback: AtomicBool,
    log: LogBudget,
}

impl VirtioBlk {
    /// A device over the raw image, or the block device, at `path`, with `queues` request queues.
    ///
    /// The image is locked against a second writer for as long as the device lives.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, read_only: bool, queues: u16) -> Result<Arc<Self>, OpenError> {
        let file = RawFile::open(path, read_only)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self::new(Box::new(file), read_only, queues, &name)
    }

    /// A device over `backend`. `id` is what the driver reads as its serial number, 20 bytes at
    /// most.
    ///
    /// # Errors
    /// [`OpenError::Queues`] or [`OpenError::Empty`].
    pub fn new(
        backend: Box<dyn BlockBackend>,
        read_only: bool,
        queues: u16,
        id: &str,
    ) -> Result<Arc<Self>, OpenError> {
        if queues == 0 || queues > MAX_QUEUES {
            return Err(OpenError::Queues { queues });
        }
        let sectors = backend.len() / SECTOR;
        if sectors == 0 {
            return Err(OpenError::Empty { len: backend.len() });
        }
        let mut bytes = [0; ID_BYTES];
        for (to, from) in bytes.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        Ok(Arc::new(Self {
            backend,
            read_only,
            sectors,
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            bounce: (0..queues).map(|_| Mutex::new(vec![0; BOUNCE])).collect(),
            id: bytes,
            writeback: AtomicBool::new(true),
            log: LogBudget::default(),
        }))
    }

    /// The capacity in sectors of 512 bytes. An incomplete last sector is not counted.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }
}

impl VirtioDevice for VirtioBlk {
    fn device_type(&self) -> DeviceType {
        DeviceType::BLOCK
    }

    fn name(&self) -> &str {
        "virtio-blk"
    }

    fn class_code(&self) -> u32 {
        // Mass storage controller, SCSI: what drivers of virtio block devices are used to.
        0x01_00_00
    }

    fn features(&self) -> Features {
        let always = [
            VIRTIO_BLK_F_SIZE_MAX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_MQ,
        ];
        let kind: &[u32] = if self.read_only {
            &[VIRTIO_BLK_F_RO]
        } else {
            &[
                VIRTIO_BLK_F_FLUSH,
                VIRTIO_BLK_F_CONFIG_WCE,
                VIRTIO_BLK_F_DISCARD,
                VIRTIO_BLK_F_WRITE_ZEROES,
            ]
        };
        always
            .iter()
            .chain(kind)
            .map(|&bit| Features::bit(bit))
            .collect()
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config_len(&self) -> u16 {
        config::LEN as u16
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let bytes = self.config_bytes();
        let rest = bytes.get(usize::from(offset)..).unwrap_or_default();
        for (to, &from) in data.iter_mut().zip(rest) {
            *to = from;
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        if usize::from(offset) == config::WRITEBACK
            && let [mode] = data
            && !self.read_only
        {
            self.writeback.store(mode & 1 != 0, Ordering::Release);
        }
    }

    fn activate(&self, features: Features) {
        let flush = Features::bit(VIRTIO_BLK_F_FLUSH);
        let mode = Features::bit(VIRTIO_BLK_F_CONFIG_WCE);
        if !features.intersects(flush | mode) {
            // A driver that knows neither takes a completed write for a safe one.
            self.writeback.store(false, Ordering::Release);
        }
    }

    fn process(&self, index: u16, queue: &mut VirtQueue) -> Result<Served, QueueError> {
        let Some(bounce) = self.bounce.get(usize::from(index)) else {
            return Ok(Served::default());
        };
        let mut bounce = bounce.lock().unwrap_or_else(PoisonError::into_inner);
        queue.serve(BUDGET, |dma, chain| self.request(dma, chain, &mut bounce))
    }

    fn reset(&self) {
        self.writeback.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
