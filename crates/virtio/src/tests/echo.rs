//! A device that writes back what it reads, and whose configuration is four bytes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vm_iommu_dma::DmaHandle;

use crate::{Chain, DeviceType, Features, QueueError, Served, VirtQueue, VirtioDevice};

pub(super) struct Echo {
    pub(super) sizes: Vec<u16>,
    pub(super) config: Mutex<[u8; 4]>,
    /// What was negotiated, while active.
    pub(super) features: AtomicU64,
    pub(super) active: AtomicBool,
    pub(super) resets: AtomicU64,
    /// Chains seen, by the lengths of their parts.
    pub(super) seen: Mutex<Vec<(u64, u64)>>,
}

impl Echo {
    pub(super) const OWN_FEATURE: Features = Features::bit(3);

    pub(super) fn new(sizes: &[u16]) -> Arc<Self> {
        Arc::new(Self {
            sizes: sizes.to_vec(),
            config: Mutex::new([1, 2, 3, 4]),
            features: AtomicU64::new(0),
            active: AtomicBool::new(false),
            resets: AtomicU64::new(0),
            seen: Mutex::default(),
        })
    }

    fn echo(&self, dma: &DmaHandle, chain: &Chain) -> u32 {
        let lens = (chain.readable.len(), chain.writable.len());
        self.seen.lock().unwrap().push(lens);
        let len = lens.0.min(lens.1).min(4096) as usize;
        let mut bytes = vec![0; len];
        let read = chain.readable.cursor().read(dma, &mut bytes);
        let written = read.and_then(|()| chain.writable.cursor().write(dma, &bytes));
        if written.is_ok() { len as u32 } else { 0 }
    }
}

impl VirtioDevice for Echo {
    fn device_type(&self) -> DeviceType {
        DeviceType::ENTROPY
    }

    fn name(&self) -> &str {
        "echo"
    }

    fn class_code(&self) -> u32 {
        0xff_0000
    }

    fn features(&self) -> Features {
        Self::OWN_FEATURE
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn config_len(&self) -> u16 {
        4
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let from = usize::from(offset);
        data.copy_from_slice(&self.config.lock().unwrap()[from..from + data.len()]);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let from = usize::from(offset);
        self.config.lock().unwrap()[from..from + data.len()].copy_from_slice(data);
    }

    fn activate(&self, features: Features) {
        self.features.store(features.bits(), Ordering::SeqCst);
        assert!(!self.active.swap(true, Ordering::SeqCst));
    }

    fn process(&self, _index: u16, queue: &mut VirtQueue) -> Result<Served, QueueError> {
        assert!(self.active.load(Ordering::SeqCst));
        queue.serve(4, |dma, chain| self.echo(dma, chain))
    }

    fn reset(&self) {
        self.active.store(false, Ordering::SeqCst);
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}
